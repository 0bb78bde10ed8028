"""The report's charts, in their order: each says its finding, draws what was measured, and leaves out what was not."""

from __future__ import annotations

from collections.abc import Mapping

from labctl.report.charts import (
    memory,
    ppl_increase,
    size_vs_performance,
    size_vs_quality,
    speed,
    speed_vs_bits,
    winner_map,
)
from labctl.report.charts.base import Chart
from labctl.report.charts.plot import render, styled
from labctl.report.figures import Figures
from labctl.steps.measured import Measured

CHARTS: dict[str, Chart] = {
    module.CHART.name: module.CHART
    for module in (size_vs_quality, size_vs_performance, ppl_increase, speed, speed_vs_bits, memory, winner_map)
}
"""A new chart: its module, and its line here."""


def findings_of(records: Measured, figures: Figures, limit: float) -> dict[str, str]:
    """What each chart says: name -> sentence; without those that have nothing to say.

    Args:
        limit: largest acceptable increase of perplexity, as a fraction.
    """
    said = {name: chart.finding(records, figures, limit) for name, chart in CHARTS.items()}
    return {name: finding for name, finding in said.items() if finding is not None}


def draw_charts(records: Measured, figures: Figures, limit: float, findings: Mapping[str, str]) -> dict[str, bytes]:
    """Every chart there is data for.

    Args:
        limit: as for `findings_of`, which also gives the findings: they are the titles.
    Returns: file name -> contents, two files (PNG and SVG) a chart.
    """
    files: dict[str, bytes] = {}
    with styled():
        for name, finding in findings.items():
            figure = CHARTS[name].draw(records, figures, limit, finding)
            if figure is not None:
                files |= {f"{name}.{kind}": data for kind, data in render(figure).items()}
    return files
