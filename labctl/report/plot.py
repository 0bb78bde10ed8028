"""The look of every chart: one style, labels that keep clear of each other, a caption, the same bytes each time."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labctl.report.text import printable
from labctl.surroundings import plain_matplotlib

with plain_matplotlib():
    import matplotlib as mpl
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, LIGHT, ALARM = "#1a1a1a", "#5f6368", "#d9dce1", "#9c2c00"
# Source: Okabe and Ito, "Color Universal Design" (2008); its yellow is left out, being too pale on white.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11.0,
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#e9ebee",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "errorbar.capsize": 3.0,
    "svg.hashsalt": "labctl",
    "svg.fonttype": "path",
}
WIDTH_IN = 8.4
_LINE_IN = 0.185
_ANGLES = (45, -45, 135, -135, 0, 180, 90, -90, 20, -20, 160, -160, 70, -70, 110, -110)
_RADII_PT = (9, 14, 20, 28, 38, 50, 64, 80, 100, 125, 155, 190)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colour and marker of a format: the same in every chart of a lab."""

    color: str
    marker: str


def look(place: int) -> Look:
    """The look of the format at this place of the lab's order; colours repeat after seven, markers after twelve."""
    return Look(color=PALETTE[place % len(PALETTE)], marker=MARKERS[place % len(MARKERS)])


@contextmanager
def styled() -> Iterator[None]:
    """Everything drawn and saved inside has the lab's style, whatever the user's own matplotlib settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def chart_text(text: str) -> str:
    """Text without what the chart's font cannot draw."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return "".join(c if c == " " or font.get_char_index(ord(c)) else "?" for c in printable(text))


def new_figure(
    title: str,
    captions: Sequence[str],
    notices: Sequence[str],
    *,
    plot_in: float,
    n_axes: int = 1,
    legend: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with its finding on top and its caption below, and axes side by side between them.

    Args:
        title: one sentence.
        captions: lines of small print; wrapped.
        notices: what must not be overlooked; set apart by colour and weight.
        plot_in: height of the axes, inches.
        legend: keep room for a legend between the title and the axes.
    """
    heads = textwrap.wrap(chart_text(title), 78)
    feet = [line for text in captions for line in textwrap.wrap(chart_text(text), 118)]
    alarms = [line for text in notices for line in textwrap.wrap(f"Note: {chart_text(text)}", 108)]
    above = 0.18 + 0.26 * len(heads) + (0.34 if legend else 0.12)
    below = 0.72 + _LINE_IN * (len(feet) + len(alarms)) + 0.12
    height = above + plot_in + below
    figure = Figure(figsize=(WIDTH_IN, height), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.02, 1 - 0.14 / height, "\n".join(heads), fontsize=13, fontweight="bold", color=INK, va="top", linespacing=1.3
    )
    for place, line in enumerate([*alarms, *feet]):
        figure.text(
            0.02,
            (0.1 + _LINE_IN * (len(feet) + len(alarms) - place)) / height,
            line,
            fontsize=8.5,
            va="top",
            color=ALARM if place < len(alarms) else GREY,
            fontweight="bold" if place < len(alarms) else "normal",
        )
    grid = figure.add_gridspec(
        1, n_axes, left=0.11, right=0.975, top=1 - above / height, bottom=below / height, wspace=0.08
    )
    return figure, [figure.add_subplot(grid[0, column]) for column in range(n_axes)]


def legend_above(axes: Axes) -> None:
    """The legend in the room that `new_figure` keeps for it: one line of up to six short names."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=6,
        frameon=False,
        fontsize=9.5,
        handlelength=1.8,
        columnspacing=1.3,
        borderpad=0.2,
    )


def render(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG (200 dpi) and SVG; the same figure gives the same bytes."""
    files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=200, metadata=metadata)
        files[kind] = stream.getvalue()
    return files


# -- labels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A marker to label, in data units; `low` and `high` are the ends of its error bar."""

    label: str
    x: float
    y: float
    color: str
    low: float = math.nan
    high: float = math.nan


def draw_mark(
    axes: Axes, style: Look, x: float, y: float, low: float, high: float, *, across: bool = False, size: float = 8.5,
    edge: float = 0.8, bar: float = 1.7,
) -> None:  # fmt: skip
    """A format's marker with the bar of its interval, if it has one.

    Args:
        low, high: ends of the interval of y, or of x if `across`; NaN or infinite for none.
        size, edge, bar: of marker, its white rim and the bar's line, in points.
    """
    middle = x if across else y
    reach = (
        [[max(0.0, middle - low)], [max(0.0, high - middle)]] if math.isfinite(low) and math.isfinite(high) else None
    )
    axes.errorbar(
        x,
        y,
        xerr=reach if across else None,
        yerr=None if across else reach,
        fmt=style.marker,
        color=style.color,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=edge,
        elinewidth=bar,
        zorder=3,
    )


def place_labels(axes: Axes, points: Sequence[Point], front: Sequence[tuple[float, float]] = ()) -> list[Text]:
    """Write each point's label where it touches no other label, no marker and no error bar.

    A place that also keeps clear of the front's line is preferred; a label away from its marker gets a thin leader.
    The limits of the axes must be final.

    Args:
        front: corners of a line through the plot, in data units.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        return []
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    scale = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    where = [axes.transData.transform((point.x, point.y)) for point in points]
    taken = [_around(x, y, 6.5 * scale, 6.5 * scale) for x, y in where]
    for point, (x, _) in zip(points, where, strict=True):
        if math.isfinite(point.low) and math.isfinite(point.high):
            ends = [axes.transData.transform((point.x, value))[1] for value in (point.low, point.high)]
            taken.append(Bbox.from_extents(x - 4 * scale, min(ends) - scale, x + 4 * scale, max(ends) + scale))
    line = [tuple(axes.transData.transform(corner)) for corner in front]
    placed: list[Text] = []
    leaders: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for point, (x, y) in zip(points, where, strict=True):
        text = axes.annotate(
            chart_text(point.label),
            (point.x, point.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=11,
            color=INK,
        )
        extent = Text.get_window_extent(text, renderer)
        half_w, half_h = extent.width / 2 + 1.5 * scale, extent.height / 2 + 1.5 * scale
        best = _find_place((x, y), (half_w, half_h), scale, frame, taken, line, leaders)
        text.set_position(((best[0] - x) / scale, (best[1] - y) / scale))
        box = _around(*best, half_w, half_h)
        end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
        if math.dist(end, (x, y)) > 14 * scale:
            axes.annotate(
                "",
                (point.x, point.y),
                xytext=((end[0] - x) / scale, (end[1] - y) / scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4},
            )
            leaders.append(((x, y), end))
        taken.append(box)
        placed.append(text)
    return placed


def _find_place(
    centre: tuple[float, float],
    half: tuple[float, float],
    scale: float,
    frame: Bbox,
    taken: Sequence[Bbox],
    line: Sequence[tuple[float, float]],
    leaders: Sequence[tuple[tuple[float, float], tuple[float, float]]],
) -> tuple[float, float]:
    """The nearest free centre for a label; one that also clears lines and leaders if there is any."""
    spare: tuple[float, float] | None = None
    for radius in _RADII_PT:
        for angle in _ANGLES:
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            spot = (centre[0] + cos * (radius * scale + half[0]), centre[1] + sin * (radius * scale + half[1]))
            box = _around(*spot, *half)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if not inside or any(box.overlaps(other) for other in taken):
                continue
            crossed = any(_crosses(box, a, b) for a, b in [*itertools.pairwise(line), *leaders])
            pointer = (centre, (min(max(centre[0], box.x0), box.x1), min(max(centre[1], box.y0), box.y1)))
            near = math.dist(*pointer) <= 14 * scale
            blocked = not near and any(_crosses(other, *pointer) for other in taken if not other.contains(*centre))
            if not crossed and not blocked:
                return spot
            spare = spare or spot
    return spare or (centre[0], centre[1])


def _around(x: float, y: float, half_width: float, half_height: float) -> Bbox:
    return Bbox.from_extents(x - half_width, y - half_height, x + half_width, y + half_height)


def _crosses(box: Bbox, start: tuple[float, float], end: tuple[float, float]) -> bool:
    """Whether a line meets a box, looked at every few pixels: good enough to keep text readable."""
    steps = max(2, int(math.dist(start, end) / 4))
    return any(
        box.contains(start[0] + (end[0] - start[0]) * k / steps, start[1] + (end[1] - start[1]) * k / steps)
        for k in range(steps + 1)
    )
