"""Increase of perplexity against the limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from labctl.records.units import percent
from labctl.report.charts.base import Chart, name_rows
from labctl.report.charts.plot import ALARM, GREY, draw_mark, legend_above, look, new_figure
from labctl.report.figures import Figures
from labctl.report.findings import caption_lines, interval_kind, notices
from labctl.report.rules import judged
from labctl.report.text import interval, words
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLOSE = 2.2  # times the limit: what lies further right is left out of the close-up


def finding(records: Measured, figures: Figures, limit: float) -> str:
    """Title of the chart."""
    groups = {word: judged(figures, word) for word in ("pass", "undecided", "fail")}
    parts = [
        f"{words(groups[word])} {text[len(groups[word]) > 1]}"
        for word, text in (
            ("pass", ("stays under it", "stay under it")),
            ("undecided", ("is undecided", "are undecided")),
            ("fail", ("exceeds it", "exceed it")),
        )
        if groups[word]
    ]
    return f"Limit of {100 * limit:g} % more perplexity: {'; '.join(parts)}"


def draw(records: Measured, figures: Figures, limit: float, title: str) -> Figure | None:
    """Increase of perplexity with its interval against the limit; a close-up where the whole range hides it."""
    found = [
        (name, increase.pct, increase.low_pct, increase.high_pct)
        for name, row in figures.items()
        if (increase := row.increase) is not None
    ]
    if not found:
        return None
    parts = {
        name: (increase.text_low_pct, increase.text_high_pct)
        for name, row in figures.items()
        if (increase := row.increase) is not None and not increase.is_exact
    }
    kind = interval_kind(records)
    bar = 100 * limit
    top = max(value for _, value, _, _ in found)
    close_up = top > 4 * bar
    noise = {name: pct for name, row in figures.items() if (pct := row.noise_pct) is not None}
    below = [name for name, row in figures.items() if row.increase_is_noise]
    figure, panels = new_figure(
        title,
        [
            f"Thin bars: 95 % interval of the increase over {records.formats[0]} for text like this ({kind}).",
            *(["Thick bars: for this very text; no thick bar where all of it was read."] if parts else []),
            *(["Grey: what arithmetic alone changes; a grey mark is no further from 0."] if below else []),
            *caption_lines(records, "perplexity"),
        ],
        notices(records, "perplexity"),
        plot_in=0.5 * len(found) + 0.5,
        n_axes=2 if close_up else 1,
        legend=1,
    )
    for panel in panels:
        name_rows(panel, records, [name for name, *_ in found], shown=panel is panels[0])
        panel.axvline(bar, color=ALARM, linewidth=1.6, linestyle="--", label=f"limit: {bar:g} %")
        panel.axvline(0, color=GREY, linewidth=0.8)
        for place, (name, value, low, high) in enumerate(found):
            if close_up and panel is panels[-1] and _beyond(value, low, bar):
                continue
            if name in below:
                panel.fill_betweenx([place - 0.3, place + 0.3], -noise[name], noise[name], color=GREY, alpha=0.25, lw=0)
            style = replace(look(name), color=GREY) if name in below else look(name)
            draw_mark(panel, style, value, place, low, high, across=True, size=5.5, edge=0.4, bar=1.2)
            if name in parts:
                draw_mark(panel, style, value, place, *parts[name], across=True, size=5.5, edge=0.4, bar=3.2)
    whole, last = panels[0], panels[-1]
    left = min(0.0, *(value if math.isinf(low) or low < -90 else low for _, value, low, _ in found))
    # An interval far beyond all values is cut at the edge, so that the others can be read.
    ends = [min(high, 10 * max(top, bar)) if math.isfinite(high) else value for _, value, _, high in found]
    span = max(top, *ends, 1.2 * bar) - left
    whole.set_xlim(left - 0.05 * span, left + (1.9 if close_up else 1.65) * span)
    for place, (_, value, low, high) in enumerate(found):
        crossed = -0.1 < (bar - value) / span < 0.5  # the words would run across the limit's line
        end = max(value, ends[place], bar if crossed else value)
        words = f"{percent(value)}" if close_up else f"{percent(value)} ({interval(low, high)})"
        whole.annotate(words, (end, place), xytext=(9, 0), textcoords="offset points", va="center", fontsize=10)
    whole.set_xlabel("Perplexity increase, %")
    if close_up:
        _close_up(last, found, bar)
    legend_above(whole)
    return figure


def _beyond(value: float, low: float, bar: float) -> bool:
    """Whether a close-up of the limit has nothing of an increase: neither its value nor its interval's lower end."""
    return value > _CLOSE * bar and low > bar


def _close_up(panel: Axes, found: Sequence[tuple[str, float, float, float]], bar: float) -> None:
    """The same rows around the limit; what lies beyond is named at the edge."""
    lows = [low for _, value, low, _ in found if not _beyond(value, low, bar) and math.isfinite(low)]
    left = max(min([0.0, *lows]), -2 * bar) - 0.15 * bar
    panel.set_xlim(left, 4.4 * bar)
    for place, (_, value, low, high) in enumerate(found):
        if not _beyond(value, low, bar):
            # Words that begin left of the limit would run through its line.
            edge = max(min(high, 3 * bar), bar)
            goes_on = high > edge  # then the words stand above the bar, at the right
            panel.annotate(
                interval(low, high),
                (4.3 * bar if goes_on else edge, place),
                xytext=(0, 9) if goes_on else (9, 0),
                textcoords="offset points",
                va="center",
                ha="right" if goes_on else "left",
                fontsize=9.5,
            )
        else:
            panel.annotate(
                "beyond this close-up →", (4.3 * bar, place), ha="right", va="center", fontsize=9, color=GREY
            )
    panel.set_xlabel("The same, close to the limit, %")


CHART = Chart(
    name="ppl_increase",
    place="Q2",
    alt="Increase of perplexity with 95 % intervals against the limit",
    how_to_read=(
        "Left of the dashed line passes on this text, right of it fails; a thick bar across it is undecided, a thin one"
        " not settled for text like this"
    ),
    finding=finding,
    draw=draw,
)
