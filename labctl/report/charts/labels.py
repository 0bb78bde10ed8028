"""Labels in a chart: each beside its marker, clear of every other label, marker, bar, line and leader."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from labctl.machine.surroundings import plain_matplotlib
from labctl.report.charts.plot import GREY, INK, chart_text

with plain_matplotlib():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Box(NamedTuple):
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Box) -> bool:
        return self.x0 <= other.x1 and other.x0 <= self.x1 and self.y0 <= other.y1 and other.y0 <= self.y1


Spot = tuple[float, float]
Line = tuple[Spot, Spot]

_ANGLES = (45, -45, 135, -135, 0, 180, 90, -90, 20, -20, 160, -160, 70, -70, 110, -110)
_RADII_PT = (9, 14, 20, 28, 38, 50, 64, 80, 100, 125, 155, 190)
_LEADER_FROM_PT = 14
_ORDERS = 24
_HIDDEN, _BLOCKED, _CROSSED = 1e9, 1e6, 1e3
"""Cost of a label on what is drawn, of a leader through what is drawn, and of crossing a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A marker to label, in data units; `low` and `high` are the ends of its error bar."""

    label: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A possible place of a label, with what it costs beside the marks and lines that are there anyway."""

    box: Box
    leader: Line | None
    cost: float


def place_labels(axes: Axes, points: Sequence[Point], lines: Sequence[Line] = ()) -> list[Text]:
    """Write each point's label near its marker; one that cannot stand beside it gets a thin leader.

    Several orders of placing are tried, always the same ones, and the one that costs least is kept. The limits of the
    axes must be final; what is written in them already stays clear.

    Args:
        lines: straight lines in the plot, in data units, that labels and leaders shall not cross.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not points:
        return []
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    renderer = canvas.get_renderer()
    scale = figure.dpi / 72
    written = [Box(*Text.get_window_extent(text, renderer).extents) for text in axes.texts]
    texts: list[Text] = [
        axes.annotate(
            chart_text(point.label),
            (point.x, point.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=11,
            fontweight="bold" if point.bold else "normal",
            color=INK,
        )
        for point in points
    ]
    extents = [Box(*Text.get_window_extent(text, renderer).extents) for text in texts]
    frame = Box(*axes.get_window_extent(renderer).extents)
    where = [_spot(axes, (point.x, point.y)) for point in points]
    marks = [_around(x, y, 6.5 * scale, 6.5 * scale) for x, y in where]
    bars = [_bar(axes, point, spot, scale) for point, spot in zip(points, where, strict=True)]
    drawn = [(_spot(axes, start), _spot(axes, end)) for start, end in lines]
    choices = [
        _places(spot, extent, scale, frame, number, marks, [*bars, *written], drawn)
        for number, (spot, extent) in enumerate(zip(where, extents, strict=True))
    ]
    for point, text, (x, y), place in zip(points, texts, where, _best(choices), strict=True):
        centre = ((place.box.x0 + place.box.x1) / 2, (place.box.y0 + place.box.y1) / 2)
        text.set_position(((centre[0] - x) / scale, (centre[1] - y) / scale))
        if place.leader is not None:
            end = place.leader[1]
            axes.annotate(
                "",
                (point.x, point.y),
                xytext=((end[0] - x) / scale, (end[1] - y) / scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4},
            )
    return texts


def _spot(axes: Axes, point: Spot) -> Spot:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _bar(axes: Axes, point: Point, spot: Spot, scale: float) -> Box | None:
    if not (math.isfinite(point.low) and math.isfinite(point.high)):
        return None
    ends = sorted(_spot(axes, (point.x, value))[1] for value in (point.low, point.high))
    return Box(spot[0] - 4 * scale, ends[0] - scale, spot[0] + 4 * scale, ends[1] + scale)


def _places(
    spot: Spot,
    extent: Box,
    scale: float,
    frame: Box,
    number: int,
    marks: Sequence[Box],
    bars: Sequence[Box | None],
    lines: Sequence[Line],
) -> list[_Place]:
    """Every place for one label, the cheapest first."""
    half_w, half_h = (extent.x1 - extent.x0) / 2 + 1.5 * scale, (extent.y1 - extent.y0) / 2 + 1.5 * scale
    taken = [*marks, *(bar for bar in bars if bar is not None)]
    foreign = [box for place, box in enumerate(marks) if place != number]
    foreign += [bar for place, bar in enumerate(bars) if bar is not None and place != number]
    found = []
    for radius in _RADII_PT:
        for rank, angle in enumerate(_ANGLES):
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            box = _around(
                spot[0] + cos * (radius * scale + half_w), spot[1] + sin * (radius * scale + half_h), half_w, half_h
            )
            end = (min(max(spot[0], box.x0), box.x1), min(max(spot[1], box.y0), box.y1))
            leader = (spot, end) if math.dist(end, spot) > _LEADER_FROM_PT * scale else None
            cost = radius + rank / 10 + (15 if leader else 0)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            cost += 0 if inside else _HIDDEN
            cost += _HIDDEN * sum(box.overlaps(other) for other in taken)
            cost += _CROSSED * sum(meets(line, box) for line in lines)
            if leader:
                cost += _BLOCKED * sum(meets(leader, other) for other in foreign)
                cost += _CROSSED * sum(cross(leader, line) for line in lines)
            found.append(_Place(box=box, leader=leader, cost=cost))
    return sorted(found, key=lambda place: place.cost)


def _best(choices: Sequence[Sequence[_Place]]) -> list[_Place]:
    """One place for each label, by several greedy passes in different orders."""
    order = sorted(range(len(choices)), key=lambda number: -choices[number][0].cost)
    least = sum(places[0].cost for places in choices)
    shuffle = random.Random(0)  # the same charts each time
    best: tuple[float, list[_Place]] | None = None
    for _ in range(_ORDERS):
        chosen: dict[int, _Place] = {}
        total = 0.0
        for number in order:
            cost, chosen[number] = _cheapest(choices[number], chosen.values())
            total += cost
        if best is None or total < best[0]:
            best = total, [chosen[number] for number in range(len(choices))]
        if best[0] <= least:
            break
        shuffle.shuffle(order)
    assert best is not None
    return best[1]


def _cheapest(places: Sequence[_Place], others: Collection[_Place]) -> tuple[float, _Place]:
    """The place that costs least beside the labels placed so far."""
    found = math.inf, places[0]
    for place in places:
        if place.cost >= found[0]:  # sorted: none of the rest can be cheaper
            break
        cost = _cost(place, others)
        if cost < found[0]:
            found = cost, place
    return found


def _cost(place: _Place, others: Iterable[_Place]) -> float:
    cost = place.cost
    for other in others:
        cost += _HIDDEN * place.box.overlaps(other.box)
        if other.leader is not None:
            cost += _BLOCKED * meets(other.leader, place.box)
        if place.leader is not None:
            cost += _BLOCKED * meets(place.leader, other.box)
            cost += _BLOCKED * (other.leader is not None and cross(place.leader, other.leader))
    return cost


def _around(x: float, y: float, half_width: float, half_height: float) -> Box:
    return Box(x - half_width, y - half_height, x + half_width, y + half_height)


def meets(line: Line, box: Box) -> bool:
    """Whether a straight line touches a box.

    Source: Liang and Barsky, "A new concept and method for line clipping" (1984).
    """
    (x0, y0), (x1, y1) = line
    enter, leave = 0.0, 1.0
    for step, room_before, room_after in ((x1 - x0, box.x0 - x0, box.x1 - x0), (y1 - y0, box.y0 - y0, box.y1 - y0)):
        if step == 0:
            if room_before > 0 or room_after < 0:
                return False
            continue
        first, last = sorted((room_before / step, room_after / step))
        enter, leave = max(enter, first), min(leave, last)
    return enter <= leave


def cross(one: Line, other: Line) -> bool:
    """Whether two straight lines cross."""

    def side(line: Line, point: Spot) -> float:
        (x0, y0), (x1, y1) = line
        return (x1 - x0) * (point[1] - y0) - (y1 - y0) * (point[0] - x0)

    return side(one, other[0]) * side(one, other[1]) < 0 and side(other, one[0]) * side(other, one[1]) < 0
