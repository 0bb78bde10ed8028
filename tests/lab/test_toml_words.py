"""Mistakes in lab.toml and answers.toml, as people make them: told in words, with the line and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import LabError
from labctl.lab.toml_words import read_toml
from labctl.lab.values import load_config
from labctl.report.build import read_answers


@pytest.mark.parametrize(
    ("line", "cause", "cure"),
    [
        ('Q6 = "he said "no" to me"', "quote inside quotes", "single quotes"),
        ("Q6 = 'it's mine'", "quote inside quotes", "three double quotes"),
        ('Q6 = "“Fine”, she said"and', "quote inside quotes", "single quotes"),
        ("Q6 = “my words”", "curly quotes", "straight quotes"),
        ("Q6 = ‘my words’", "curly quotes", "straight quotes"),
        ("Q6 = «my words»", "curly quotes", "straight quotes"),
        ('Q6 = "my words', "closing quote is missing", 'End the text with "'),
        ("Q6 = 'my words", "closing quote is missing", "End the text with '"),
        ('Q6 = """my\nwords', "three quotes", 'End it with """'),
        ('Q6 "my words"', "no = between", 'Q6 "my words"'[:2]),
        ('Q6: "my words"', "no = between", 'Q6 = "my words"'),
        ("chunks 4", "no = between", "Write: chunks = 4"),
        ("limit: 0.02", "no = between", "Write: limit = 0.02"),
        (r'Q6 = "C:\Users\ann"', "backslash inside double quotes", "single quotes"),
        (r'Q6 = "C:\data"', "backslash inside double quotes", "single quotes"),
        ("Q6 = my words", "text without quotes", 'Q6 = "my words"'),
        ("Q6 =", "no value after the =", 'Q6 = "..."'),
        ('Q6 = "a"\nQ6 = "b"', "twice", "one of the two"),
        ('Q6 = "my words" and more', "after a statement", "quotes"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_its_cure(tmp_path: Path, line: str, cause: str, cure: str) -> None:
    path = tmp_path / "answers.toml"
    path.write_text(f'# My answers\nQ1 = "fine"\n\n{line}\n', "utf-8")
    with pytest.raises(LabError) as caught:
        read_answers(path)
    number = 5 if "twice" in cause else 4
    assert f"Line {number} ({line.splitlines()[number - 4]})" in caught.value.message
    assert cause in caught.value.message or cause == "after a statement"
    assert cure in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("line", "cause", "cure"),
    [
        ('formats = ["Q8_0" "Q6_K"]', "lacks a comma", '["one", "two"]'),
        ('formats = ["Q8_0",\n"Q6_K"', "not closed", '["one", "two"]'),
        ("blank = True", "capital letter", "blank = true"),
        (r'model = "D:\models\new.gguf"', "backslash inside double quotes", "single quotes"),
        ("model = demo", "text without quotes", 'model = "demo"'),
        ("limit = .02", "invalid value", "digit before the point"),
        ("[q13_limits", "heading in brackets", "[name]"),
    ],
)
def test_a_mistake_in_lab_toml_is_told_the_same_way(tmp_path: Path, line: str, cause: str, cure: str) -> None:
    (tmp_path / "lab.toml").write_text(f"seed = 1\n{line}\n", "utf-8")
    with pytest.raises(LabError) as caught:
        load_config({}, tmp_path, {})
    assert f"Line 2 ({line.splitlines()[0]})" in caught.value.message
    assert cause in caught.value.message and cure in caught.value.hint


def test_a_long_line_is_shown_in_part(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f'a = "{"x" * 5000}', "utf-8")
    with pytest.raises(LabError) as caught:
        read_toml(path, what="it", max_bytes=1 << 20)
    assert len(caught.value.message) < 300 + len(str(path))
