"""The winner over all weightings: a triangle for each of the two scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labctl.report.board import boards
from labctl.report.charts.base import Chart
from labctl.report.charts.plot import GREY, INK, chart_text, hatch, look, new_figure
from labctl.report.figures import Figures
from labctl.report.findings import caption_lines, notices
from labctl.report.gaps import shown_name
from labctl.report.order import Orders
from labctl.report.scoring import MAP_STEPS, WinnerMap
from labctl.report.text import words
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Spot = tuple[float, float]

_MARKS = (("Q15", (0.3, 0.4), -1), ("Q16", (0.2, 0.3), 1))
"""The course's weights of size and quality, and the side that their name stands on."""
_PER_LINE = 7
_ROOM = 0.085  # sides of the triangle around a name inside an area


def finding(records: Measured, figures: Figures, limit: float) -> str | None:
    """Title of the chart."""
    maps = _maps(records, figures)
    return None if maps is None else in_words(*maps)


def _maps(records: Measured, figures: Figures) -> tuple[WinnerMap, WinnerMap] | None:
    """Who wins by the literal and by the normalised score; the weights of the lab play no part."""
    scored = boards(figures, Orders(records, figures), (0.3, 0.4, 0.3))
    return (scored.literal.map(MAP_STEPS), scored.normalised.map(MAP_STEPS)) if scored.comparable else None


def in_words(literal: WinnerMap, normal: WinnerMap) -> str:
    """Title of the chart."""

    def leaders(found: WinnerMap) -> str:
        return words(f"{name} for {100 * share:.0f} %" for name, share in list(found.shares.items())[:2])

    settled = [100 * math.fsum(found.settled_shares.values()) for found in (literal, normal)]
    if list(normal.shares) == list(literal.shares) and len(normal.shares) == 1 and min(settled) > 99.5:
        return f"{next(iter(normal.shares))} wins whatever the weights, by both scores"
    return (
        f"Highest score over all weightings: literal, {leaders(literal)} ({settled[0]:.0f} % settled); normalised,"
        f" {leaders(normal)} ({settled[1]:.0f} % settled)"
    )


def draw(records: Measured, figures: Figures, limit: float, title: str) -> Figure | None:
    """The format with the highest score for every division of the weights: a triangle for each of the two scores."""
    from matplotlib.patches import Patch

    maps = _maps(records, figures)
    if maps is None:
        return None
    shown = {name for found in maps for name in found.shares}
    names = [label for label in records.formats if label in shown]
    is_pale = any(len(found.settled) < len(found.winners) for found in maps)
    figure, panels = new_figure(
        title,
        [
            "Each point divides the weights between size, quality and speed; its colour and pattern are those of the"
            f" format with the highest score there{_PALE if is_pale else ''}. In a corner one of them counts alone. Q15"
            " and Q16 mark the course's weights.",
            *caption_lines(records, "speed"),
        ],
        notices(records),
        plot_in=3.5,
        n_axes=2,
        legend=-(-len(names) // _PER_LINE),
        axis_in=0.1,
    )
    for panel, found, name in zip(panels, maps, ("Literal score", "Normalised score"), strict=True):
        _triangle(panel, found)
        panel.annotate(name, (0.5, -0.05), ha="center", va="center", fontsize=11, color=INK)
    patches = [
        Patch(
            facecolor=look(label).color,
            hatch=hatch(label),
            edgecolor="white",
            label=chart_text(shown_name(records, label)),
        )
        for label in names
    ]
    panels[0].legend(
        handles=patches,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=_PER_LINE,
        frameon=False,
        fontsize=9.5,
        handletextpad=0.4,
        columnspacing=1.0,
        borderpad=0.2,
        handlelength=2.2,
        handleheight=1.1,
    )
    return figure


_PALE = ", paler where the intervals allow another one the first place"


def _spot(size_weight: float, quality_weight: float) -> Spot:
    return (1 - size_weight - quality_weight) + quality_weight / 2, quality_weight * math.sqrt(3) / 2


def _triangle(panel: Axes, found: WinnerMap) -> None:
    """One map: quality on top, size at the left, speed at the right."""
    places = list(found.winners)
    spots = [_spot(size / found.steps, quality / found.steps) for size, quality in places]
    xs, ys = zip(*spots, strict=True)
    for name in found.shares:
        inside = [float(found.winners[place] == name) for place in places]
        panel.tricontourf(xs, ys, inside, levels=[0.5, 1.5], colors=[look(name).color], hatches=[hatch(name)])
    pale = [float(place not in found.settled) for place in places]
    if any(pale):
        panel.tricontourf(xs, ys, pale, levels=[0.5, 1.5], colors=["white"], alpha=0.5)
    for name in found.shares:
        own = [spot for spot, place in zip(spots, places, strict=True) if found.winners[place] == name]
        others = [spot for spot, place in zip(spots, places, strict=True) if found.winners[place] != name]
        middle, room = _middle(own, others)
        if room >= _ROOM:
            panel.annotate(
                chart_text(name),
                middle,
                ha="center",
                va="center",
                fontsize=9.5,
                fontweight="bold",
                color=INK,
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"},
            )
    for label, weights, side in _MARKS:
        panel.plot(*_spot(*weights), "o", color="white", markersize=7, markeredgecolor=INK, markeredgewidth=1.4)
        panel.annotate(
            label,
            _spot(*weights),
            xytext=(side * 17, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            color=INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )
    corners = (("size", (0.0, -0.05), "left"), ("speed", (1.0, -0.05), "right"), ("quality", (0.5, 0.96), "center"))
    for text, corner, align in corners:
        panel.annotate(text, corner, ha=align, va="center", fontsize=10, color=GREY)
    panel.set_xlim(-0.06, 1.06)
    panel.set_ylim(-0.1, 1.02)
    panel.set_aspect("equal")
    panel.axis("off")


def _middle(own: list[Spot], others: list[Spot]) -> tuple[Spot, float]:
    """The point of an area that is farthest from its border and from the course's marks, and how far that is."""

    def room(spot: Spot) -> float:
        x, y = spot
        # Distances to the triangle's three sides; a name is wider than high.
        sides = (y, (math.sqrt(3) * x - y) / 2, (math.sqrt(3) * (1 - x) - y) / 2)
        marks = (math.dist(spot, _spot(*weights)) - 0.11 for _, weights, _ in _MARKS)
        return min(*sides, *marks, *(math.hypot((x - a) * 0.7, y - b) for a, b in others), 1.0)

    best = max(own[::3], key=room)
    return best, room(best)


CHART = Chart(
    name="winner_map",
    place="Q16",
    alt="The winner for every division of the weights",
    how_to_read="Find the point of your own weights: its colour is your format",
    finding=finding,
    draw=draw,
)
