"""What is measured and what failed, and the report made from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from labctl import __version__, steps
from labctl.errors import LabError
from labctl.lab.heard import EngineNotices
from labctl.lab.lab import Lab
from labctl.pipeline.labs import STAMP, report_owner
from labctl.records.digests import digest
from labctl.records.disk import write_text
from labctl.records.sources import SourceModel, TextSource
from labctl.records.store import read_record, refuse_newer
from labctl.steps.measured import Failures, Measured, StepFailure
from labctl.steps.quantize.step import QUANTIZE


def kinds() -> dict[str, type[object]]:
    """What a lab's record files hold, by the name of the kind that each file states."""
    return {**steps.kinds(), **{kind.__name__: kind for kind in (SourceModel, TextSource, EngineNotices, Failures)}}


def load_records(lab: Lab) -> Measured:
    """All fresh records of the lab, and what failed."""
    refuse_newer(lab.folder.records)
    measured = Measured(
        folder=str(lab.folder.root),
        model=lab.model,
        text=lab.text,
        formats=lab.formats,
        records={step.name: step.others(lab) | step.load(lab.at(step.name)) for step in steps.every()},
        failures=failures_of(lab),
    )
    beside: dict[str, Any] = {}
    warnings: list[str] = []
    for step in steps.every():
        asked = lab.at(step.name)
        beside |= step.load_beside(asked)
        warnings += step.warnings(asked, measured.of(step))
    return dataclasses.replace(measured, warnings=tuple(warnings), **beside)


def failures_of(lab: Lab) -> tuple[StepFailure, ...]:
    """What failed and is still to be done for the formats of this lab."""
    stored = read_record(lab.folder.record_path("failures"), Failures)
    return tuple(
        failure
        for failure in (() if stored is None else stored.failures)
        if failure.format in lab.formats and failure.step in steps.TABLE and not _is_done(lab, failure)
    )


def _is_done(lab: Lab, failure: StepFailure) -> bool:
    """Whether what failed once has been made since; what is no case of its own failed for all cases."""
    lab, step = lab.at(failure.step), steps.named(failure.step)
    if failure.case != step.case(lab, failure.format):  # of another text
        return step.read(lab.folder, failure.case) is not None
    stale = step.stale(lab)
    return failure.case not in stale if failure.case in step.cases(lab) else not stale


def load_measured(lab: Lab) -> Measured:
    """All fresh records of a lab that has some.

    Raises:
        LabError: none of its files is as it was.
    """
    records = load_records(lab)
    if not records.of(QUANTIZE):
        raise LabError(
            f"Nothing that was measured for {lab.model.name} holds any more: its files are gone or have changed.",
            f"Measure again: {lab.command('run', exact=True)}",
        )
    return records


def report_folder(lab: Lab) -> Path:
    return Path(lab.config.reports) / lab.model.name


def build_report(lab: Lab, records: Measured, *, force: bool = False) -> tuple[Path, ...]:
    """Render worksheet, charts and course files, unless they are there and made from the same records.

    Raises:
        LabError: the reports folder cannot be written, or is another model's.
    """
    folder = report_folder(lab)
    if report_owner(folder) not in ("", lab.model.sha256):
        raise LabError(
            f"{folder} holds the report of another model, and perhaps somebody's answers.",
            "Name another folder: --reports DIR.",
        )
    key = _report_key(lab, records)
    stamp = folder / STAMP
    if not force:
        try:
            stored = json.loads(stamp.read_text("utf-8"))
            paths = tuple(folder / name for name in stored["files"])
            if stored["key"] == key and paths and all(path.is_file() for path in paths):
                return paths
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
    from labctl.report.build import ReportOptions, build

    options = ReportOptions(
        weights=lab.config.shares,
        limit=lab.config.limit,
        machine=lab.machine,
        blank=lab.config.blank,
        q13_limits=lab.config.q13_limits,
        command=lab.command("report"),
    )
    paths = build(records, folder, options)
    key = _report_key(lab, records)  # the first rendering makes answers.toml
    made = {"key": key, "model": lab.model.sha256, "files": [path.name for path in paths]}
    write_text(stamp, json.dumps(made, indent=1) + "\n")
    return paths


def _report_key(lab: Lab, records: Measured) -> str:
    """Digest of everything the report shows; a record's visits or chunks change its key or its time of making."""
    answers = report_folder(lab) / "answers.toml"
    stamps = [
        [kept.step.name, str(kept.case), kept.record.provenance.key, kept.record.provenance.created_at]
        for kept in records
    ]
    return digest(
        {
            "version": __version__,
            "records": stamps,
            "failures": [dataclasses.asdict(one) for one in records.failures],
            "warnings": list(records.warnings),
            "model": dataclasses.asdict(records.model),
            "text": dataclasses.asdict(lab.text),
            "formats": list(lab.formats),
            "weights": lab.config.weights,
            "limit": lab.config.limit,
            "blank": lab.config.blank,
            "q13_limits": lab.config.q13_limits,
            "answers": lab.digests.sha256(answers) if answers.is_file() else "",
        }
    )
