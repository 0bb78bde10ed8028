"""What is said of a lab that has hardly any formats, or none that saves space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit.lab_factory import MACHINE, make_lab
from matplotlib.text import Annotation

from labctl.report.advice import caveats
from labctl.report.build import ReportOptions, build
from labctl.report.charts import CHARTS, findings_of
from labctl.report.charts.plot import styled
from labctl.report.drafts import surprise_draft
from labctl.report.figures import figures_of
from labctl.report.fit import TOO_LONG_WORDS, fit_table, largest_words
from labctl.report.order import Orders
from labctl.report.rules import in_ram, under_limit
from labctl.report.summary import answer_line
from labctl.report.text_tables import side_by_side
from labctl.report.uses import minimum_formats, reasoning
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE


def test_the_only_format_wins_nothing_and_each_answer_has_words(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16",))
    figures = figures_of(lab)
    said = findings_of(lab, figures, 0.02)
    assert "fastest" not in f"{said['speed']} {said['size_vs_performance']}" and said["speed"] == "Only F16 was timed"
    assert under_limit(figures, 0.02).text.startswith("Not measured: ")
    assert reasoning(figures, "F16", {}).text == "This lab has no format but F16."
    for _, answer in minimum_formats(figures, "F16", {}):
        assert answer.text == "this lab has no format but F16"
        assert "pct" not in answer.rule and "kld" not in answer.rule


def test_what_was_not_measured_is_not_spoken_of(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q4_K_M"))
    lab = lab.having(BENCH, {}).having(MEMORY, {}).having(GENERATE, {})
    figures = figures_of(lab)
    assert "Speed and memory" not in " ".join(caveats(lab, figures, MACHINE, (), 0.02))
    assert surprise_draft(figures, ()).startswith("Nothing measured is shown to go against")


def test_a_text_that_was_not_read_limits_nothing(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q4_K_M"))
    assert lab.text is not None
    lab = replace(lab, text=replace(lab.text, notice="Perplexity was measured on another text."))
    for records, said in ((lab, True), (lab.having(PERPLEXITY, {}), False)):
        build(records, tmp_path / "reports", ReportOptions())
        for name in ("worksheet.md", "recommendation.md", "index.html"):
            text = (tmp_path / "reports" / name).read_text("utf-8")
            assert ("Perplexity was measured on" in text) is said, name


def test_a_larger_file_that_passes_is_not_denied(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0", "Q3_K_M"))
    for name in ("Q8_0", "Q3_K_M"):
        lab.of(QUANTIZE)[name] = replace(lab.of(QUANTIZE)[name], size_bytes=lab.of(QUANTIZE)["F16"].size_bytes + 1000)
    figures = figures_of(lab)
    assert figures["Q8_0"].verdict == "pass"
    for said in (answer_line(lab, figures, 0.02), findings_of(lab, figures, 0.02)["size_vs_quality"]):
        assert "o smaller file is shown to stay under" in said


def test_prompts_side_by_side_are_of_formats_that_there_are(tmp_path: Path) -> None:
    for formats, shown in (
        (("F16", "Q8_0", "Q4_K_M"), ["F16", "Q8_0", "Q4_K_M"]),
        (("F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M"), ["F16", "Q5_K_M", "Q4_K_M", "Q3_K_M"]),
    ):
        table = side_by_side(make_lab(tmp_path / str(len(formats)), formats))
        assert [line.split()[1] for line in table.splitlines()[2:]] == shown


def test_a_context_beyond_training_is_not_called_a_lack_of_memory(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    for name, file in lab.of(QUANTIZE).items():
        lab.of(QUANTIZE)[name] = replace(file, shape=replace(file.shape, n_ctx_train=256))
    figures = figures_of(lab)
    assert TOO_LONG_WORDS in in_ram(lab, figures, Orders(lab, figures), 8).text
    said = largest_words(fit_table(lab, 8, 512))
    assert said[-1] == TOO_LONG_WORDS and "None fits" not in " ".join(said)


@pytest.mark.parametrize("first", [" Arab", ".", '"', " <b>", " é"])
def test_the_first_other_token_is_bold_whatever_it_is(tmp_path: Path, first: str) -> None:
    from labctl.report.page.markup import to_html

    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    for name, pieces in (("F16", ("5", " +", "x")), ("Q8_0", ("5", first, "x"))):
        run = lab.of(GENERATE)[name]
        texts = tuple(
            replace(one, tokens=(1, 2 if name == "F16" else 3, 4), pieces=pieces, text="".join(pieces))
            for one in run.generations
        )
        lab.of(GENERATE)[name] = replace(run, generations=texts)
    page = to_html(side_by_side(lab), {})
    assert page.count("<strong>") == page.count("</strong>") == 1 and "**" not in page


@pytest.mark.parametrize("high", [4.0, 16.0, 48.0, 400.0, 1e6])
@pytest.mark.parametrize("value", [3.2, 14.0])
def test_the_words_of_a_wide_interval_are_on_the_chart(tmp_path: Path, value: float, high: float) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0", "Q4_K_M"))
    figures = figures_of(lab)
    texts = figures["Q4_K_M"].perplexity
    assert texts is not None and texts.increase is not None
    increase = replace(texts.increase, pct=value, low_pct=-8.0, high_pct=max(value, high))
    wide = replace(figures["Q4_K_M"], perplexity=replace(texts, increase=increase))
    with styled():
        figure = CHARTS["ppl_increase"].draw(lab, {**figures, "Q4_K_M": wide}, 0.02, "")
    assert figure is not None
    axes = figure.axes[0]
    places = {text.get_text(): text.xy[0] for text in axes.texts if isinstance(text, Annotation)}
    assert len(places) == 2 and all(place <= axes.get_xlim()[1] for place in places.values())
    # An interval that holds the limit crosses the close-up too.
    assert not any("beyond this close-up" in text.get_text() for text in figure.axes[-1].texts)
    figure.canvas.draw()
    assert all(text.get_window_extent().x1 < figure.bbox.x1 for axes in figure.axes for text in axes.texts)


def test_a_split_of_memory_is_spoken_of_where_it_is_drawn(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    for untouched in (0, 10**12):
        for name, run in lab.of(MEMORY).items():
            loads = tuple(replace(load, compute_bytes=load.compute_bytes + untouched) for load in run.loads)
            lab.of(MEMORY)[name] = replace(run, loads=loads)
        with styled():
            figure = CHARTS["memory"].draw(lab, figures_of(lab), 0.02, "")
        assert figure is not None
        said = " ".join(text.get_text() for text in figure.texts)
        legend = figure.axes[0].get_legend()
        assert legend is not None
        drawn = {text.get_text() for text in legend.get_texts()}
        assert ("The split" in said) == ("weights" in drawn) == (not untouched)
