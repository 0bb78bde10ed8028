"""The lab's charts: each says its finding, draws what was measured, and leaves out what was not."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labctl.report.chart_hardware import ram_lines, ram_sentence, speed_vs_bits
from labctl.report.chart_map import winner_map
from labctl.report.findings import (
    MEDIAN_BARS,
    caption_lines,
    interval_kind,
    memory_finding,
    notices,
    performance_finding,
    quality_finding,
    speed_finding,
    verdict_finding,
)
from labctl.report.fit import plain_load
from labctl.report.gaps import shown_name
from labctl.report.hardware import repacked_bytes
from labctl.report.labels import Point, place_labels
from labctl.report.plot import (
    ALARM,
    GREY,
    INK,
    LIGHT,
    PALETTE,
    chart_text,
    draw_mark,
    legend_above,
    look,
    new_figure,
    not_below_zero,
    render,
    styled,
)
from labctl.report.rules import smallest_passing
from labctl.report.text import interval, percent, rate, size
from labctl.steps.measured import LabRecords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Mapping[str, Mapping[str, Any]]
_CLOSE = 2.2  # times the limit: what lies further right is left out of the close-up

Draw = Callable[[LabRecords, Rows, float], "Figure | None"]


def draw_charts(records: LabRecords, rows: Rows, limit: float) -> dict[str, bytes]:
    """Every chart there is data for.

    Args:
        rows: as from `analysis.rows_of`.
        limit: largest acceptable increase of perplexity, as a fraction.
    Returns: file name -> contents, two files (PNG and SVG) a chart.
    """
    files: dict[str, bytes] = {}
    with styled():
        for name, draw in CHARTS.items():
            figure = draw(records, rows, limit)
            if figure is not None:
                files |= {f"{name}.{kind}": data for kind, data in render(figure).items()}
    return files


def size_vs_quality(records: LabRecords, rows: Rows, limit: float) -> Figure | None:
    """File size against perplexity; the bars are the paired interval of the increase, drawn at its perplexity."""
    base = records.formats[0]
    points = []
    for name, row in _with(rows, "size_bytes", "ppl"):
        shares = [1 + row.get(f"ppl_increase_{part}pct", math.nan) / 100 for part in ("low_", "", "high_")]
        if name == base:  # what all others are measured against has no increase to be unsure of
            shares = [1.0, 1.0, 1.0]
        low, high = (row["ppl"] * share / shares[1] for share in (shares[0], shares[2]))
        points.append(Point(label=name, x=row["size_bytes"], y=row["ppl"], low=low, high=high))
    judged = any(row["verdict"] in ("pass", "fail", "undecided") for row in rows.values())
    bar = rows[base]["ppl"] * (1 + limit) if judged and base in rows else math.nan
    return _scatter(
        records,
        points,
        quality_finding(records, rows, limit),
        "perplexity",
        "Perplexity (lower is better)",
        f"Bars: 95 % interval of the increase over {base} (paired, chunk by chunk).",
        limit=(bar, f"limit: +{100 * limit:g} %"),
        pick=smallest_passing(rows),
    )


def size_vs_performance(records: LabRecords, rows: Rows, limit: float) -> Figure | None:
    """File size against generation speed, with the interval of the median."""
    points = [
        Point(label=name, x=row["size_bytes"], y=row["tg_tps"], low=row["tg_low_tps"], high=row["tg_high_tps"])
        for name, row in _with(rows, "size_bytes", "tg_tps")
    ]
    label = "Generation speed, tokens/second (higher is better)"
    return _scatter(records, points, performance_finding(records, rows), "speed", label, f"Bars: {MEDIAN_BARS}.")


def _scatter(
    records: LabRecords,
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
    front = _front([(point.x, point.y) for point in points], better)
    captions = caption_lines(records, kind)
    has_bars = any(math.isfinite(point.low) and point.high > point.low for point in points)
    first = f"{bars} {captions[0]}" if has_bars else captions[0]
    legend = int(len(front) > 1 or pick is not None)
    figure, (axes,) = new_figure(title, [first, *captions[1:]], notices(records, kind), plot_in=4.1, legend=legend)
    lines = list(itertools.pairwise(front))
    if lines:
        better_word = "lower in perplexity" if kind == "perplexity" else "faster"
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)
        axes.lines[-1].set_label(f"no other file drawn is both smaller and {better_word}")
    marks = []
    for point in points:
        draw_mark(axes, look(point.label), point.x, point.y, point.low, point.high)
        if point.label == pick:
            axes.plot(
                point.x, point.y, "o", markersize=19, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4,
                linestyle="none", label=f"{chart_text(shown_name(records, point.label))}: the smallest that passes",
            )  # fmt: skip
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
            limit[1], (0, limit[0]), xycoords=("axes fraction", "data"), xytext=(3, 3), textcoords="offset points",
            fontsize=9, color=ALARM,
        )  # fmt: skip
    not_below_zero(axes)
    if math.isfinite(limit[0]):
        lines.append(((axes.get_xlim()[0], limit[0]), (axes.get_xlim()[1], limit[0])))
    if legend:
        legend_above(axes)
    place_labels(axes, marks, lines)
    return figure


def _front(spots: Sequence[tuple[float, float]], better: int) -> list[tuple[float, float]]:
    """Points that no other is at least as good as in both, from small to large: each is better than those before.

    Args:
        better: 1 where a lower y is better, -1 where a higher one is.
    """
    found: list[tuple[float, float]] = []
    for x, y in sorted(spots, key=lambda spot: (spot[0], better * spot[1])):
        if not found or better * y < better * found[-1][1]:
            found.append((x, y))
    return found


def ppl_increase(records: LabRecords, rows: Rows, limit: float) -> Figure | None:
    """Increase of perplexity with its interval against the limit; a close-up where the whole range hides it."""
    found = [
        (name, float(row["ppl_increase_pct"]), float(row["ppl_increase_low_pct"]), float(row["ppl_increase_high_pct"]))
        for name, row in _with(rows, "ppl_increase_pct")
    ]
    if not found:
        return None
    bar = 100 * limit
    top = max(value for _, value, _, _ in found)
    close_up = top > 4 * bar
    figure, panels = new_figure(
        verdict_finding(records, rows, limit),
        [
            f"Bars: 95 % interval of the increase over {records.formats[0]} ({interval_kind(records)}).",
            *caption_lines(records, "perplexity"),
        ],
        notices(records, "perplexity"),
        plot_in=0.5 * len(found) + 0.5,
        n_axes=2 if close_up else 1,
        legend=1,
    )
    for panel in panels:
        _name_rows(panel, records, [name for name, *_ in found], shown=panel is panels[0])
        panel.axvline(bar, color=ALARM, linewidth=1.6, linestyle="--", label=f"limit: {bar:g} %")
        panel.axvline(0, color=GREY, linewidth=0.8)
        for place, (name, value, low, high) in enumerate(found):
            if close_up and panel is panels[-1] and _beyond(value, low, bar):
                continue
            style = look(name)
            draw_mark(panel, style, value, place, low, high, across=True, size=5.5, edge=0.4)
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


def speed(records: LabRecords, rows: Rows, limit: float) -> Figure | None:
    """Tokens per second of generation and of prompt processing: every repetition, the median and its interval."""
    names = [
        name
        for name in records.formats
        if name in records.speed and (rows[name]["tg_tps"] > 0 or rows[name]["pp_tps"] > 0)
    ]
    if not names:
        return None
    figure, panels = new_figure(
        speed_finding(records, rows),
        [
            f"Small dots: single repetitions. Mark: median. Bars: {MEDIAN_BARS}.",
            *caption_lines(records, "speed"),
        ],
        notices(records, "speed"),
        plot_in=0.5 * len(names) + 0.5,
        n_axes=2,
    )
    run = records.speed[names[0]]
    for panel, test, label in zip(
        panels,
        ("tg", "pp"),
        (f"Generating text (tg{run.n_gen}), tokens/second", f"Reading a prompt (pp{run.n_prompt}), tokens/second"),
        strict=True,
    ):
        _name_rows(panel, records, names, shown=panel is panels[0])
        most = max([0.0, *(value for name in names for value in _samples(records, name, test))])
        for place, name in enumerate(names):
            style, row = look(name), rows[name]
            samples = _samples(records, name, test)
            if not samples:
                continue
            panel.plot(samples, [place] * len(samples), ".", color=style.color, alpha=0.35, markersize=5, zorder=2)
            middle, low, high = (row[f"{test}_{part}tps"] for part in ("", "low_", "high_"))
            draw_mark(panel, style, middle, place, low, high, across=True)
            panel.annotate(
                rate(middle), (max(samples), place), xytext=(9, 0), textcoords="offset points", va="center", fontsize=10
            )
        panel.set_xlim(0, 1.28 * most or 1)
        panel.locator_params(axis="x", nbins=5)
        panel.set_xlabel(label)
    return figure


def memory(records: LabRecords, rows: Rows, limit: float) -> Figure | None:
    """Peak resident memory, split into llama.cpp's own buffers where they explain it."""
    loads = {name: load for name in records.formats if (load := plain_load(records.memory.get(name))) is not None}
    if not loads:
        return None
    most = max(load.peak_rss_bytes for load in loads.values())
    unit, factor = ("GB", 1e9) if most >= 1e9 else ("MB", 1e6)
    contexts = sorted({records.memory[name].n_ctx for name in loads})
    rows_of_widths = []
    for load in loads.values():
        repacked = repacked_bytes(load)
        stored = sum(load.model_bytes.values()) - repacked
        known = [stored, repacked, load.kv_bytes, load.compute_bytes + load.output_bytes]
        rest = load.peak_rss_bytes - sum(known)
        # Buffers that were reserved but never touched are not resident: then no split would be true.
        rows_of_widths.append([*known, rest, 0] if rest >= 0 else [0, 0, 0, 0, 0, load.peak_rss_bytes])
    split = " The split is by llama.cpp's own buffers; the rest is the program and its libraries."
    figure, (axes,) = new_figure(
        memory_finding(records, rows),
        [
            f"Context: {' and '.join(map(str, contexts))} tokens; weights read into memory (mmap off)."
            f"{split if any(widths[0] for widths in rows_of_widths) else ''} {ram_sentence(most)}",
            *caption_lines(records, "memory"),
        ],
        notices(records, "memory"),
        plot_in=0.46 * len(loads) + 0.4,
        legend=1,
    )
    _name_rows(axes, records, list(loads), shown=True)
    parts = ("weights", "weights, repacked", "KV cache", "work buffers", "program, rest", "total")
    colors = (PALETTE[4], PALETTE[3], PALETTE[1], PALETTE[2], LIGHT, PALETTE[6])
    starts = [0.0] * len(loads)
    for part, color, widths in zip(parts, colors, zip(*rows_of_widths, strict=True), strict=True):
        if any(widths):
            lengths = [width / factor for width in widths]
            axes.barh(range(len(loads)), lengths, left=starts, color=color, height=0.62, label=part, edgecolor="white")
            starts = [start + length for start, length in zip(starts, lengths, strict=True)]
    for place, load in enumerate(loads.values()):
        axes.annotate(
            size(load.peak_rss_bytes),
            (starts[place], place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    axes.set_xlim(0, 1.16 * most / factor)
    ram_lines(axes, most, factor)
    axes.set_xlabel(f"Peak resident memory, {unit} (less is better)")
    legend_above(axes)
    return figure


def _name_rows(axes: Axes, records: LabRecords, names: Sequence[str], *, shown: bool) -> None:
    words = [chart_text(shown_name(records, name)) for name in names] if shown else [""] * len(names)
    axes.set_yticks(range(len(names)), words)
    axes.set_ylim(len(names) - 0.4, -0.6)
    # The room at the left is for names such as Q4_K_M ⚠.
    axes.tick_params(axis="y", length=0, labelsize=11 if max(map(len, words)) <= 8 else 8.5, labelcolor=INK)
    axes.grid(visible=False, axis="y")


def _samples(records: LabRecords, name: str, test: str) -> tuple[float, ...]:
    return records.speed[name].tg_tps if test == "tg" else records.speed[name].pp_tps


def _with(rows: Rows, *columns: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Formats that have a figure in every one of these columns."""
    return [(name, row) for name, row in rows.items() if all(math.isfinite(row.get(c, math.nan)) for c in columns)]


CHARTS: dict[str, Draw] = {
    "size_vs_quality": size_vs_quality,
    "size_vs_performance": size_vs_performance,
    "ppl_increase": ppl_increase,
    "speed": speed,
    "speed_vs_bits": speed_vs_bits,
    "memory": memory,
    "winner_map": winner_map,
}
