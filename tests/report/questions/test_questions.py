"""What every question of the worksheet must keep, whatever the lab."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from kit.lab_factory import empty_lab, make_lab

from labctl.report.build import answer_gaps, read_answers
from labctl.report.figures import figures_of
from labctl.report.questions import PARTS, QUESTIONS, asked_for_judgement
from labctl.report.sheet import Sheet
from labctl.report.worksheet import render_worksheet
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured


def sheet_of(lab: Measured) -> Sheet:
    return Sheet(records=lab, figures=figures_of(lab), weights=(0.3, 0.4, 0.3), limit=0.02)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sheet]:
    full = make_lab(tmp_path_factory.mktemp("full"))
    without_speed = replace(make_lab(tmp_path_factory.mktemp("gaps")).having(BENCH, {}), conditions=None)
    labs = {"full": full, "empty": empty_lab(tmp_path_factory.mktemp("empty")), "gaps": without_speed}
    return {kind: sheet_of(lab) for kind, lab in labs.items()}


@pytest.fixture(scope="module")
def texts(sheets: dict[str, Sheet]) -> dict[str, str]:
    return {kind: render_worksheet(sheet) for kind, sheet in sheets.items()}


def section(text: str, number: int) -> str:
    found = re.search(rf"^### Q{number}\. .*?(?=^#{{2,3}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[0]


def test_numbers_follow_each_other_and_stand_once() -> None:
    numbers = [question.number for part in PARTS for question in part.questions]
    assert numbers == list(range(1, len(numbers) + 1)) == list(QUESTIONS)


@pytest.mark.parametrize("kind", ["full", "empty", "gaps"])
@pytest.mark.parametrize("number", QUESTIONS)
def test_a_question_is_asked_and_answered(
    sheets: dict[str, Sheet], texts: dict[str, str], kind: str, number: int
) -> None:
    sheet, question, text = sheets[kind], QUESTIONS[number], texts[kind]
    assert text.count(f"### {question.name}. {question.asked(sheet)}\n") == 1
    said = section(text, number)
    assert len(said.split("\n", 1)[1].strip()) > 20 and "{{" not in said and "None" not in said
    assert ("**Draft - check it" in said) == (question.kind == "judged")
    assert ("**Answer by rule:**" in said) == (question.kind in ("rule", "weighed"))


@pytest.mark.parametrize("number", QUESTIONS)
def test_own_words_stand_in_their_question_and_nowhere_else(sheets: dict[str, Sheet], number: int) -> None:
    text = render_worksheet(replace(sheets["full"], answers={number: "What I think myself."}))
    assert "**In my own words:** What I think myself." in section(text, number)
    assert text.count("What I think myself.") == 1


def test_a_blank_worksheet_has_a_line_for_each_judgement(sheets: dict[str, Sheet]) -> None:
    text = render_worksheet(replace(sheets["full"], blank=True))
    assert text.count("**Answer:** ____") == len(asked_for_judgement()) > 0
    assert "**Draft" not in text


def test_every_question_has_its_gap_among_the_answers(sheets: dict[str, Sheet], tmp_path: Path) -> None:
    path = tmp_path / "answers.toml"
    gaps = answer_gaps(sheets["full"], "labctl report")
    path.write_text(gaps.replace("# Q", "Q").replace('= ""', '= "words"'), "utf-8")
    lines = [line for line in path.read_text("utf-8").splitlines() if not re.match(r"Q\d+\. ", line)]
    path.write_text("\n".join(lines), "utf-8")
    assert read_answers(path) == dict.fromkeys(QUESTIONS, "words")
