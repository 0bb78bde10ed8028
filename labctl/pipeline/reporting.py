"""What is measured and what failed, and the report made from it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from labctl import __version__
from labctl.errors import LabError
from labctl.lab.lab import Lab
from labctl.pipeline.labs import STAMP, report_owner
from labctl.pipeline.plan import STEP, is_fresh
from labctl.records.digests import digest
from labctl.records.disk import write_text
from labctl.records.store import read_record, refuse_newer
from labctl.steps.divergence.record import DivergenceRun
from labctl.steps.divergence.step import fresh_divergence, stale_divergence
from labctl.steps.groups import Failures, runs
from labctl.steps.measured import LabRecords, StepFailure
from labctl.steps.speed import rounds, sweeps


def load_records(lab: Lab) -> LabRecords:
    """All fresh records of the lab, and what failed."""

    def fresh(name: str) -> dict[str, object]:
        found = {}
        asked = lab.at(name)
        for label in lab.labels:
            try:
                record = STEP[name](label).fresh(asked)
            except LabError:  # the file that the step measures is not there
                record = None
            if record is not None:
                found[label] = record
        return found

    refuse_newer(lab.folder.records)
    timed = lab.at("bench")
    speed, conditions = rounds.load_speed(timed), rounds.load_conditions(timed)
    return LabRecords(
        folder=str(lab.folder.root),
        model=lab.model,
        text=lab.text,
        formats=lab.labels,
        files=fresh("quantize"),  # type: ignore[arg-type]
        perplexity=fresh("perplexity"),  # type: ignore[arg-type]
        divergence=_divergence(lab),
        speed=speed,
        memory=fresh("memory"),  # type: ignore[arg-type]
        generation=fresh("generate"),  # type: ignore[arg-type]
        batch=sweeps.load_batches(lab.at("batch")),
        threads=sweeps.load_threads(lab),
        failures=failures_of(lab),
        warnings=rounds.warnings(timed, speed, conditions),
        conditions=conditions,
    )


def _divergence(lab: Lab) -> dict[str, DivergenceRun]:
    found, asked = {}, lab.at("divergence")
    for label in lab.labels:
        with contextlib.suppress(LabError):  # the file that was compared is not there
            if label != lab.model.baseline and (run := fresh_divergence(asked, label)) is not None:
                found[label] = run
    return found


def failures_of(lab: Lab) -> tuple[StepFailure, ...]:
    """What failed and is still to be done for the formats of this lab."""
    stored = read_record(lab.folder.record_path("failures"), Failures)
    return tuple(
        one
        for one in (() if stored is None else stored.failures)
        if one.format in lab.labels and not _is_done(lab, one)
    )


def _is_done(lab: Lab, failure: StepFailure) -> bool:
    """Whether what failed once has been made since."""
    lab = lab.at(failure.step)
    if failure.step == "divergence":
        left = stale_divergence(lab, force=False)
        return failure.format not in left and not (failure.format == lab.model.baseline and left)
    return failure.step in STEP and is_fresh(lab, STEP[failure.step](failure.format))


def load_measured(lab: Lab) -> LabRecords:
    """All fresh records of a lab that has some.

    Raises:
        LabError: none of its files is as it was.
    """
    records = load_records(lab)
    if not records.files:
        raise LabError(
            f"Nothing that was measured for {lab.model.name} holds any more: its files are gone or have changed.",
            f"Measure again: {lab.command('run', exact=True)}",
        )
    return records


def report_folder(lab: Lab) -> Path:
    return Path(lab.config.reports) / lab.model.name


def build_report(lab: Lab, records: LabRecords, *, force: bool = False) -> tuple[Path, ...]:
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

    weights = lab.config.weights
    options = ReportOptions(
        weights=(weights.get("size", 0.0), weights.get("quality", 0.0), weights.get("speed", 0.0)),
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


def _report_key(lab: Lab, records: LabRecords) -> str:
    """Digest of everything the report shows; a record's visits or chunks change its key or its time of making."""
    answers = report_folder(lab) / "answers.toml"
    stamps = [[one.group.step, one.label, one.provenance.key, one.provenance.created_at] for one in runs(records)]
    return digest(
        {
            "version": __version__,
            "records": stamps,
            "failures": [dataclasses.asdict(one) for one in records.failures],
            "warnings": list(records.warnings),
            "model": dataclasses.asdict(records.model),
            "text": dataclasses.asdict(lab.text),
            "formats": list(lab.labels),
            "weights": lab.config.weights,
            "limit": lab.config.limit,
            "blank": lab.config.blank,
            "q13_limits": lab.config.q13_limits,
            "answers": lab.digests.sha256(answers) if answers.is_file() else "",
        }
    )
