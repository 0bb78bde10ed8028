"""File size against generation speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labctl.records.units import rate
from labctl.report.charts.base import SPEED_BARS, Chart, end_of, scatter
from labctl.report.charts.labels import Point
from labctl.report.figures import Figures
from labctl.report.order import Orders, tells_little
from labctl.report.text import cell, speedup_words, words
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finding(records: Measured, figures: Figures, limit: float) -> str:
    """Title of the chart."""
    order, base = Orders(records, figures).tg, records.formats[0]
    if len(order.names) < 2:
        return "File size and generation speed"
    if tells_little(order):
        return "No format is shown to generate text fastest"
    if len(order.first) > 1:
        return f"Which format generates text fastest is not settled: {words(order.first, 'or')}"
    first, speed = order.first[0], figures[order.first[0]].speed("tg")
    speedup = None if speed is None else speed.speedup
    ratio = f", {speedup_words(speedup)} {base}" if speedup is not None and order.better(first, base) else ""
    return f"{first} generates text fastest: {cell(speed, lambda speed: rate(speed.tps))} tokens/second{ratio}"


def draw(records: Measured, figures: Figures, limit: float, title: str) -> Figure | None:
    """File size against generation speed, with the interval of the median."""
    points = [
        Point(label=name, x=row.size_bytes, y=speed.tps, low=end_of(speed.low_tps), high=end_of(speed.high_tps))
        for name, row in figures.items()
        if row.size_bytes is not None and (speed := row.speed("tg")) is not None
    ]
    label = "Generation speed, tokens/second (higher is better)"
    return scatter(records, points, title, "speed", label, f"Bars: {SPEED_BARS}.")


CHART = Chart(
    name="size_vs_performance",
    place="trade-offs",
    alt="File size against generation speed",
    how_to_read="Further left is smaller, further up is faster",
    finding=finding,
    draw=draw,
    handed_in=True,
)
