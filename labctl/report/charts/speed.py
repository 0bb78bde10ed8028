"""Tokens per second of both speed tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labctl.records.units import rate
from labctl.report.charts.base import SPEED_BARS, Chart, end_of, name_rows
from labctl.report.charts.plot import draw_mark, look, new_figure
from labctl.report.figures import Figures
from labctl.report.findings import caption_lines, notices
from labctl.report.order import Orders, tells_little, tied
from labctl.steps.bench.record import Test
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finding(records: Measured, figures: Figures, limit: float) -> str:
    """Title of the chart."""
    orders, parts = Orders(records, figures), []
    for order, task in ((orders.tg, "generating text"), (orders.pp, "reading a prompt")):
        if len(order.names) == 1:
            return f"Only {order.names[0]} was timed"
        if tells_little(order):
            parts.append(f"No format is shown to be fastest at {task}")
        elif order.names:
            parts.append(f"Fastest at {task}: {tied(order.first)}")
    return ". ".join(parts)


def draw(records: Measured, figures: Figures, limit: float, title: str) -> Figure | None:
    """Tokens per second of generation and of prompt processing: every repetition, the median and its interval."""
    names = [
        name
        for name in records.formats
        if figures[name].speed("tg") is not None or figures[name].speed("pp") is not None
    ]
    if not names:
        return None
    figure, panels = new_figure(
        title,
        [
            f"Small dots: single repetitions, disturbed ones, too. Mark: median of the rounds. Bars: {SPEED_BARS}.",
            *caption_lines(records, "speed"),
        ],
        notices(records, "speed"),
        plot_in=0.5 * len(names) + 0.5,
        n_axes=2,
    )
    run = records.of(BENCH)[names[0]]
    tests: tuple[Test, Test] = ("tg", "pp")
    for panel, test, label in zip(
        panels,
        tests,
        (f"Generating text (tg{run.n_gen}), tokens/second", f"Reading a prompt (pp{run.n_prompt}), tokens/second"),
        strict=True,
    ):
        name_rows(panel, records, names, shown=panel is panels[0])
        most = max([0.0, *(value for name in names for value in _samples(records, name, test))])
        ends = [speed.high_tps or 0.0 for name in names if (speed := figures[name].speed(test)) is not None]
        most = max(most, min(1.5 * most, max(ends, default=0.0)))  # a bar of two rounds may leave the picture
        for place, name in enumerate(names):
            style, speed = look(name), figures[name].speed(test)
            samples = _samples(records, name, test)
            if speed is None:
                continue
            panel.plot(samples, [place] * len(samples), ".", color=style.color, alpha=0.35, markersize=5, zorder=2)
            draw_mark(panel, style, speed.tps, place, end_of(speed.low_tps), end_of(speed.high_tps), across=True)
            panel.annotate(
                rate(speed.tps),
                (max(*samples, speed.tps, min(most, speed.high_tps or 0.0)), place),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
            )
        panel.set_xlim(0, 1.36 * most or 1)
        panel.locator_params(axis="x", nbins=5)
        panel.set_xlabel(label)
    return figure


def _samples(records: Measured, name: str, test: Test) -> tuple[float, ...]:
    return records.of(BENCH)[name].samples_tps(test)


CHART = Chart(
    name="speed",
    place="Q8",
    alt="Tokens per second with spread",
    how_to_read="Further right is faster; bars that overlap settle nothing either way",
    finding=finding,
    draw=draw,
)
