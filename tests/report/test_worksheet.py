"""The rendered worksheet and its neighbours: every question, no broken table, nothing the data do not say."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import (
    FORMATS,
    MACHINE,
    PROMPTS,
    empty_lab,
    generation_run,
    make_lab,
    nll_of,
    perplexity_run,
    text_source,
)

from labctl.errors import LabError
from labctl.records.units import gigabytes, significant
from labctl.report import worksheet
from labctl.report.board import boards
from labctl.report.build import ReportOptions, build, read_answers
from labctl.report.charts import CHARTS, findings_of
from labctl.report.coursefiles import perplexity_results, prompt_lines
from labctl.report.drafts import prediction, spearman, surprises
from labctl.report.figures import figures_of
from labctl.report.order import Orders
from labctl.report.questions import QUESTIONS
from labctl.report.rules import in_ram, production, to_drop, under_limit
from labctl.report.sheet import Sheet
from labctl.report.text import escape, table
from labctl.report.tradeoffs import sweet_spot
from labctl.report.uses import minimum_formats, reasoning
from labctl.steps.base import AnyStep
from labctl.steps.bench.step import BENCH
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured, StepFailure
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.figures import load_nll
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

JUDGED = [number for number, question in QUESTIONS.items() if question.kind == "judged"]


def sheet_of(lab: Measured, options: ReportOptions | None = None) -> Sheet:
    options = options or ReportOptions()
    return Sheet(
        records=lab,
        figures=figures_of(lab, options.limit),
        weights=options.weights,
        limit=options.limit,
        machine=options.machine,
        blank=options.blank,
    )


def render(lab: Measured, options: ReportOptions | None = None) -> str:
    """The worksheet as `build` renders it, without the time that drawing the charts takes."""
    return worksheet.render_worksheet(sheet_of(lab, options))


def section(text: str, number: int) -> str:
    return re.split(r"\n#{2,3} ", text.split(f"\n### Q{number}.", 1)[1])[0]


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    return make_lab(tmp_path)


def check_tables(text: str) -> None:
    """Every table has a blank line around it and as many cells in each row as in its head."""
    lines = text.split("\n")
    width = 0
    for place, line in enumerate(lines):
        if not line.startswith("|"):
            assert not width or line == "", line
            width = 0
            continue
        cells = line.count(" | ") + 1 if line.count("|") > 2 else 1
        if not width:
            assert lines[place - 1] == "", line
            width = cells
        assert cells == width, line


def test_all_questions_in_order_and_every_cell_filled(lab: Measured) -> None:
    text = render(lab)
    assert [int(n) for n in re.findall(r"^### Q(\d+)\.", text, re.M)] == list(QUESTIONS)
    assert not re.search(r"\| not measured", text)
    assert "nan" not in re.findall(r"\w+", text.lower()) and "None" not in text.split()
    assert text.count("**Draft - check it and put it in your own words:**") == len(JUDGED)
    check_tables(text)


def test_measured_cells(lab: Measured) -> None:
    text = render(lab)
    assert "| Q4_K_S | 0.00997 | 9,970,944 | 3.08x | 5.17 |" in section(text, 1)
    assert "| Q5_K_M | 18.4397 ± 0.3738 | +2.08 % | +1.89 to +2.26 % | 40 |" in section(text, 2)
    assert "Pass: Q8_0 and Q6_K. Undecided: Q5_K_M. Fail: Q4_K_M, Q4_K_S and Q3_K_M." in section(text, 3)
    assert 'after 9 of 100 tokens: " was"; F16: " in"' in section(text, 5)
    assert "84 of 88 (89 to 98 %)" in section(text, 7)
    assert "`outputs/labllama/records/bench-{F16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_K_S,Q3_K_M}.json`" in section(text, 8)
    assert "Q3_K_M: most bytes are q6_K (39 %)" in section(text, 1)


def test_nothing_measured_claims_nothing(tmp_path: Path) -> None:
    build(empty_lab(tmp_path), tmp_path / "r", ReportOptions(machine=MACHINE))
    text = (tmp_path / "r" / "worksheet.md").read_text("utf-8")
    assert [int(n) for n in re.findall(r"^### Q(\d+)\.", text, re.M)] == list(QUESTIONS)
    assert "![" not in text
    assert "Example CPU" in text
    assert not re.search(r"\d \((?:95|9)", text)
    check_tables(text)
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        *("worksheet.md", "recommendation.md", "results.csv", "model_sizes.txt", "perplexity_results.txt"),
        *("performance_results.csv", "index.html", "answers.toml"),
    }


@pytest.mark.parametrize("step", [QUANTIZE, PERPLEXITY, BENCH, MEMORY, GENERATE], ids=lambda step: step.name)
@pytest.mark.parametrize("missing", ["F16", "Q4_K_M"])
def test_a_missing_record_leaves_a_gap_with_its_reason(lab: Measured, step: AnyStep, missing: str) -> None:
    del lab.of(step)[missing]
    failure = StepFailure(step=step.name, format=missing, message="Ran out | of memory.", log_path="logs/x.log")
    text = render(replace(lab, failures=(failure,)))
    assert "not measured" in text
    assert "Ran out &#124; of memory." in text.split("### What is missing")[1].split("## Part 1")[0]
    check_tables(text)


def test_each_notice_stands_once_beside_what_it_limits(lab: Measured) -> None:
    lab = replace(
        lab,
        text=text_source("demo", "TEXT-NOTICE"),
        warnings=("DRIFT *warning*",),
        model=replace(lab.model, notices=("MODEL-NOTICE",), quantized=True),
    )
    sheet = render(lab)
    parts = dict(zip(("top", *"12345"), re.split(r"^## Part \d", sheet, flags=re.M), strict=False))
    for notice, place in (
        *(("TEXT-NOTICE", "2"), ("DRIFT \\*warning\\*", "4"), ("MODEL-NOTICE", "top"), ("already quantized", "top")),
    ):
        assert notice in parts[place] and sheet.count(notice) == 1
    advice = worksheet.render_recommendation(sheet_of(lab))
    assert "MODEL-NOTICE" in advice[:900] and "already quantized" in advice[:900]
    assert "does not compare with published WikiText-2 figures" in advice and "The speeds come with warnings" in advice
    assert "# Note: TEXT-NOTICE" in perplexity_results(lab, figures_of(lab))


def test_rules_give_the_answers_of_the_figures(lab: Measured) -> None:
    rows = figures_of(lab)
    orders = Orders(lab, rows)
    assert to_drop(rows, orders, 0.02).pick == "Q3_K_M"
    assert reasoning(rows, "F16", {}).pick == "Q4_K_S"
    assert production(lab, rows, 0.02).pick == "Q6_K"
    assert sweet_spot(rows, boards(rows, orders, (0.3, 0.4, 0.3))).pick == "Q4_K_S"
    assert in_ram(lab, rows, orders, 8).pick == "F16"
    said = under_limit(rows, 0.02).text
    assert "Q5_K_M, +2.08 % (95 % interval +1.89 to +2.26 %): about 5 more chunks (6.2 s) would settle it" in said
    assert "labctl perplexity --settle" in said


def test_answers_change_with_the_data(lab: Measured) -> None:
    lab.of(PERPLEXITY)["Q5_K_M"] = perplexity_run(Path(lab.folder), "Q5_K_M", nll_of(18.2, 0.1, 9))
    lab.of(GENERATE)["Q4_K_S"] = generation_run("Q4_K_S", 150, 40, 3)
    lab.of(MEMORY)["F16"] = replace(
        lab.of(MEMORY)["F16"], loads=(replace(lab.of(MEMORY)["F16"].loads[0], peak_rss_bytes=20 * 1024**3),)
    )
    rows = figures_of(lab)
    assert production(lab, rows, 0.02).pick == "Q5_K_M"
    assert reasoning(rows, "F16", {}).pick == "Q4_K_M"
    ram = in_ram(lab, rows, Orders(lab, rows), 8)
    assert ram.pick == "Q8_0" and "Ruled out: F16 (does not fit)" in ram.text
    assert "Q4_K_S (+1)" not in " ".join(surprises(lab, rows, Orders(lab, rows)))


def test_a_model_that_cannot_add_has_no_reasoning_format(lab: Measured) -> None:
    for name in FORMATS:
        lab.of(GENERATE)[name] = generation_run(name, 100, 20, 3)
    answer = reasoning(figures_of(lab), "F16", {})
    assert answer.pick is None and "20 of 88" in answer.text


def test_no_pass_means_the_baseline(lab: Measured) -> None:
    answer = production(lab, figures_of(lab, 0.0001), 0.0001)
    assert answer.pick == "F16" and "no smaller file is shown" in answer.text


def test_prediction_names_a_disagreement_only_where_there_is_one(lab: Measured) -> None:
    nll = load_nll(lab)
    assert "The orders disagree" in prediction(lab, figures_of(lab), nll)
    for name in FORMATS:
        lab.of(GENERATE)[name] = generation_run(name, 194, 88, 9)
    text = prediction(lab, figures_of(lab), nll)
    assert "disagree" not in text and "equally well" in text


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert math.isnan(spearman(one, other))
    else:
        assert spearman(one, other) == pytest.approx(float(scipy.stats.spearmanr(one, other).statistic), abs=1e-12)


def test_weights_and_limit_reach_the_page(lab: Measured) -> None:
    text = render(lab, ReportOptions(weights=(0.0, 1.0, 0.0), limit=0.10))
    assert "size 0 %, quality 100 %, speed 0 %" in text
    assert "**Answer:** Literal score: F16 with 1.000, ahead of Q8_0 with 0.999" in section(text, 15)
    assert "under an increase of 10 %" in text and "Fail: Q3_K_M." in section(text, 3)


def test_other_formats_and_baselines(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    groups: tuple[MutableMapping[str, Any], ...] = (
        lab.of(QUANTIZE),
        lab.of(PERPLEXITY),
        lab.of(BENCH),
        lab.of(MEMORY),
        lab.of(GENERATE),
    )
    for group in groups:
        group["BF16"] = replace(group.pop("F16"), format="BF16")
    lab = replace(lab, formats=("BF16", "Q8_0"), model=replace(lab.model, baseline="BF16"))
    text = render(lab)
    assert "increase over BF16" in text and "F16 |" not in text.replace("BF16", "")
    assert [line.split()[1] for line in section(text, 5).splitlines() if line.startswith("| ")][2:] == ["BF16", "Q8_0"]
    assert "no Q4_K_M" in section(text, 12)


NASTY = "a|b `c` ```\n# title\r\n<script>*x*</script> [l](http://e.org) \x1b[31m\u202e\ud800 _e_ $m$ \\| www.e.org @you"


def test_model_output_cannot_break_the_page(lab: Measured) -> None:
    run = lab.of(GENERATE)["Q4_K_M"]
    nasty = tuple(replace(g, text=NASTY, prompt=NASTY, pieces=(NASTY,) * 100) for g in run.generations)
    lab.of(GENERATE)["Q4_K_M"] = replace(run, generations=nasty)
    lab.of(GENERATE)["F16"] = replace(
        lab.of(GENERATE)["F16"],
        generations=tuple(replace(g, prompt=NASTY) for g in lab.of(GENERATE)["F16"].generations),
    )
    text = render(lab)
    check_tables(text)
    assert "<script>" not in text and "\x1b" not in text and "\u202e" not in text and "```" not in text
    assert prompt_lines(lab).count("\n") == 5


@given(st.text(max_size=60))
def test_escaped_text_is_one_line_of_one_cell(text: str) -> None:
    found = escape(text)
    assert "\n" not in found and "|" not in found and "<" not in found
    assert found.isprintable() or all(c.isprintable() or not c.isascii() for c in found)
    found.encode("utf-8")
    assert re.fullmatch(r"(?:[^`*\[\]\\]|\\.)*", found)


def test_plain_words_are_left_alone() -> None:
    assert escape("Q4_K_M is 2.1 times faster (95 % interval)") == "Q4_K_M is 2.1 times faster (95 % interval)"


@given(st.floats(1e-9, 1e12))
def test_three_significant_digits(value: float) -> None:
    assert float(significant(value)) == pytest.approx(value, rel=0.0051)
    assert "e" not in significant(value)


def test_small_models_do_not_read_as_nothing() -> None:
    assert gigabytes(9_970_944) == "0.00997"
    assert gigabytes(13_476_925_163) == "13.5"
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_course_files(lab: Measured, tmp_path: Path) -> None:
    del lab.of(BENCH)["Q6_K"], lab.of(PERPLEXITY)["Q8_0"], lab.of(QUANTIZE)["Q3_K_M"]
    build(lab, tmp_path / "r", ReportOptions())
    rows = list(csv.reader(io.StringIO((tmp_path / "r" / "performance_results.csv").read_text("utf-8"))))
    assert rows[0] == ["Model", "PromptTime_ms", "GenerationTime_ms", "TokensPerSec"]
    assert [row[0] for row in rows[1:]] == list(FORMATS)
    assert rows[3] == ["Q6_K", "", "", ""]
    assert float(rows[1][2]) == pytest.approx(128_000 / float(rows[1][3]), rel=1e-5)
    assert (tmp_path / "r" / "test_prompts.txt").read_text("utf-8") == "".join(f"{prompt}\n" for prompt in PROMPTS)
    assert "Q8_0: not measured" in (tmp_path / "r" / "perplexity_results.txt").read_text("utf-8")
    assert re.search(r"^Q3_K_M +not measured$", (tmp_path / "r" / "model_sizes.txt").read_text("utf-8"), re.M)
    results = list(csv.DictReader(io.StringIO((tmp_path / "r" / "results.csv").read_text("utf-8"))))
    assert [row["format"] for row in results] == list(FORMATS)
    assert results[0]["size_bytes"] == "30713088" and results[6]["size_bytes"] == ""
    assert results[4]["verdict"] == "fail" and results[2]["tg_tps"] == ""


@pytest.mark.slow
def test_building_twice_changes_no_file(lab: Measured, tmp_path: Path) -> None:
    files = build(lab, tmp_path / "r", ReportOptions())
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert build(lab, tmp_path / "r", ReportOptions()) == files
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before
    assert len(files) == 22


def test_students_words_replace_the_draft_and_are_never_written(lab: Measured, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    own = 'Q6 = "I *see* it in Q3_K_M."\nQ1 = "Small."\n'
    (folder / "answers.toml").write_text(own, "utf-8")
    build(lab, folder, ReportOptions(blank=True))
    text = (folder / "worksheet.md").read_text("utf-8")
    assert "**In my own words:** I *see* it in Q3_K_M." in section(text, 6)
    assert "**In my own words:** Small." in section(text, 1)
    assert "Draft" not in section(text, 6) and text.count("**Answer:** ____") == len(JUDGED) - 1
    assert (folder / "answers.toml").read_text("utf-8") == own


@pytest.mark.parametrize("content", ["Q6 = ", f'Q{len(QUESTIONS) + 1} = "x"', "Q6 = 3", 'note = "x"'])
def test_bad_answers_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "answers.toml").write_text(content, "utf-8")
    with pytest.raises(LabError, match=r"answers\.toml"):
        read_answers(tmp_path / "answers.toml")
    assert read_answers(tmp_path / "none.toml") == {}


@pytest.mark.slow
def test_answers_file_is_made_once_with_a_gap_for_every_question(lab: Measured, tmp_path: Path) -> None:
    build(lab, tmp_path / "r", ReportOptions())
    path = tmp_path / "r" / "answers.toml"
    made = path.read_text("utf-8")
    assert read_answers(path) == {}
    assert re.findall(r"^# Q(\d+) = ", made, re.M) == [str(n) for n in QUESTIONS]
    own = made.replace('# Q12 = ""', 'Q12 = """two\nlines"""')
    path.write_text(own, "utf-8")
    build(lab, tmp_path / "r", ReportOptions())
    assert path.read_text("utf-8") == own
    assert "**In my own words:** two\nlines" in section((tmp_path / "r" / "worksheet.md").read_text("utf-8"), 12)
    path.write_text('Q1 = "a"\nq1 = "b"\n', "utf-8")
    with pytest.raises(LabError, match="answered twice"):
        read_answers(path)


def test_every_chart_has_its_reading_beside_it(lab: Measured) -> None:
    rows = figures_of(lab)
    found = findings_of(lab, rows, 0.02)
    charts = [CHARTS[name].entry(finding) for name, finding in found.items()]
    text = worksheet.render_worksheet(replace(sheet_of(lab), charts=charts))
    for name in re.findall(r"\]\((\w+)\.png\)\n\n\*Reading the chart: ", text):
        assert escape(found[name]) in text
    assert text.count("*Reading the chart:") == text.count("![") == len(found) >= 6
    assert "Q4_K_S for 62 %" in found["winner_map"]


def test_first_token_that_differs_is_bold(lab: Measured) -> None:
    assert "came it and in **the** people" not in section(render(lab), 5).split("| Q5_K_M")[0]
    assert re.search(r"\| Q4_K_M \|.*\*\*was\*\* ", section(render(lab), 5))
    assert "| Q8_0 | 61 of 100 | 61 of 100 | 61 of 100 | 61 of 100 | 61 of 100 | 305 of 500 (61 %) |" in section(
        render(lab), 6
    )


def test_uses_follow_their_allowances(lab: Measured) -> None:
    def picks(limits: dict[str, float]) -> dict[str, str | None]:
        return {use: answer.pick for use, answer in minimum_formats(figures_of(lab), "F16", limits)}

    assert picks({}) == {
        "Chatbot": "Q5_K_M",
        "Code generation": "Q6_K",
        "Creative writing": "Q4_K_S",
        "Math reasoning": "Q4_K_S",
    }
    assert picks({"chatbot_ppl_increase_pct": 0.3})["Chatbot"] == "Q8_0"
    assert picks({"creative_kld_mean": 0.02})["Creative writing"] == "Q5_K_M"
    assert picks({"code_same_top_pct": 99.9})["Code generation"] == "F16"
    lab.of(GENERATE)["F16"] = generation_run("F16", 194, 20, 100)
    assert picks({})["Math reasoning"] is None
    lab.of(DIVERGENCE).clear()
    (_, chatbot), *_ = minimum_formats(figures_of(lab), "F16", {})
    assert "not asked, because not measured: same top token" in chatbot.rule
    text = render(lab, ReportOptions())
    assert "lab.toml" in section(text, 13) and "another word is forgiven" in section(text, 13)


def test_paired_test_of_each_probe_is_in_its_table(lab: Measured) -> None:
    assert "| 84 of 88 (89 to 98 %) | 3 / 0 | 0.250 |" in section(render(lab), 7)
    assert "McNemar" in section(render(lab), 6)


def test_recommendation_says_what_it_costs_and_for_whom_not(lab: Measured) -> None:
    text = worksheet.render_recommendation(sheet_of(lab))
    for words in ("**Use Q6_K for production.**", "## Why", "## What it costs", "## For whom another choice is better"):
        assert words in text
    assert "Q4_K_S is the smallest file that passes the rule of Q7" in text
    lab.of(PERPLEXITY)["Q5_K_M"] = perplexity_run(Path(lab.folder), "Q5_K_M", nll_of(18.2, 0.1, 9))
    assert "**Use Q5_K_M for production.**" in worksheet.render_recommendation(sheet_of(lab))
