"""Charts: labels that keep clear, axes with units, the same bytes twice, nothing drawn of nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from lab_factory import FORMATS, empty_lab, make_lab, nll_of, perplexity_run, speed_run, text_source
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from labctl.records import LabRecords
from labctl.report.analysis import frame, rows_of
from labctl.report.charts import CHARTS, draw_charts
from labctl.report.findings import performance_finding, quality_finding, verdict_finding
from labctl.report.plot import Point, new_figure, place_labels, styled


def figure_of(lab: LabRecords, name: str) -> Figure:
    with styled():
        figure = CHARTS[name](lab, rows_of(frame(lab)), 0.02)
        assert figure is not None
        assert isinstance(figure.canvas, FigureCanvasAgg)
        figure.canvas.draw()
    return figure


def boxes(figure: Figure) -> dict[str, Bbox]:
    """Every text that is drawn with its place; equal texts are told apart by number."""
    renderer = figure.canvas.get_renderer()
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


def crowded(lab: LabRecords) -> LabRecords:
    """Q4_K_S almost on top of Q4_K_M in every respect, Q3_K_M near both."""
    folder = Path(lab.folder)
    for name, n_bytes, ppl, tps in (("Q4_K_S", 10174000, 19.386, 2541.0), ("Q3_K_M", 10100000, 19.40, 2530.0)):
        lab.files[name] = replace(lab.files[name], size_bytes=n_bytes)
        lab.perplexity[name] = perplexity_run(folder, name, nll_of(ppl, 0.3, 5))
        lab.speed[name] = speed_run(name, 9000, tps, 3)
    return lab


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("crowd", [False, True])
def test_no_text_meets_another_or_leaves_the_figure(tmp_path: Path, name: str, crowd: bool) -> None:
    lab = make_lab(tmp_path)
    notice = "Measured on the demo text, not on WikiText-2. " * 4
    lab = replace(crowded(lab) if crowd else lab, text=text_source("demo", notice))
    figure = figure_of(lab, name)
    found = boxes(figure)
    for (one, a), (other, b) in itertools.combinations(found.items(), 2):
        assert not a.overlaps(b), (one, other)
    width, height = figure.canvas.get_width_height()
    for text, box in found.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text


@pytest.mark.parametrize("name", ["size_vs_quality", "size_vs_performance"])
def test_labels_keep_clear_of_markers(tmp_path: Path, name: str) -> None:
    lab = crowded(make_lab(tmp_path))
    figure = figure_of(lab, name)
    axes = figure.axes[0]
    labels = [text for text in axes.texts if text.get_text() in FORMATS]
    assert sorted(text.get_text() for text in labels) == sorted(FORMATS)
    radius = 4.5 * figure.dpi / 72
    for text, mark in itertools.product(labels, labels):
        box = Text.get_window_extent(text, figure.canvas.get_renderer())
        x, y = axes.transData.transform(mark.xy)
        near = (min(max(x, box.x0), box.x1) - x, min(max(y, box.y0), box.y1) - y)
        assert max(map(abs, near)) >= radius, (text.get_text(), mark.get_text())


def test_ten_points_in_one_place_are_all_labelled() -> None:
    with styled():
        figure, (axes,) = new_figure("title", ["caption"], [], plot_in=4)
        axes.set_xlim(0, 10)
        axes.set_ylim(0, 10)
        texts = place_labels(axes, [Point(label=f"IQ4_NL{n}", x=5, y=5 + n / 50, color="k") for n in range(10)])
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
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
    lab.files.update({name: replace(file, size_bytes=file.size_bytes * 500) for name, file in lab.files.items()})
    assert "GB" in figure_of(lab, "size_vs_quality").axes[0].get_xlabel()


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
    assert "demo text" in words and "40 of 40 chunks" in words


def test_titles_say_what_was_found(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    rows = rows_of(frame(lab))
    assert quality_finding(lab, rows, 0.02).startswith("Q6_K is the smallest file shown to stay under a 2 % increase")
    assert performance_finding(lab, rows).startswith(
        "Q4_K_S generates text fastest: 2923 tokens/second, 2.433 (2.425 to 2.442) times F16"
    )
    assert verdict_finding(lab, rows, 0.02).endswith(
        "Q8_0 and Q6_K stay under it; Q5_K_M is undecided; Q4_K_M, Q4_K_S and Q3_K_M exceed it"
    )
    rows = rows_of(frame(lab, 0.0001))
    assert (
        quality_finding(lab, rows, 0.0001) == "No quantized file is shown to stay under a 0.01 % increase of perplexity"
    )


def test_same_records_same_bytes(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    rows = rows_of(frame(lab))
    first = draw_charts(lab, rows, 0.02)
    assert first == draw_charts(lab, rows, 0.02)
    assert set(first) == {f"{name}.{kind}" for name in CHARTS for kind in ("png", "svg")}
    assert all(data.startswith(b"\x89PNG") for name, data in first.items() if name.endswith("png"))
    assert not any(b"<dc:date>" in data for name, data in first.items() if name.endswith("svg"))


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    empty = empty_lab(tmp_path)
    assert draw_charts(empty, rows_of(frame(empty)), 0.02) == {}
    lab = make_lab(tmp_path, ("F16", "Q8_0", "Q6_K"))
    del lab.speed["Q8_0"], lab.perplexity["F16"]
    labels = {text.get_text() for text in figure_of(lab, "size_vs_performance").axes[0].texts}
    assert {"F16", "Q6_K"} <= labels and "Q8_0" not in labels
    assert CHARTS["ppl_increase"](lab, rows_of(frame(lab)), 0.02) is None


def test_names_cannot_become_formulas_or_break_the_font(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    lab = replace(lab, model=replace(lab.model, name="a$x^2$_{}\x07模"))
    words = " ".join(text.get_text() for text in figure_of(lab, "memory").texts)
    assert "a$x^2$_{}?" in words
