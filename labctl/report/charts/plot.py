"""The look of every chart: one style, a look for each format, title and caption, the same bytes each time."""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labctl.engines import formats, usual_formats
from labctl.machine.surroundings import plain_matplotlib
from labctl.report.text import plain, printable, with_units

with plain_matplotlib():
    import matplotlib as mpl
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, LIGHT, ALARM = "#1a1a1a", "#5f6368", "#8b929a", "#9c2c00"
# After Okabe and Ito, "Color Universal Design" (2008), each darkened to a contrast of at least 3 on white; no yellow.
PALETTE = ("#000000", "#B67700", "#2A8FCB", "#00855F", "#0060A0", "#C94F00", "#B5588C")
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
    "hatch.color": "white",
    "hatch.linewidth": 1.1,
    "svg.hashsalt": "labctl",
    "svg.fonttype": "path",
}
_HATCHES = ("", "..", "//", "\\\\\\\\", "xx", "--", "oo", "||", "++", "**")
WIDTH_IN = 8.4
_NOTICE = "notice-"
_LINE_IN = 0.185
_MARGIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colour and marker of a format or a run."""

    color: str
    marker: str


def look(name: str) -> Look:
    """The look of a format: the same in every chart of every lab, whatever formats stand beside it.

    No two formats share one. What is not a format (the type of a source that was quantized elsewhere) gets one of its
    own from its name.
    """
    return look_at(_PLACES[name] if name in _PLACES else len(_PLACES) + zlib.crc32(name.encode()) % 40)


def look_at(place: int) -> Look:
    """The look at a place of a list; 84 places differ."""
    again, color = divmod(place, len(PALETTE))
    return Look(color=PALETTE[color], marker=MARKERS[(color + again) % len(MARKERS)])


# The course's seven first, in its order: they get a colour each.
_PLACES = {name: place for place, name in enumerate(dict.fromkeys(("F16", *usual_formats(), *sorted(formats()))))}


def hatch(name: str) -> str:
    """A pattern for areas of a format, so that they differ without colour too."""
    return _HATCHES[_PLACES.get(name, zlib.crc32(name.encode())) % len(_HATCHES)]


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


def wrapped(text: str, size_pt: float, *, bold: bool = False) -> list[str]:
    """Lines of a text that are no wider than a chart has room for, as the chart's font draws them."""
    room_pt = 72 * WIDTH_IN * (1 - 2 * _MARGIN)
    font = font_manager.get_font(
        font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal"))
    )
    font.set_size(size_pt, 72)

    def width_pt(line: str) -> float:
        font.set_text(line, 0.0)
        return float(font.get_width_height()[0]) / 64

    lines = [""]
    for word in with_units(chart_text(text)).split(" "):
        while width_pt(word) > room_pt:  # a name without a blank
            part = next(n for n in range(len(word) - 1, 0, -1) if width_pt(word[:n]) <= room_pt)
            lines, word = [*lines, word[:part], ""], word[part:]
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_pt(longer) > room_pt:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line.replace("\u00a0", " ") for line in lines if line]


def new_figure(
    title: str,
    captions: Sequence[str],
    notices: Sequence[str],
    *,
    plot_in: float,
    n_axes: int = 1,
    legend: int = 0,
    axis_in: float = 0.72,
) -> tuple[Figure, list[Axes]]:
    """A figure with its finding on top and its caption below, and axes side by side between them.

    Args:
        title: one sentence.
        captions: lines of small print; wrapped.
        notices: what must not be overlooked; set apart by colour and weight.
        plot_in: height of the axes, inches.
        legend: lines of legend to keep room for between the title and the axes.
        axis_in: room under the axes for their ticks and names, inches.
    """
    heads = wrapped(title, 13, bold=True)
    feet = [line for text in captions for line in wrapped(text, 8.5)]
    alarms = [line for text in notices for line in wrapped(f"Note: {plain(text)}", 8.5, bold=True)]
    above = 0.18 + 0.26 * len(heads) + (0.09 + 0.25 * legend if legend else 0.12)
    below = axis_in + _LINE_IN * (len(feet) + len(alarms)) + 0.12
    height = above + plot_in + below
    figure = Figure(figsize=(WIDTH_IN, height), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        _MARGIN,
        1 - 0.14 / height,
        "\n".join(heads),
        fontsize=13,
        fontweight="bold",
        color=INK,
        va="top",
        linespacing=1.3,
    )
    for place, line in enumerate([*feet, *alarms]):
        is_notice = place >= len(feet)
        figure.text(
            _MARGIN,
            (0.1 + _LINE_IN * (len(feet) + len(alarms) - place)) / height,
            line,
            fontsize=8.5,
            va="top",
            color=ALARM if is_notice else GREY,
            fontweight="bold" if is_notice else "normal",
            gid=f"{_NOTICE}{place}" if is_notice else None,
        )
    grid = figure.add_gridspec(
        1, n_axes, left=0.11, right=0.975, top=1 - above / height, bottom=below / height, wspace=0.08
    )
    return figure, [figure.add_subplot(grid[0, column]) for column in range(n_axes)]


def not_below_zero(axes: Axes) -> None:
    """Sizes, speeds and perplexities are never negative: no axis of theirs goes below 0."""
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))


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


def without_notices(svg: str) -> str:
    """An SVG file of `render` without its lowest lines, the notices: the page says them as text, once for all."""
    strip = 72 * _LINE_IN * len(re.findall(rf'<g id="{_NOTICE}\d+">', svg))

    def shorter(found: re.Match[str]) -> str:
        width, height = (float(found[name]) for name in ("width", "height"))
        return f'{found["before"]}width="{width}pt" height="{height - strip}pt" viewBox="0 0 {width} {height - strip}"'

    size = r'width="(?P<width>[\d.]+)pt" height="(?P<height>[\d.]+)pt" viewBox="[\d. ]+"'
    hidden = re.sub(rf'<g id="({_NOTICE}\d+)">', r'<g id="\1" visibility="hidden">', svg)
    return re.sub(rf"(?P<before><svg [^>]*?){size}", shorter, hidden, count=1) if strip else svg


def draw_mark(
    axes: Axes,
    style: Look,
    x: float,
    y: float,
    low: float,
    high: float,
    *,
    across: bool = False,
    size: float = 8.5,
    edge: float = 0.8,
    bar: float = 1.7,
) -> None:
    """A format's marker with the bar of its interval, if it has one.

    Args:
        low, high: ends of the interval of y, or of x if `across`; NaN or infinite for none.
        size, edge, bar: of marker, its white rim and the bar's line, in points.
    """
    middle = x if across else y
    reach = (
        [[max(0.0, middle - low)], [max(0.0, high - middle)]] if math.isfinite(low) and math.isfinite(high) else None
    )
    marker, _, _ = axes.errorbar(
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
    marker.set_clip_on(False)  # a marker on the axis is whole
