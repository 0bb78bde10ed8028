"""Probes are read whole, limited evenly, and scored by whole words and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import LabError
from labctl.steps.generate.probes import ProbeQuestion, evenly, is_correct, read_probe


@pytest.mark.parametrize(
    ("output", "expected", "correct"),
    [
        (" 8.", "8", True),
        (" 8", "8", True),
        ("8, and", "8", True),
        (" 80", "8", False),
        ("8.5", "8", False),
        ("8,000", "8", False),
        (" Paris, the", "Paris", True),
        (" Parisian", "Paris", False),
        (" in Paris", "Paris", False),
        ("", "8", False),
        ("\n8\n", "8", True),
        ("paris", "Paris", False),
        ("-8", "8", False),
    ],
)
def test_answers_are_whole_words(output: str, expected: str, correct: bool) -> None:
    assert is_correct(output, expected) is correct


@given(st.integers(0, 60), st.none() | st.integers(1, 80))
def test_a_limited_probe_is_spread_evenly(count: int, limit: int | None) -> None:
    questions = [ProbeQuestion(str(number), "x") for number in range(count)]
    chosen = [int(one.prompt) for one in evenly(questions, limit)]
    assert len(chosen) == min(count, limit if limit is not None else count)
    assert chosen == sorted(set(chosen))
    if chosen and len(chosen) < count:
        gaps = [b - a for a, b in zip(chosen, [*chosen[1:], count], strict=True)]
        assert max(gaps) - min(gaps) <= 1
        assert chosen[0] == 0


def test_the_demo_probes_are_whole(root: Path) -> None:
    folder = root / "lab_data/demo/probes"
    assert len(read_probe(folder / "capitals.csv")) == 194
    assert len(read_probe(folder / "sums.csv")) == 88


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"prompt,answer\n",
        b"a,b\n1,2\n",
        b"prompt,answer\nx,\n",
        b"prompt,answer\n,x\n",
        b"\xff\xfe",
        b"prompt\nx\n",
    ],
)
def test_a_wrong_probe_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "probe.csv"
    path.write_bytes(data)
    with pytest.raises(LabError, match=r"probe\.csv") as caught:
        read_probe(path)
    assert caught.value.hint


def test_a_probe_with_a_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    (tmp_path / "probe.csv").write_bytes(b'\xef\xbb\xbfprompt,answer\r\n"2 + 2 =","4"\r\n')
    (question,) = read_probe(tmp_path / "probe.csv")
    assert (question.prompt, question.expected) == ("2 + 2 =", "4")
