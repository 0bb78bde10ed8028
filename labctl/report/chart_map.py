"""The chart of winners over all weightings: a triangle for each of the two scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labctl.records import LabRecords
from labctl.report.board import boards
from labctl.report.findings import caption_lines, map_finding, notices
from labctl.report.gaps import shown_name
from labctl.report.order import Orders
from labctl.report.plot import GREY, INK, chart_text, look, new_figure
from labctl.report.scoring import MAP_STEPS, WinnerMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Mapping[str, Mapping[str, Any]]


def winner_map(records: LabRecords, rows: Rows, limit: float) -> Figure | None:
    """The format with the highest score for every division of the weights: a triangle for each of the two scores."""
    scored = boards(rows, Orders(records, rows), (0.3, 0.4, 0.3))
    if not scored.comparable:
        return None
    maps = [board.map(MAP_STEPS) for board in scored.both]
    figure, panels = new_figure(
        map_finding(*maps),
        [
            "Each point divides the weights between size, quality and speed; its colour is the format with the highest"
            " score there, paler where the intervals allow another one the first place. In a corner one of them counts"
            " alone. Q15 and Q16 mark the course's weights.",
            *caption_lines(records, "speed"),
        ],
        notices(records),
        plot_in=3.4,
        n_axes=2,
        legend=True,
    )
    shown: set[str] = set()
    for panel, found, name in zip(panels, maps, ("Literal score", "Normalised score"), strict=True):
        _triangle(panel, found, records.formats)
        panel.annotate(name, (0.5, -0.05), ha="center", va="center", fontsize=11, color=INK)
        shown |= set(found.winners.values())
    for place, label in enumerate(records.formats):
        if label in shown:
            style = look(place)
            panels[0].plot(
                [],
                [],
                style.marker,
                color=style.color,
                ls="",
                markersize=8,
                label=chart_text(shown_name(records, label)),
            )
    panels[0].legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=7,
        frameon=False,
        fontsize=9.5,
        handletextpad=0.1,
        columnspacing=1.0,
        borderpad=0.2,
    )
    return figure


def _triangle(panel: Axes, found: WinnerMap, formats: Sequence[str]) -> None:
    """One map: quality on top, size at the left, speed at the right."""

    def spot(size_weight: float, quality_weight: float) -> tuple[float, float]:
        return (1 - size_weight - quality_weight) + quality_weight / 2, quality_weight * math.sqrt(3) / 2

    for name in dict.fromkeys(found.winners.values()):
        style = look(formats.index(name))
        for settled in (True, False):
            spots = [
                spot(s / found.steps, q / found.steps)
                for (s, q), winner in found.winners.items()
                if winner == name and ((s, q) in found.settled) == settled
            ]
            if spots:
                shade = 1.0 if settled else 0.4
                panel.plot(*zip(*spots, strict=True), "h", color=style.color, alpha=shade, markersize=5.6, mew=0)
        # The shape again, thinly: colour alone would leave some readers out.
        sparse = [spot(s / found.steps, q / found.steps) for (s, q), n in found.winners.items() if n == name
                  and s % 6 == 3 and q % 6 == 3]  # fmt: skip
        if sparse:
            panel.plot(*zip(*sparse, strict=True), style.marker, color="white", alpha=0.75, markersize=4, mew=0)
    for label, weights, side in (("Q15", (0.3, 0.4), -1), ("Q16", (0.2, 0.3), 1)):
        panel.plot(*spot(*weights), "o", color="white", markersize=7, markeredgecolor=INK, markeredgewidth=1.4)
        panel.annotate(
            label,
            spot(*weights),
            xytext=(side * 17, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            color=INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )
    corners = (("size", (0.0, -0.05), "left"), ("speed", (1.0, -0.05), "right"), ("quality", (0.5, 0.96), "center"))
    for words, corner, align in corners:
        panel.annotate(words, corner, ha=align, va="center", fontsize=10, color=GREY)
    panel.set_xlim(-0.06, 1.06)
    panel.set_ylim(-0.1, 1.02)
    panel.set_aspect("equal")
    panel.axis("off")
