"""Probes: questions with known answers, read from CSV files, and how an output is scored."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError
from labctl.records.encodings import read_settings

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class ProbeQuestion:
    """A prompt and the answer that has to follow it; whether the demo model was trained on it, where that is known."""

    prompt: str
    expected: str
    in_demo_training: bool | None = None


def is_correct(output: str, expected: str) -> bool:
    """Whether a continuation's first line gives the expected answer.

    A word must stand at its beginning, whole. A number must be the first one in it, or, where it spells out the sum
    ("5 + 3 = 8"), the first one behind the equals sign.
    """
    line = _first_line(output)
    if _NUMBER.fullmatch(expected):
        found = _NUMBER.search(line, line.find("=") + 1)
        return found is not None and found[0] == expected
    rest = line[len(expected) :]
    return line.startswith(expected) and not rest[:1].isalnum()


def has_answer(output: str, expected: str) -> bool:
    """Whether more text could no longer change what `is_correct` says."""
    line = _first_line(output)
    if "\n" in output.lstrip():
        return True
    if not _NUMBER.fullmatch(expected):
        return len(line) > len(expected)
    found = _NUMBER.search(line, line.find("=") + 1)
    rest = line[found.end() :].lstrip() if found is not None else ""
    return rest != "" and (rest[0] not in "+-*/=x×" or "=" in line[: found.start() if found else 0])


def _first_line(output: str) -> str:
    return output.lstrip().split("\n", 1)[0]


def read_probe(path: Path) -> list[ProbeQuestion]:
    """Questions of a CSV file with the columns prompt and answer, and perhaps in_demo_training (yes or no).

    Columns may be separated by semicolons or tabs too, as spreadsheets write them in many countries.

    Raises:
        LabError: no such columns, an empty prompt or answer, or an encoding that is not known.
    """
    try:
        text = read_settings(path)
        titles = text.split("\n", 1)[0]
        separator = next((mark for mark in ",;\t" if mark in titles), ",")
        rows = list(csv.DictReader(io.StringIO(text), delimiter=separator))
    except (OSError, ValueError, csv.Error) as error:
        raise LabError(f"Cannot read the probe {path.name}: {error}.", "Save it as CSV in UTF-8.") from error
    questions = [
        ProbeQuestion(
            prompt=row.get("prompt") or "",
            expected=(row.get("answer") or "").strip(),
            in_demo_training={"yes": True, "no": False}.get((row.get("in_demo_training") or "").strip().lower()),
        )
        for row in rows
    ]
    if not questions or any(not question.prompt.strip() or not question.expected for question in questions):
        raise LabError(
            f"The probe {path.name} needs the columns prompt and answer, both filled in every row.",
            "Its first line must read: prompt,answer",
        )
    return questions


def evenly(questions: Sequence[ProbeQuestion], limit: int | None) -> list[ProbeQuestion]:
    """At most `limit` questions, spread evenly over the list and the same for every format."""
    if limit is None or limit >= len(questions):
        return list(questions)
    return [questions[index * len(questions) // limit] for index in range(limit)]
