"""File size against perplexity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labctl.records.units import percent, size_text
from labctl.report.charts.base import Chart, scatter
from labctl.report.charts.labels import Point
from labctl.report.figures import Figures
from labctl.report.rules import VERDICTS, judged, smallest_passing
from labctl.report.text import cell
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def finding(records: Measured, figures: Figures, limit: float) -> str:
    """Title of the chart."""
    pick = smallest_passing(figures)
    if pick is not None:
        row = figures[pick]
        return (
            f"{pick} is the smallest file shown to stay under a {100 * limit:g} % increase:"
            f" {cell(row.size_bytes, size_text)}, perplexity {cell(row.increase_pct, percent)}"
        )
    if judged(figures, "fail", "undecided"):
        return f"No smaller file is shown to stay under a {100 * limit:g} % increase of perplexity"
    return "File size and perplexity of what was measured so far"


def draw(records: Measured, figures: Figures, limit: float, title: str) -> Figure | None:
    """File size against perplexity; the bars are the paired interval of the increase, drawn at its perplexity."""
    base = records.formats[0]
    points = []
    for name, row in figures.items():
        if row.size_bytes is None or row.ppl is None:
            continue
        low = high = row.ppl if name == base else math.nan  # of the baseline itself nothing is unsure
        if (increase := row.increase) is not None:
            low, high = (row.ppl * (100 + end) / (100 + increase.pct) for end in (increase.low_pct, increase.high_pct))
        points.append(Point(label=name, x=row.size_bytes, y=row.ppl, low=low, high=high))
    base_ppl = figures[base].ppl
    bar = math.nan if base_ppl is None or not judged(figures, *VERDICTS) else base_ppl * (1 + limit)
    return scatter(
        records,
        points,
        title,
        "perplexity",
        "Perplexity (lower is better)",
        f"Bars: 95 % interval of the increase over {base} for text like this (paired, chunk by chunk).",
        limit=(bar, f"limit: +{100 * limit:g} %"),
        pick=smallest_passing(figures),
    )


CHART = Chart(
    name="size_vs_quality",
    place="trade-offs",
    alt="File size against perplexity",
    how_to_read="Further left is smaller, further down is better",
    finding=finding,
    draw=draw,
    handed_in=True,
)
