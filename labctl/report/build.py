"""Renders everything that is handed in for one model into its reports folder."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labctl.errors import LabError
from labctl.lab.config import USUAL_LIMIT, USUAL_WEIGHTS, Weights
from labctl.lab.toml_words import read_toml
from labctl.records.base import Machine
from labctl.records.disk import write_bytes
from labctl.report.gaps import mark_names
from labctl.report.questions import PRODUCTION, QUESTIONS
from labctl.report.sheet import Sheet
from labctl.report.text import printable, shortened
from labctl.steps.measured import Measured

ANSWERS = "answers.toml"
_MAX_ANSWERS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """How to render a report.

    Attributes:
        weights: of size, quality and speed in the combined score (Q15).
        limit: largest acceptable increase of perplexity, as a fraction.
        machine: this computer, shown if no record names one.
        blank: leave a line for the student where a draft would stand.
        q13_limits: allowances of Q13; what it leaves out has its default.
        command: what to type for this very report.
    """

    weights: Weights = USUAL_WEIGHTS
    limit: float = USUAL_LIMIT
    machine: Machine | None = None
    blank: bool = False
    q13_limits: Mapping[str, float] = field(default_factory=dict)
    command: str = "labctl report"


def build(records: Measured, folder: Path, options: ReportOptions) -> tuple[Path, ...]:
    """Render everything.

    Args:
        records: of one model; whatever is missing is shown as missing.
        folder: reports/<model>; its answers.toml is made where there is none, and never written again.
    Returns: the files written or left unchanged, in the order of the hand-in.
    Raises:
        LabError: answers.toml cannot be read, or the folder cannot be written.
    """
    from labctl.report import coursefiles, worksheet
    from labctl.report.advice import named_format
    from labctl.report.charts import CHARTS, draw_charts, findings_of
    from labctl.report.figures import figures_of, table
    from labctl.report.page.render import render_page

    answers = read_answers(folder / ANSWERS)
    figures = figures_of(records, options.limit)
    findings = findings_of(records, figures, options.limit)
    charts = draw_charts(records, figures, options.limit, findings)
    sheet = Sheet(
        records=records,
        figures=figures,
        weights=options.weights,
        limit=options.limit,
        machine=options.machine,
        charts=[CHARTS[name].entry(finding) for name, finding in findings.items() if f"{name}.png" in charts],
        answers={number: _place_of(number) for number, text in answers.items() if text},
        blank=options.blank,
        q13_limits=options.q13_limits,
    )
    own_choice = answers.get(PRODUCTION.number, "")
    filled, advice = (
        own_words(mark_names(text, records), answers)
        for text in (
            worksheet.render_worksheet(sheet),
            worksheet.render_recommendation(sheet, named_format(own_choice, records.formats)),
        )
    )
    texts = {
        "worksheet.md": filled,
        "index.html": render_page(
            records,
            figures,
            worksheet=filled,
            recommendation=advice,
            charts=charts,
            pick=sheet.production,
            own_choice=own_choice,
            weights=options.weights,
            limit=options.limit,
        ),
        "recommendation.md": advice,
        "results.csv": coursefiles.results_csv(table(records, figures)),
        "model_sizes.txt": coursefiles.model_sizes(records, figures),
        "perplexity_results.txt": coursefiles.perplexity_results(records, figures),
        "performance_results.csv": coursefiles.performance_results(figures),
        "test_prompts.txt": coursefiles.prompt_lines(records),
    }
    if not (folder / ANSWERS).exists():
        write_bytes(folder / ANSWERS, answer_gaps(sheet, options.command).encode("utf-8", "replace"))
    files = {name: text.encode("utf-8", "replace") for name, text in texts.items() if text} | charts
    for name, data in files.items():
        _write(folder / name, data)
    return tuple(folder / name for name in files)


def _place_of(number: int) -> str:
    """Stands for a student's answer until everything else is written, between two signs for private use."""
    return f"\ue000{number}\ue001"


def own_words(text: str, answers: Mapping[int, str]) -> str:
    """Put the student's own words in their places, as they were written."""
    return re.sub("\ue000(\\d+)\ue001", lambda found: answers.get(int(found[1]), ""), text)


def answer_gaps(sheet: Sheet, command: str) -> str:
    """A new answers.toml: every question of the worksheet as a comment, with a gap to fill."""
    lines = [
        "# Your own words. Take the # away before a line that begins with Q and write between the quotes;",
        '# for several lines, use three quotes on either side: Q6 = """...""".',
        f"# Then run `{command}`: the worksheet takes your words over. labctl never changes this file.",
    ]
    for question in QUESTIONS.values():
        lines += ["", f"# {question.name}. {printable(question.asked(sheet))}", f'# {question.name} = ""']
    return "\n".join(lines) + "\n"


def read_answers(path: Path) -> dict[int, str]:
    """The student's own words: lines such as Q6 = "..." of answers.toml.

    Returns: number of the question -> text; empty without the file.
    Raises:
        LabError: the file is not TOML, or names something that is not a question.
    """
    content = read_toml(path, what=f"{len(QUESTIONS)} answers", max_bytes=_MAX_ANSWERS_BYTES)
    answers: dict[int, str] = {}
    for key, value in content.items():
        asked = re.fullmatch(r"[Qq]?0?(\d{1,2})", key)
        number = int(asked[1]) if asked else 0
        if number not in QUESTIONS or not isinstance(value, str):
            named = list(QUESTIONS.values())
            raise LabError(
                f"{path}: {shortened(key, 60)!r} is not an answer.{_meant(key, value)}",
                f'Write {named[0].name} to {named[-1].name} with text in quotes: Q6 = "my words".',
            )
        if number in answers:
            raise LabError(f"{path}: Q{number} is answered twice.", "Keep one of the two.")
        answers[number] = value.strip()
    return answers


def _meant(key: str, value: object) -> str:
    """What a line that is no answer was perhaps meant to be."""
    numbers = [int(digits) for digits in re.findall(r"(?<!\d)\d{1,2}(?!\d)", key) if int(digits) in QUESTIONS]
    if not numbers:
        return ""
    if re.fullmatch(r"[Qq]?\d+", key):
        return f" Q{numbers[0]} needs text in quotes." if not isinstance(value, str) else ""
    return f" Did you mean Q{numbers[0]}?"


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    write_bytes(path, data)
