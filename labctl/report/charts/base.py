"""What charts are made of: the record of a chart, and what several of them draw alike."""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labctl.report.charts.labels import Point, place_labels
from labctl.report.charts.plot import (
    ALARM,
    GREY,
    INK,
    chart_text,
    draw_mark,
    legend_above,
    look,
    new_figure,
    not_below_zero,
)
from labctl.report.figures import Figures
from labctl.report.findings import caption_lines, notices
from labctl.report.gaps import shown_name
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL_CHARS = 10
SPEED_BARS = "95 % interval over the rounds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart of the report.

    Attributes:
        name: of its files: <name>.png and <name>.svg.
        place: where it stands on the worksheet: after a question ("Q2"), or a word that the worksheet names.
        alt: what it shows, for who cannot see it.
        how_to_read: where to look first, as a clause.
        finding: what it says of a lab, from its records and figures and the largest acceptable increase of perplexity
            (a fraction); None where there is nothing to say.
        draw: draws it from the same, under a title; None where there is nothing to draw.
        handed_in: the course asks for it.
    """

    name: str
    place: str
    alt: str
    how_to_read: str
    finding: Callable[[Measured, Figures, float], str | None]
    draw: Callable[[Measured, Figures, float, str], Figure | None]
    handed_in: bool = False

    def entry(self, finding: str) -> dict[str, str]:
        """What the worksheet needs to show it; under it stand how to look at it, and what it says here."""
        reading = f"{self.how_to_read}. {finding}."
        return {"name": self.name, "place": self.place, "alt": self.alt, "reading": reading}


def scatter(
    records: Measured,
    points: Sequence[Point],
    title: str,
    kind: str,
    label: str,
    bars: str,
    *,
    limit: tuple[float, str] = (math.nan, ""),
    pick: str | None = None,
) -> Figure | None:
    """Formats by file size (x, bytes) and a figure, with the front of those that no other beats in both.

    Args:
        limit: where the figure's limit lies, and its name.
        pick: the format that the title is about.
    """
    if not points:
        return None
    better = -1 if kind == "speed" else 1
    unit, factor = ("GB", 1e9) if max(point.x for point in points) >= 1e9 else ("MB", 1e6)
    points = [dataclasses.replace(point, x=point.x / factor) for point in points]
    ends = front([(point.x, point.y) for point in points], better)
    captions = caption_lines(records, kind)
    has_bars = any(math.isfinite(point.low) and point.high > point.low for point in points)
    first = f"{bars} {captions[0]}" if has_bars else captions[0]
    legend = int(len(ends) > 1 or pick is not None)
    figure, (axes,) = new_figure(title, [first, *captions[1:]], notices(records, kind), plot_in=4.1, legend=legend)
    lines = list(itertools.pairwise(ends))
    if lines:
        better_word = "lower in perplexity" if kind == "perplexity" else "faster"
        axes.plot(*zip(*ends, strict=True), color=GREY, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)
        axes.lines[-1].set_label(f"no other file drawn is both smaller and {better_word}")
    marks = []
    for point in points:
        draw_mark(axes, look(point.label), point.x, point.y, point.low, point.high)
        if point.label == pick:
            axes.plot(
                point.x,
                point.y,
                "o",
                markersize=19,
                markerfacecolor="none",
                markeredgecolor=INK,
                markeredgewidth=1.4,
                linestyle="none",
                label=f"{chart_text(shown_name(records, point.label))}: the smallest that passes",
            )
        shown = shown_name(records, point.label)
        marks.append(dataclasses.replace(point, label=shown, bold=point.label == pick))
    axes.set_xlabel(f"File size, {unit} (smaller is better)")
    axes.set_ylabel(label)
    axes.margins(x=0.12, y=0.16)
    if len({point.x for point in points}) == 1:
        axes.set_xlim(points[0].x * 0.8, points[0].x * 1.2)
    if math.isfinite(limit[0]):
        axes.axhline(limit[0], color=ALARM, linewidth=1.6, linestyle="--", zorder=1)
        axes.annotate(
            limit[1],
            (0, limit[0]),
            xycoords=("axes fraction", "data"),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=9,
            color=ALARM,
        )
    not_below_zero(axes)
    if math.isfinite(limit[0]):
        lines.append(((axes.get_xlim()[0], limit[0]), (axes.get_xlim()[1], limit[0])))
    if legend:
        legend_above(axes)
    place_labels(axes, marks, lines)
    return figure


def front(spots: Sequence[tuple[float, float]], better: int) -> list[tuple[float, float]]:
    """Points that no other is at least as good as in both, from small to large: each is better than those before.

    Args:
        better: 1 where a lower y is better, -1 where a higher one is.
    """
    found: list[tuple[float, float]] = []
    for x, y in sorted(spots, key=lambda spot: (spot[0], better * spot[1])):
        if not found or better * y < better * found[-1][1]:
            found.append((x, y))
    return found


def name_rows(axes: Axes, records: Measured, names: Sequence[str], *, shown: bool) -> None:
    words = [chart_text(shown_name(records, name)) for name in names] if shown else [""] * len(names)
    axes.set_yticks(range(len(names)), [textwrap.fill(word, _LABEL_CHARS) for word in words])
    axes.set_ylim(len(names) - 0.4, -0.6)
    # The room at the left is for names such as Q4_K_M ⚠; longer ones take several lines.
    axes.tick_params(axis="y", length=0, labelsize=11 if max(map(len, words)) <= 8 else 8.5, labelcolor=INK)
    axes.grid(visible=False, axis="y")


def end_of(value: float | None) -> float:
    """An end of an interval for drawing; NaN is not drawn."""
    return math.nan if value is None else value
