"""Charts of speed by bits per weight, and lines of RAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labctl.report.findings import MEDIAN_BARS, caption_lines, notices
from labctl.report.fit import GIB, RAM_GB, free_bytes
from labctl.report.gaps import shown_name
from labctl.report.labels import Point, place_labels
from labctl.report.plot import ALARM, draw_mark, look, new_figure
from labctl.report.text import words
from labctl.steps.measured import LabRecords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Mapping[str, Mapping[str, Any]]


def speed_vs_bits(records: LabRecords, rows: Rows, limit: float) -> Figure | None:
    """Bits per weight against generation speed."""
    timed = [name for name, row in rows.items() if row["bpw"] > 0 and row["tg_tps"] > 0]
    if not timed:
        return None
    figure, (axes,) = new_figure(
        "Generation speed by bits per weight",
        [f"Bars: {MEDIAN_BARS}.", *caption_lines(records, "speed")],
        notices(records, "speed"),
        plot_in=4.1,
    )
    marks = []
    for name in timed:
        row, style = rows[name], look(name)
        x, y, low, high = (float(row[column]) for column in ("bpw", "tg_tps", "tg_low_tps", "tg_high_tps"))
        draw_mark(axes, style, x, y, low, high)
        marks.append(Point(label=shown_name(records, name), x=x, y=y, low=low, high=high))
    axes.set_xlabel("Bits per weight (fewer is smaller)")
    axes.set_ylabel("Generation speed, tokens/second")
    axes.margins(x=0.12, y=0.16)
    axes.set_ylim(bottom=0)
    place_labels(axes, marks)
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
            f"{ram} GB", (free[ram] / factor, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
            textcoords="offset points", va="top", fontsize=9, color=ALARM,
        )  # fmt: skip
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
