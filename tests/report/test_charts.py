"""Charts: labels that keep clear, axes with units, the same bytes twice, nothing drawn of nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.lab_factory import (
    FIGURES,
    FORMATS,
    empty_lab,
    generation_run,
    gguf_file,
    make_lab,
    memory_run,
    nll_of,
    perplexity_run,
    speed_run,
    text_source,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from labctl.engines.llama_cpp.formats import FORMATS as LLAMA_ORDER
from labctl.report.charts import CHARTS, draw_charts, findings_of
from labctl.report.charts.labels import Box, Point, cross, meets, place_labels
from labctl.report.charts.plot import PALETTE, hatch, look, new_figure, styled
from labctl.report.figures import figures_of, table
from labctl.report.page.data import page_data
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE


def draw(name: str, lab: Measured) -> Figure | None:
    return CHARTS[name].draw(lab, figures_of(lab), 0.02, "A finding, as the title of the chart")


_drawn: dict[tuple[str, str], tuple[Measured, Figure]] = {}


def figure_of(lab: Measured, name: str) -> Figure:
    """A chart as it is drawn; each once, several tests look at it."""
    known = _drawn.get((lab.folder, name))
    if known is None or known[0] is not lab:
        _drawn[lab.folder, name] = known = lab, _draw(lab, name)
    return known[1]


def _draw(lab: Measured, name: str) -> Figure:
    with styled():
        figure = draw(name, lab)
        assert figure is not None
        renderer_of(figure)
    return figure


def renderer_of(figure: Figure) -> RendererAgg:
    """Draw the figure; what drew it."""
    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.canvas.draw()
    renderer: RendererAgg = figure.canvas.get_renderer()
    return renderer


def line_ends(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def boxes(figure: Figure) -> dict[str, Bbox]:
    """Every text that is drawn with its place; equal texts are told apart by number."""
    renderer = renderer_of(figure)
    ticks = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    }
    drawn = {
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = (text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip())
    return {
        f"{number}: {text.get_text()}": Text.get_window_extent(text, renderer)
        for number, text in enumerate(texts)
        if text not in ticks or text in drawn
    }


def crowded(lab: Measured) -> Measured:
    """Q4_K_S almost on top of Q4_K_M in every respect, Q3_K_M near both."""
    folder = Path(lab.folder)
    for name, n_bytes, ppl, tps in (("Q4_K_S", 10174000, 19.386, 2541.0), ("Q3_K_M", 10100000, 19.40, 2530.0)):
        lab.of(QUANTIZE)[name] = replace(lab.of(QUANTIZE)[name], size_bytes=n_bytes)
        lab.of(PERPLEXITY)[name] = perplexity_run(folder, name, nll_of(ppl, 0.3, 5))
        lab.of(BENCH)[name] = speed_run(name, 9000, tps, 3)
    return lab


MORE = {"Q5_K_S": "Q5_K_M", "Q4_0": "Q4_K_S", "IQ4_XS": "Q4_K_S", "Q3_K_S": "Q3_K_M", "Q2_K": "Q3_K_M"}


def twelve(lab: Measured) -> Measured:
    """Five more formats between the course's seven."""
    folder = Path(lab.folder)
    lab = replace(lab, formats=tuple(name for name in LLAMA_ORDER if name in FORMATS or name in MORE))
    for place, (name, like) in enumerate(MORE.items()):
        n_bytes, ppl, half, pp, tg, capitals, sums = FIGURES[like]
        share = 1 - 0.02 * (place + 1)
        lab.of(QUANTIZE)[name] = replace(gguf_file(like, name), size_bytes=int(n_bytes * share))
        lab.of(PERPLEXITY)[name] = perplexity_run(folder, name, nll_of(ppl * (1 + 0.03 * place), half, 20 + place))
        lab.of(BENCH)[name] = speed_run(name, pp * share, tg * (1 + 0.03 * place), 30 + place)
        lab.of(MEMORY)[name] = memory_run(name, int(n_bytes * share))
        lab.of(GENERATE)[name] = generation_run(name, capitals, sums, 5)
    return lab


def spread(lab: Measured) -> Measured:
    """Perplexities and speeds that differ by factors of tens and thousands."""
    lab.of(PERPLEXITY)["Q3_K_M"] = perplexity_run(Path(lab.folder), "Q3_K_M", nll_of(250.0, 9.0, 5))
    lab.of(BENCH)["Q8_0"] = speed_run("Q8_0", 80, 12, 3)
    lab.of(BENCH)["F16"] = speed_run("F16", 90000, 9, 3)
    return lab


def only(*names: str) -> Callable[[Measured], Measured]:
    return lambda lab: make_lab(Path(lab.folder) / "few", names)


LABS: dict[str, Callable[[Measured], Measured]] = {
    "seven": lambda lab: lab,
    "crowded": crowded,
    "twelve": twelve,
    "spread": spread,
    "two": only("F16", "Q4_K_M"),
    "one": only("F16"),
}


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    return {kind: change(make_lab(tmp_path_factory.mktemp(kind))) for kind, change in LABS.items()}


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("kind", LABS)
def test_no_text_meets_another_or_leaves_the_figure(labs: dict[str, Measured], name: str, kind: str) -> None:
    lab = replace(labs[kind], text=text_source("demo", "Measured on the demo text, not on WikiText-2. " * 4))
    if kind == "one" and draw(name, lab) is None:
        return
    figure = figure_of(lab, name)
    found = boxes(figure)
    for (one, a), (other, b) in itertools.combinations(found.items(), 2):
        assert not a.overlaps(b), (one, other)
    width, height = figure.canvas.get_width_height()
    for text, box in found.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text


SCATTERS = ("size_vs_quality", "size_vs_performance", "speed_vs_bits")


@pytest.mark.parametrize("name", SCATTERS)
@pytest.mark.parametrize("kind", LABS)
def test_labels_and_leaders_keep_clear(labs: dict[str, Measured], name: str, kind: str) -> None:
    lab = labs[kind]
    figure = figure_of(lab, name)
    axes, renderer = figure.axes[0], renderer_of(figure)
    labels = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text() in lab.formats]
    assert sorted(text.get_text() for text in labels) == sorted(lab.formats)
    placed = [Box(*Text.get_window_extent(text, renderer).extents) for text in labels]
    radius = 4.5 * figure.dpi / 72
    marks = [axes.transData.transform(text.xy) for text in labels]
    around = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in marks]
    for box, mark in itertools.product(placed, around):
        assert not box.overlaps(mark)
    leaders = [
        (tuple(axes.transData.transform(text.xy)), tuple(text.get_transform().transform(text.get_position())))
        for text in axes.texts
        if isinstance(text, Annotation) and text.arrow_patch is not None
    ]
    for line in leaders:
        own = min(range(len(marks)), key=lambda place: math.dist(marks[place], line[0]))
        foreign = [box for place, box in enumerate(around) if place != own and not meets((line[0], line[0]), box)]
        assert not any(meets(line, box) for box in foreign)
        assert sum(meets(line, box) for box in placed) <= 1
    assert not any(cross(one, other) for one, other in itertools.combinations(leaders, 2))


def test_lines_and_boxes_meet_as_geometry_says() -> None:
    box = Box(1, 1, 2, 2)
    assert meets(((0, 0), (3, 3)), box) and meets(((1.5, 0), (1.5, 9)), box) and meets(((1.2, 1.2), (1.4, 1.4)), box)
    assert (
        not meets(((0, 0), (0.9, 0.9)), box) and not meets(((0, 3), (3, 2.5)), box) and not meets(((3, 0), (3, 9)), box)
    )
    assert cross(((0, 0), (2, 2)), ((0, 2), (2, 0))) and not cross(((0, 0), (1, 1)), ((2, 0), (2, 9)))


@pytest.mark.parametrize("kind", LABS)
@pytest.mark.parametrize("name", ["size_vs_quality", "size_vs_performance"])
def test_the_front_never_bends_back(labs: dict[str, Measured], name: str, kind: str) -> None:
    axes = figure_of(labs[kind], name).axes[0]
    fronts = [line for line in axes.lines if "no other file drawn" in str(line.get_label())]
    column, better = ("ppl", 1) if name == "size_vs_quality" else ("tg_tps", -1)
    figures = figures_of(labs[kind])
    frame = table(labs[kind], figures)[["size_bytes", column]].astype(float)
    spots = {(size / 1e6, y) for size, y in frame.itertuples(index=False)}
    free = {
        (x, y)
        for x, y in spots
        if not any((a, better * b) != (x, better * y) and a <= x and better * b <= better * y for a, b in spots)
    }
    assert bool(fronts) == (len(free) > 1)
    for line in fronts:
        ends = line_ends(line)
        xs, ys = [x for x, _ in ends], [better * y for _, y in ends]
        assert xs == sorted(xs) and ys == sorted(ys, reverse=True)
        assert set(ends) == free


@pytest.mark.parametrize("kind", LABS)
def test_no_axis_of_sizes_or_speeds_goes_below_zero(labs: dict[str, Measured], kind: str) -> None:
    for name in (*SCATTERS, "speed", "memory"):
        for axes in figure_of(labs[kind], name).axes:
            assert axes.get_xlim()[0] >= 0
            assert name in ("speed", "memory") or axes.get_ylim()[0] >= 0


def test_limit_and_pick_are_marked_where_the_title_speaks_of_them(labs: dict[str, Measured]) -> None:
    axes = figure_of(labs["seven"], "size_vs_quality").axes[0]
    base = figures_of(labs["seven"])["F16"].ppl
    assert base is not None
    assert any([y for _, y in line_ends(line)] == [1.02 * base] * 2 for line in axes.lines)
    assert "limit: +2 %" in {text.get_text() for text in axes.texts}
    assert next(text for text in axes.texts if text.get_text() == "Q6_K").get_fontweight() == "bold"
    legend = axes.get_legend()
    assert legend is not None
    assert "Q6_K: the smallest that passes" in {text.get_text() for text in legend.get_texts()}


@pytest.mark.parametrize("scale", [1, 60, 400])
def test_captions_explain_what_is_drawn_and_nothing_else(tmp_path: Path, scale: int) -> None:
    lab = make_lab(tmp_path, ("F16", "Q4_K_M"))
    for name in lab.formats:
        lab.of(MEMORY)[name] = memory_run(name, FIGURES[name][0] * scale)
    figure = figure_of(lab, "memory")
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert bool(dashed) == (scale > 1)
    assert ("Dashed" in " ".join(text.get_text() for text in figure.texts)) == bool(dashed)
    alone = make_lab(tmp_path / "alone", ("F16",))
    words = " ".join(text.get_text() for text in figure_of(alone, "size_vs_quality").texts)
    assert "Bars" not in words and figure_of(alone, "size_vs_quality").axes[0].get_legend() is None


# -- the look of a format ---------------------------------------------------------------------------------------------


def test_every_format_has_a_look_of_its_own_that_can_be_seen() -> None:
    looks = [look(name) for name in LLAMA_ORDER]
    assert len({(one.color, one.marker) for one in looks}) == len(LLAMA_ORDER)
    assert len({look(name).color for name in FORMATS}) == len({look(name).marker for name in FORMATS}) == 7
    assert len({hatch(name) for name in FORMATS}) == 7
    assert look("something else") == look("something else")
    for color in PALETTE:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 3, color  # WCAG 2.1, 1.4.11


def test_a_format_looks_the_same_whatever_stands_beside_it(labs: dict[str, Measured]) -> None:
    seen: dict[str, set[tuple[str, str]]] = {}
    for kind in ("seven", "two", "twelve"):
        lab = labs[kind]
        data = page_data(lab, figures_of(lab), (0.3, 0.4, 0.3), 0.02)
        for one in data["formats"]:
            seen.setdefault(one["name"], set()).add((one["color"], one["marker"]))
        for name in ("size_vs_quality", "speed"):
            for axes in figure_of(lab, name).axes:
                drawn = {(line.get_color(), line.get_marker()) for line in axes.lines}
                assert {(look(one).color, look(one).marker) for one in lab.formats} <= drawn
    assert all(len(looks) == 1 for looks in seen.values())


def test_the_map_of_winners_reads_without_colour(labs: dict[str, Measured]) -> None:
    figure = figure_of(labs["seven"], "winner_map")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    patches = {
        text.get_text(): patch.get_hatch() for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert len(set(patches.values())) == len(patches) > 2
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} & set(patches), "large areas carry their name"


def test_ten_points_in_one_place_are_all_labelled() -> None:
    with styled():
        figure, (axes,) = new_figure("title", ["caption"], [], plot_in=4)
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 10)
        texts = place_labels(axes, [Point(label=f"IQ4_NL{n}", x=5, y=5 + n / 50) for n in range(10)])
        renderer = renderer_of(figure)
    placed = [Text.get_window_extent(text, renderer) for text in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(placed, 2))


def test_axes_have_names_with_units(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    units = {
        "size_vs_quality": ("MB", "Perplexity"),
        "size_vs_performance": ("MB", "tokens/second"),
        "ppl_increase": ("%", ""),
        "speed": ("tokens/second", ""),
        "memory": ("MB", ""),
    }
    for name, (x_unit, y_unit) in units.items():
        for axes in figure_of(lab, name).axes:
            assert x_unit in axes.get_xlabel()
            assert y_unit in axes.get_ylabel()
    files = {name: replace(file, size_bytes=file.size_bytes * 500) for name, file in lab.of(QUANTIZE).items()}
    assert "GB" in figure_of(lab.having(QUANTIZE, files), "size_vs_quality").axes[0].get_xlabel()


def test_notices_and_conditions_are_under_every_chart(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    lab = replace(lab, text=text_source("demo", "NOT-OFFICIAL"), warnings=("DRIFTED",))
    for name in CHARTS:
        words = " ".join(text.get_text() for text in figure_of(lab, name).texts)
        perplexities = name in ("size_vs_quality", "ppl_increase", "winner_map")
        assert ("NOT-OFFICIAL" in words) == perplexities, name  # the text says nothing about speed or memory
        speeds = name in ("size_vs_performance", "speed", "speed_vs_bits", "winner_map")
        assert ("DRIFTED" in words) == speeds, name  # a drift of speeds says nothing about perplexity or memory
        assert "Example CPU" in words and "threads: 2" in words and "llama.cpp b1234" in words
    words = " ".join(text.get_text() for text in figure_of(lab, "size_vs_quality").texts)
    assert "demo text" in words and "40 of 48 chunks" in words


def test_titles_say_what_was_found(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    said = findings_of(lab, figures_of(lab), 0.02)
    assert said["size_vs_quality"].startswith("Q6_K is the smallest file shown to stay under a 2 % increase")
    assert said["size_vs_performance"].startswith(
        "Q4_K_S generates text fastest: 2924 tokens/second, 2.433 (2.425 to 2.442) times F16"
    )
    assert said["ppl_increase"].endswith(
        "Q8_0 and Q6_K stay under it; Q5_K_M is undecided; Q4_K_M, Q4_K_S and Q3_K_M exceed it"
    )
    said = findings_of(lab, figures_of(lab, 0.0001), 0.0001)
    assert said["size_vs_quality"] == "No smaller file is shown to stay under a 0.01 % increase of perplexity"


def test_same_records_same_bytes(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    rows = figures_of(lab)
    said = findings_of(lab, rows, 0.02)
    first = draw_charts(lab, rows, 0.02, said)
    assert first == draw_charts(lab, rows, 0.02, said)
    assert set(first) == {f"{name}.{kind}" for name in CHARTS for kind in ("png", "svg")}
    assert all(data.startswith(b"\x89PNG") for name, data in first.items() if name.endswith("png"))
    assert not any(b"<dc:date>" in data for name, data in first.items() if name.endswith("svg"))


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    empty = empty_lab(tmp_path)
    assert draw_charts(empty, figures_of(empty), 0.02, findings_of(empty, figures_of(empty), 0.02)) == {}
    lab = make_lab(tmp_path, ("F16", "Q8_0", "Q6_K"))
    del lab.of(BENCH)["Q8_0"], lab.of(PERPLEXITY)["F16"]
    labels = {text.get_text() for text in figure_of(lab, "size_vs_performance").axes[0].texts}
    assert {"F16", "Q6_K"} <= labels and "Q8_0" not in labels
    assert draw("ppl_increase", lab) is None


def test_names_cannot_become_formulas_or_break_the_font(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    lab = replace(lab, model=replace(lab.model, name="a$x^2$_{}\x07模"))
    words = " ".join(text.get_text() for text in figure_of(lab, "memory").texts)
    assert "a$x^2$_{}?" in words


# -- what every chart must keep ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_says_what_it_is(labs: dict[str, Measured], name: str) -> None:
    chart, lab = CHARTS[name], labs["seven"]
    assert chart.name == name and chart.alt and chart.how_to_read
    finding = chart.finding(lab, figures_of(lab), 0.02)
    assert finding and finding[0].isupper() and not finding.endswith(".")
    assert chart.entry(finding)["reading"] == f"{chart.how_to_read}. {finding}."


@pytest.mark.parametrize("name", CHARTS)
def test_no_chart_is_drawn_of_nothing(tmp_path: Path, name: str) -> None:
    lab = empty_lab(tmp_path)
    assert draw(name, lab) is None
