"""Renders everything that is handed in for one model into its reports folder."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labctl.errors import LabError
from labctl.lab.toml_words import read_toml
from labctl.records.base import Machine
from labctl.records.disk import write_bytes
from labctl.report.gaps import mark_names
from labctl.report.scoring import Weights
from labctl.report.text import printable, shortened
from labctl.steps.measured import LabRecords
from labctl.steps.perplexity.increase import DEFAULT_LIMIT

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

    weights: Weights = (0.3, 0.4, 0.3)
    limit: float = DEFAULT_LIMIT
    machine: Machine | None = None
    blank: bool = False
    q13_limits: Mapping[str, float] = field(default_factory=dict)
    command: str = "labctl report"


def build(records: LabRecords, folder: Path, options: ReportOptions) -> tuple[Path, ...]:
    """Render everything.

    Args:
        records: of one model; whatever is missing is shown as missing.
        folder: reports/<model>; its answers.toml is made where there is none, and never written again.
    Returns: the files written or left unchanged, in the order of the hand-in.
    Raises:
        LabError: answers.toml cannot be read, or the folder cannot be written.
    """
    from labctl.report import analysis, coursefiles, page, worksheet
    from labctl.report.advice import named_format
    from labctl.report.charts import CHARTS, draw_charts

    answers = read_answers(folder / ANSWERS)
    frame = analysis.frame(records, options.limit)
    rows = analysis.rows_of(frame)
    charts = draw_charts(records, rows, options.limit)
    values = worksheet.context(
        records,
        rows,
        weights=options.weights,
        limit=options.limit,
        machine=options.machine,
        charts=[name for name in CHARTS if f"{name}.png" in charts],
        answers={number: _place_of(number) for number, text in answers.items() if text},
        blank=options.blank,
        named=named_format(answers.get(10, ""), records.formats),
        q13_limits=options.q13_limits,
    )
    sheet, advice = (
        own_words(mark_names(worksheet.render(f"{name}.md.j2", values), records), answers)
        for name in ("worksheet", "recommendation")
    )
    texts = {
        "worksheet.md": sheet,
        "index.html": page.render_page(
            records,
            rows,
            worksheet=sheet,
            recommendation=advice,
            charts=charts,
            pick=values["q10"],
            own_choice=answers.get(10, ""),
            weights=options.weights,
            limit=options.limit,
        ),
        "recommendation.md": advice,
        "results.csv": coursefiles.results_csv(frame),
        "model_sizes.txt": coursefiles.model_sizes(records, rows),
        "perplexity_results.txt": coursefiles.perplexity_results(records, rows),
        "performance_results.csv": coursefiles.performance_results(rows),
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


def answer_gaps(worksheet: str, command: str) -> str:
    """A new answers.toml: every question of the worksheet as a comment, with a gap to fill."""
    lines = [
        "# Your own words. Take the # away before a line that begins with Q and write between the quotes;",
        '# for several lines, use three quotes on either side: Q6 = """...""".',
        f"# Then run `{command}`: the worksheet takes your words over. labctl never changes this file.",
    ]
    for number, question in re.findall(r"^### Q(\d+)\. (.*)$", worksheet, re.MULTILINE):
        lines += ["", f"# Q{number}. {printable(question)}", f'# Q{number} = ""']
    return "\n".join(lines) + "\n"


def read_answers(path: Path) -> dict[int, str]:
    """The student's own words: lines such as Q6 = "..." of answers.toml.

    Returns: number of the question -> text; empty without the file.
    Raises:
        LabError: the file is not TOML, or names something that is not a question.
    """
    content = read_toml(path, what="eighteen answers", max_bytes=_MAX_ANSWERS_BYTES)
    answers: dict[int, str] = {}
    for key, value in content.items():
        number = key[1:] if key[:1] in ("Q", "q") else key
        if not re.fullmatch(r"0?[1-9]|1[0-8]", number) or not isinstance(value, str):
            raise LabError(
                f"{path}: {shortened(key, 60)!r} is not an answer.{_meant(number, value)}",
                'Write Q1 to Q18 with text in quotes: Q6 = "my words".',
            )
        if int(number) in answers:
            raise LabError(f"{path}: Q{number} is answered twice.", "Keep one of the two.")
        answers[int(number)] = value.strip()
    return answers


def _meant(number: str, value: object) -> str:
    """What a line that is no answer was perhaps meant to be."""
    if re.fullmatch(r"0?[1-9]|1[0-8]", number):
        return f" Q{int(number)} needs text in quotes." if not isinstance(value, str) else ""
    digits = re.search(r"(?<!\d)0?([1-9]|1[0-8])(?!\d)", number)
    return f" Did you mean Q{digits[1]}?" if digits else ""


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    write_bytes(path, data)
