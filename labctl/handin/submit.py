"""`labctl submit`: what must be handed in, what of it is missing, and the zip with everything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl import __version__, steps
from labctl.errors import LabError
from labctl.handin.submission import KIND, FileEntry, Manifest, stays_inside, without_paths, write_zip
from labctl.lab.lab import Lab
from labctl.pipeline.reporting import report_folder
from labctl.steps.generate.step import GENERATE, prompt_path
from labctl.steps.measured import Measured
from labctl.steps.quantize.step import QUANTIZE

_COURSE_FILES = ("model_sizes.txt", "perplexity_results.txt", "performance_results.csv", "test_prompts.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliverable:
    """One thing to hand in, and what is missing of it."""

    name: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A packed submission."""

    path: Path
    n_files: int
    deliverables: tuple[Deliverable, ...]
    drafts: tuple[int, ...]


def deliverables(lab: Lab, records: Measured) -> tuple[Deliverable, ...]:
    """The course's list (five points and the files of its scripts), each with what is missing."""
    from labctl.report.charts import CHARTS
    from labctl.report.gaps import gaps
    from labctl.report.questions import QUESTIONS

    folder = report_folder(lab)
    numbers = {one.prompt_number for run in records.of(GENERATE).values() for one in run.generations}
    texts = [
        (label, number)
        for label in records.formats
        for number in sorted(numbers) or [1]
        if not prompt_path(lab, label, number, "sampled").is_file()
    ]
    asked_for = [f"{chart.name}.png" for chart in CHARTS.values() if chart.handed_in]
    on_request = {step.name for step in steps.every() if step.on_request}
    return (
        Deliverable(
            name="all tables filled",
            missing=tuple(f"{gap.step} {gap.format}".strip() for gap in gaps(records) if gap.step not in on_request),
        ),
        Deliverable(
            name=f"the worksheet with all {len(QUESTIONS)} questions",
            missing=_absent(folder, ["worksheet.md", "index.html"]),
        ),
        Deliverable(name="charts as PNG", missing=_absent(folder, asked_for)),
        Deliverable(
            name="sample outputs of every format", missing=tuple(f"{label} prompt {number}" for label, number in texts)
        ),
        Deliverable(name="one-page recommendation", missing=_absent(folder, ["recommendation.md"])),
        Deliverable(name="the course's files", missing=_absent(folder, _COURSE_FILES)),
    )


def _absent(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not (folder / name).is_file())


def drafts(lab: Lab) -> tuple[int, ...]:
    """Questions of judgement that still have labctl's draft or an empty line.

    Raises:
        LabError: answers.toml cannot be read.
    """
    from labctl.report.build import ANSWERS, read_answers
    from labctl.report.questions import asked_for_judgement

    answers = read_answers(report_folder(lab) / ANSWERS)
    return tuple(question.number for question in asked_for_judgement() if not answers.get(question.number))


def submit(lab: Lab, records: Measured, *, incomplete: bool = False) -> Submission:
    """Check what is to be handed in and pack it.

    Args:
        records: as the report was rendered from.
        incomplete: pack although something is missing; the manifest says what.
    Raises:
        LabError: something is missing, or the zip cannot be written.
    """
    found = deliverables(lab, records)
    missing = [f"{one.name}: {_listed(one.missing)}" for one in found if one.missing]
    if missing and not incomplete:
        run, as_it_is = (lab.command(verb, exact=True) for verb in ("run", "submit"))
        raise LabError(
            f"Not complete yet. {'; '.join(missing)}.",
            f"Make what is missing: {run}. Or hand it in as it is: {as_it_is} --incomplete",
        )
    open_questions = drafts(lab)
    files = dict(_contents(lab, records))
    path = report_folder(lab) / f"submission-{lab.model.name}.zip"
    write_zip(path, _manifest(lab, records, files, tuple(missing), open_questions), files)
    return Submission(path=path, n_files=len(files) + 1, deliverables=found, drafts=open_questions)


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _contents(lab: Lab, records: Measured) -> Iterator[tuple[str, bytes]]:
    """Path in the zip -> bytes: the report's files, records, raw samples and sample outputs; no model."""
    for path in sorted(report_folder(lab).iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".zip":
            yield f"reports/{path.name}", path.read_bytes()
    root = f"outputs/{lab.model.name}"
    beside = [name for step in steps.every() for name in step.beside if getattr(records, name) is not None]
    paths = [lab.folder.record_path(name) for name in ("source", "text", "failures", *beside)]
    paths += [kept.step.path(lab.folder, kept.case) for kept in records]
    for path in paths:
        if path.is_file():
            yield f"{root}/records/{path.name}", without_paths(path.read_bytes())
    for kept in records:
        for name in kept.step.raw(kept.record):
            if not stays_inside(name):
                raise LabError(f"The raw samples of {kept.case} lie outside {lab.folder.root}.", _again(lab))
            yield f"{root}/{Path(name).as_posix()}", _read(lab, name)


def _again(lab: Lab) -> str:
    return f"Measure it again: {lab.command('run', exact=True)}"


def _read(lab: Lab, name: str) -> bytes:
    path = lab.folder.root / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabError(f"Cannot read {path}: {error.strerror}.", _again(lab)) from error


def _manifest(
    lab: Lab, records: Measured, files: dict[str, bytes], missing: tuple[str, ...], open_questions: tuple[int, ...]
) -> Manifest:
    import dataclasses

    from labctl.report.findings import machines, versions
    from labctl.report.gaps import provenances

    config, dated = lab.config, provenances(records)
    text = records.text
    return Manifest(
        kind=KIND,
        version=1,
        labctl=__version__,
        model=dataclasses.replace(
            records.model, path=Path(records.model.path).name, spec=_short(records.model.spec, records.model.origin)
        ),
        text=None if text is None else dataclasses.replace(text, path=Path(text.path).name),
        formats=records.formats,
        machines=machines(records),
        versions=versions(records),
        newest_record=dated[-1].created_at if dated else "",
        settings={
            "weights": config.weights,
            "limit": config.limit,
            "blank": config.blank,
            "q13_limits": config.q13_limits,
        },
        gguf_sha256={label: file.sha256 for label, file in records.of(QUANTIZE).items()},
        record_keys=records.keys,
        warnings=records.warnings,
        missing=missing,
        drafts=open_questions,
        files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(files.items())},
    )


def _short(spec: str, origin: str) -> str:
    return spec if origin in ("demo", "hub") else Path(spec).name
