"""Peak resident memory by what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labctl.records.units import size_text
from labctl.report.charts.base import Chart, name_rows
from labctl.report.charts.plot import ALARM, LIGHT, PALETTE, legend_above, new_figure
from labctl.report.figures import Figures
from labctl.report.findings import caption_lines, notices
from labctl.report.fit import GIB, RAM_GB, free_bytes
from labctl.report.hardware import repacked_bytes
from labctl.report.text import words
from labctl.steps.measured import Measured
from labctl.steps.memory.record import plain_load
from labctl.steps.memory.step import MEMORY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def finding(records: Measured, figures: Figures, limit: float) -> str | None:
    """Title of the chart."""
    peaks = {name: row.peak_rss_bytes for name, row in figures.items() if row.peak_rss_bytes}
    if not peaks:
        return None
    most, least = (pick(peaks, key=lambda name: peaks[name]) for pick in (max, min))
    if most == least or peaks[most] == peaks[least]:
        return f"Peak memory: {size_text(peaks[most])} ({words(peaks)})"
    return f"Peak memory: from {size_text(peaks[most])} ({most}) down to {size_text(peaks[least])} ({least})"


def draw(records: Measured, figures: Figures, limit: float, title: str) -> Figure | None:
    """Peak resident memory, split into llama.cpp's own buffers where they explain it."""
    loads = {name: load for name in records.formats if (load := plain_load(records.of(MEMORY).get(name))) is not None}
    if not loads:
        return None
    most = max(load.peak_rss_bytes for load in loads.values())
    unit, factor = ("GB", 1e9) if most >= 1e9 else ("MB", 1e6)
    contexts = sorted({records.of(MEMORY)[name].n_ctx for name in loads})
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
        title,
        [
            f"Context: {' and '.join(map(str, contexts))} tokens; weights read into memory (mmap off)."
            f"{split if any(widths[0] for widths in rows_of_widths) else ''} {ram_sentence(most)}",
            *caption_lines(records, "memory"),
        ],
        notices(records, "memory"),
        plot_in=0.46 * len(loads) + 0.4,
        legend=1,
    )
    name_rows(axes, records, list(loads), shown=True)
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
            size_text(load.peak_rss_bytes),
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


def ram_lines(axes: Axes, most_bytes: float, factor: float) -> str:
    """Lines at what computers of 4, 8 and 16 GB leave free, where they are near the bars; widens the axis for them.

    Returns: a sentence for the caption about the lines that are too far away to draw.
    """
    free = {ram: free_bytes(ram) for ram in RAM_GB}
    near = [ram for ram in RAM_GB if free[ram] <= 2 * most_bytes]
    for ram in near:
        axes.axvline(free[ram] / factor, color=ALARM, linewidth=1.3, linestyle="--", zorder=0)
        axes.annotate(
            f"{ram} GB",
            (free[ram] / factor, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color=ALARM,
        )
    if near:
        axes.set_xlim(0, max(1.16 * most_bytes, 1.08 * max(free[ram] for ram in near)) / factor)
    return ram_sentence(most_bytes)


def ram_sentence(most_bytes: float) -> str:
    """What the lines of RAM are, where some are drawn, and which computers leave far more free."""
    free = {ram: free_bytes(ram) for ram in RAM_GB}
    far = [f"{ram} GB ({free[ram] / GIB:g} GiB)" for ram in RAM_GB if free[ram] > 2 * most_bytes]
    parts = []
    if len(far) < len(RAM_GB):
        parts.append("Dashed: what the system leaves free on a computer with so much RAM.")
    if far:
        parts.append(f"More than twice the longest bar is left free by the system on computers of {words(far)}.")
    return " ".join(parts)


CHART = Chart(
    name="memory", place="Q9", alt="Peak resident memory", how_to_read="Shorter is better", finding=finding, draw=draw
)
