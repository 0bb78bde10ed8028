"""Generation speed by bits per weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labctl.report.charts.base import SPEED_BARS, Chart
from labctl.report.charts.labels import Point, place_labels
from labctl.report.charts.plot import draw_mark, look, new_figure
from labctl.report.figures import Figures
from labctl.report.findings import caption_lines, notices
from labctl.report.gaps import shown_name
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finding(records: Measured, figures: Figures, limit: float) -> str:
    """The chart claims nothing."""
    return "Generation speed by bits per weight"


def draw(records: Measured, figures: Figures, limit: float, title: str) -> Figure | None:
    """Bits per weight against generation speed."""
    timed = [
        (name, row.quantize.file.bpw, speed)
        for name, row in figures.items()
        if row.quantize is not None and (speed := row.speed("tg")) is not None
    ]
    if not timed:
        return None
    figure, (axes,) = new_figure(
        title, [f"Bars: {SPEED_BARS}.", *caption_lines(records, "speed")], notices(records, "speed"), plot_in=4.1
    )
    marks = []
    for name, bpw, speed in timed:
        low, high = (math.nan if end is None else end for end in (speed.low_tps, speed.high_tps))
        draw_mark(axes, look(name), bpw, speed.tps, low, high)
        marks.append(Point(label=shown_name(records, name), x=bpw, y=speed.tps, low=low, high=high))
    axes.set_xlabel("Bits per weight (fewer is smaller)")
    axes.set_ylabel("Generation speed, tokens/second")
    axes.margins(x=0.12, y=0.16)
    axes.set_ylim(bottom=0)
    place_labels(axes, marks)
    return figure


CHART = Chart(
    name="speed_vs_bits",
    place="Q8 work",
    alt="Generation speed by bits per weight",
    how_to_read="Further left is smaller, further up is faster",
    finding=finding,
    draw=draw,
)
