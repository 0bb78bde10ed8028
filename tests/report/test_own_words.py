"""A student's answers stand first and as the student's, the rule's beside them as the rule's; text is safe Markdown."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import FORMATS, make_lab

from labctl.records.units import percent
from labctl.report.advice import by_the_figures, named_format
from labctl.report.build import ReportOptions, build
from labctl.report.charts.plot import new_figure, render, styled, without_notices
from labctl.report.figures import figures_of
from labctl.report.page.markup import to_html
from labctl.report.questions import QUESTIONS
from labctl.report.text import counted, escape, interval, plain, prose
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    return make_lab(tmp_path, ("F16", "Q6_K", "Q4_K_M"))


def built(lab: Measured, folder: Path, answers: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "answers.toml").write_text(answers, "utf-8")
    build(lab, folder, ReportOptions())
    return {name: (folder / name).read_text("utf-8") for name in ("worksheet.md", "recommendation.md", "index.html")}


def test_the_students_choice_opens_page_and_recommendation(lab: Measured, tmp_path: Path) -> None:
    texts = built(lab, tmp_path / "r", 'Q10 = "Q4_K_M, everybody uses it"\n')
    advice = texts["recommendation.md"]
    assert "Use Q6_K for production" not in advice
    mine, rule = advice.index("Q4_K_M, everybody uses it"), advice.index("**The lab's rule says: use Q6_K.**")
    assert mine < rule < advice.index("## Why the rule picks Q6_K") < advice.index("## What Q6_K costs")
    assert "Q4_K_M in this run: 10.2 MB; perplexity +7.30 %" in advice and "above the limit of 2 %" in advice
    head = texts["index.html"].split("</header>")[0].split('<header class="top">')[1]
    assert "For production: Q6_K" not in head
    head = html.unescape(head)
    assert head.index("My choice for production: Q4_K_M") < head.index("The lab's rule: Q6_K")


def test_without_an_answer_the_rule_speaks_as_the_rule(lab: Measured, tmp_path: Path) -> None:
    texts = built(lab, tmp_path / "r", "")
    assert "**Use Q6_K for production.** The rule: " in texts["recommendation.md"]
    assert "own-choice" not in texts["index.html"]


def test_every_ruled_question_opens_with_the_students_answer(lab: Measured, tmp_path: Path) -> None:
    ruled = [number for number, question in QUESTIONS.items() if question.kind in ("rule", "weighed")]
    answers = "".join(f'Q{number} = "My own view of {number}."\n' for number in ruled)
    sheet = built(lab, tmp_path / "r", answers)["worksheet.md"]
    for number in ruled:
        part = sheet.split(f"\n### Q{number}. ")[1].split("\n### ")[0]
        mine = part.index(f"**In my own words:** My own view of {number}.")
        assert mine < part.index("**Answer by rule, for comparison:**")
    assert sheet.count("Answer by rule, for comparison") == len(ruled)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Q4_K_M, everybody uses it", "Q4_K_M"),
        ("I take q4_k_m.", "Q4_K_M"),
        ("Q4_K_M rather than Q6_K", None),
        ("The small one", None),
        ("Q4_K_M-custom", None),
        ("", None),
    ],
)
def test_the_format_an_answer_names(text: str, named: str | None) -> None:
    assert named_format(text, FORMATS) == named


def test_a_named_format_without_figures_is_not_measured(lab: Measured) -> None:
    for table in (lab.of(QUANTIZE), lab.of(PERPLEXITY), lab.of(BENCH), lab.of(GENERATE)):
        table.pop("Q4_K_M", None)
    assert by_the_figures(figures_of(lab), "Q4_K_M", 0.02) == "Q4_K_M was not measured in this run."


# -- what Markdown makes of our sentences -----------------------------------------------------------------------------


def shown(markdown: str) -> str:
    """What a reader of the page sees."""
    return html.unescape(re.sub(r"<[^>]+>", "", to_html(markdown, {}))).replace("\u00a0", " ").strip()


def test_addresses_and_code_read_well_in_the_file_and_on_the_page() -> None:
    sentence = "See https://huggingface.co/x?a=1&b=2 & www.e.org, then run `labctl bench --batch`."
    assert prose(sentence) == sentence
    assert shown(prose(sentence)) == sentence.replace("`", "")
    assert "<code>labctl bench --batch</code>" in to_html(prose(sentence), {})
    assert plain(sentence) == sentence.replace("`", "")
    assert prose("a lone ` stays") == "a lone \\` stays"
    assert to_html(prose("`<b>`"), {}) == "<p><code>&lt;b&gt;</code></p>\n"


@given(st.text(alphabet="a `<>&;#x*_[]()!|\\~:/w.@1", max_size=40))
def test_nothing_in_a_sentence_becomes_markup(text: str) -> None:
    for markdown in (escape(text), prose(text)):
        made = to_html(f"x {markdown} x", {})
        assert set(re.findall(r"</?(\w+)", made)) <= {"p", "code"}
    assert shown(f"x {escape(text)} x").split() == f"x {text} x".split()


@pytest.mark.parametrize(
    ("value", "text"), [(-0.001, "0.00 %"), (0.0, "0.00 %"), (-0.0, "0.00 %"), (0.004, "0.00 %"), (-1.5, "-1.50 %")]
)
def test_nothing_has_no_sign(value: float, text: str) -> None:
    assert percent(value) == text
    assert interval(value, 2.0) == f"{text[:-2]} to +2.00 %"


def test_one_is_singular() -> None:
    assert [counted(n, "chunk") for n in (0, 1, 2, 4080)] == ["0 chunks", "1 chunk", "2 chunks", "4,080 chunks"]


def test_huge_changes_stay_readable() -> None:
    assert percent(961.0) == "+961.00 %" and percent(12345.6) == "+12,346 %"
    assert interval(-100.0, 1e12) == "-100.00 to over +1,000,000 %" and interval(-100.0, float("inf")) == "open"


def test_a_chart_says_its_notices_as_a_file_and_the_page_says_them_as_text() -> None:
    with styled():
        files = {
            n: render(new_figure("Title", ["Caption."], [f"Run `labctl bench`. {n}"] * n, plot_in=2.0)[0])[
                "svg"
            ].decode()
            for n in (0, 2)
        }
    heights = [
        float(re.search(r'<svg [^>]*viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1])  # type: ignore[index]
        for svg in (files[2], without_notices(files[2]), files[0])
    ]
    assert heights[0] > heights[1] == pytest.approx(heights[2])
    drawn = [
        re.findall(r'<g id="notice-\d+"( visibility="hidden")?>', svg) for svg in (files[2], without_notices(files[2]))
    ]
    assert not any(drawn[0]) and all(drawn[1]) and len(drawn[0]) == len(drawn[1]) > 0
    assert without_notices(files[0]) == files[0]
