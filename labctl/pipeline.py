"""The whole chain: what is stale, in what order it is made, and what happens when a part of it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl import __version__, preflight, quality, rounds, steps, tasks
from labctl.config import LabConfig
from labctl.console import Display
from labctl.engine import engine_info
from labctl.errors import LabError
from labctl.process import ChildError, OnProgress
from labctl.records import DivergenceRun, LabRecords, SourceModel, StepFailure, TextSource
from labctl.steps import Lab
from labctl.store import (
    DigestCache,
    RunFolder,
    digest,
    lock,
    read_record,
    remove_partials,
    write_record,
    write_text,
)

STEPS = ("quantize", "perplexity", "divergence", "generate", "memory", "bench")
"""Every step in the order it runs; speed last, when nothing else is due any more."""

_STEP: dict[str, Callable[[str], steps.Step]] = {
    "quantize": steps.quantize_step,
    "perplexity": quality.perplexity_step,
    "generate": steps.generate_step,
    "memory": steps.memory_step,
}
"""Steps that stand alone for each format; divergence and bench take all formats together."""

_HUB_PAUSE_S = 3600.0
_COSTS = {"quantize": 4_000, "generate": 14_000, "memory": 6_000}  # in prompt tokens, roughly


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What went wrong in the last run of each step; kept beside the records."""

    failures: tuple[StepFailure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A step that a run would make anew."""

    step: str
    label: str
    write_bytes: int
    estimate_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did."""

    made: int
    fresh: int
    failures: tuple[StepFailure, ...]
    reports: tuple[Path, ...]
    records: LabRecords


def open_lab(config: LabConfig, display: Display, *, notices: bool = True) -> Lab:
    """Find the model, the text and this machine's llama.cpp.

    Args:
        notices: show what every reader must know about the model and the text.
    Raises:
        LabError: no such model or text, or llama-cpp-python is missing.
    """
    from labctl import cpu, machine
    from labctl.prepare.sources import resolve_model

    outputs = Path(config.outputs)
    digests = DigestCache(outputs / ".digests.json")
    lab_data = config.lab_data_folder()
    model = resolve_model(
        config.model,
        lab_data,
        digests,
        allow_quantized=config.allow_quantized_source,
        llama_cpp=config.llama_cpp,
        dialogue=display.dialogue(config.yes),
    )
    text = _find_text(config, lab_data, outputs)
    imatrix = None
    if config.imatrix is not None:
        from labctl.prepare.imatrix import find_imatrix

        imatrix = find_imatrix(config.imatrix, model, text, lab_data, outputs / model.name, digests)
    if imatrix is not None:
        model = dataclasses.replace(model, notices=(*model.notices, *imatrix.notices))
    if notices:
        for notice in (*model.notices, text.notice):
            if notice:
                display.notice(notice)
    n_threads = config.threads or cpu.performance_cores()
    return Lab(
        config=config,
        folder=RunFolder(outputs / model.name).make(),
        model=model,
        text=text,
        machine=machine.fingerprint(),
        n_threads=n_threads,
        engine=engine_info(outputs, n_threads),
        digests=digests,
        probes=_probes(lab_data),
        imatrix=imatrix,
    )


def _find_text(config: LabConfig, lab_data: Path, outputs: Path) -> TextSource:
    """The text to measure on; a Hub that could not be reached is not asked again for an hour."""
    from labctl.prepare.texts import resolve_text

    mark = outputs / ".hub-unreachable"
    recent = config.text is None and mark.exists() and 0 <= time.time() - mark.stat().st_mtime < _HUB_PAUSE_S
    text = resolve_text(config.text, lab_data, offline=recent)
    if config.text is None and text.kind == "demo":
        if recent:
            return dataclasses.replace(text, notice=mark.read_text("utf-8").strip())
        write_text(mark, text.notice + "\n")
        os.utime(mark)
    return text


def _probes(lab_data: Path) -> dict[str, Path]:
    """The questions with known answers: the CSV files in lab_data/demo/probes/, and a student's in lab_data/probes/."""
    places = (lab_data / "demo" / "probes", lab_data / "probes")
    return {path.stem: path for place in places for path in sorted(place.glob("*.csv"))}


# -- what is there ----------------------------------------------------------------------------------------------------


def load_records(lab: Lab) -> LabRecords:
    """All fresh records of the lab, and what failed."""

    def fresh(name: str) -> dict[str, object]:
        found = {}
        for label in lab.labels:
            try:
                record = _STEP[name](label).fresh(lab)
            except LabError:  # the file that the step measures is not there
                record = None
            if record is not None:
                found[label] = record
        return found

    speed, conditions = rounds.load_speed(lab), rounds.load_conditions(lab)
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
        failures=_failures(lab),
        warnings=rounds.warnings(lab, speed, conditions),
        conditions=conditions,
    )


def _divergence(lab: Lab) -> dict[str, DivergenceRun]:
    found = {}
    for label in lab.labels:
        with contextlib.suppress(LabError):  # the file that was compared is not there
            if label != lab.model.baseline and (run := quality.fresh_divergence(lab, label)) is not None:
                found[label] = run
    return found


def _failures(lab: Lab) -> tuple[StepFailure, ...]:
    """What failed and is still to be done for the formats of this lab."""
    stored = read_record(lab.folder.record_path("failures"), Failures)
    return tuple(
        one
        for one in (() if stored is None else stored.failures)
        if one.format in lab.labels and not (one.step in _STEP and _is_fresh(lab, _STEP[one.step](one.format)))
    )


# -- what is to do ----------------------------------------------------------------------------------------------------


def _stale(lab: Lab, names: Iterable[str], force: Sequence[str]) -> list[steps.Step]:
    """Steps whose record is missing or no longer true, bench left aside."""
    every = [_STEP[name](label) for name in STEPS if name in names and name in _STEP for label in lab.labels]
    return [step for step in every if step.name in force or not _is_fresh(lab, step)]


def _is_fresh(lab: Lab, step: steps.Step) -> bool:
    try:
        return step.fresh(lab) is not None
    except LabError:  # the file that the step measures is not there yet
        return False


def _cost(lab: Lab, name: str) -> float:
    """A step's size in prompt tokens, for the progress display and the time estimate."""
    if name not in ("perplexity", "divergence"):
        return _COSTS[name]
    n_text = lab.text.size_bytes / 4 / lab.config.ctx
    if name == "divergence":
        return lab.config.ctx * min(n_text, lab.config.kl_chunks or 64)
    n_first = 2 * quality.COMMON_CHUNKS if lab.config.is_auto else lab.config.n_chunks
    return lab.config.ctx * (n_text if n_first is None else min(n_first, n_text))


def plan(lab: Lab, names: Sequence[str] = STEPS, *, force: Sequence[str] = ()) -> list[Planned]:
    """What a run would do, with the bytes it would write (from llama.cpp's dry run) and a rough time."""
    from labctl.prepare.header import read_model

    header, _ = read_model(Path(lab.model.path))
    n_params = sum(tensor.n_params for tensor in header.tensors)
    tokens_per_s = preflight.tokens_per_s(lab, n_params)
    planned = []
    for step in _stale(lab, names, force):
        n_bytes = 0
        if step.name == "quantize" and step.label != lab.model.baseline:
            n_bytes = _dry_run(lab, step.label)
        elif step.name == "perplexity":
            n_bytes = lab.text.size_bytes  # about 8 bytes for every second token of four letters
        planned.append(
            Planned(
                step=step.name,
                label=step.label,
                write_bytes=n_bytes,
                estimate_s=0.5 + _cost(lab, step.name) / tokens_per_s,
            )
        )
    if "bench" in names and ("bench" in force or not rounds.complete(lab)):
        seconds = rounds.estimate_s(lab, tokens_per_s)
        planned += [Planned(step="bench", label=label, write_bytes=0, estimate_s=seconds) for label in lab.labels]
    return planned


def _dry_run(lab: Lab, label: str) -> int:
    path = lab.gguf_path(label)
    task = tasks.QuantizeTask(
        model_path=lab.model.path,
        format=label,
        n_threads=lab.n_threads,
        target_path=str(path),
        shown_path=path.name,
        allow_requantize=lab.model.quantized,
        dry_run=True,
        provenance=lab.provenance("quantize", "", {}, {}),
    )
    return lab.run(task, int, "dry-run", label, None)


# -- doing it ---------------------------------------------------------------------------------------------------------


class _Run:
    """One run over the stale steps: counts, failures, progress."""

    def __init__(self, lab: Lab, display: Display, cost: float) -> None:
        self.lab = lab
        self.display = display
        self.made = 0
        self.failures = {(one.step, one.format): one for one in _failures(lab)}
        self.touched: set[tuple[str, str]] = set()
        self._cost_done = 0.0
        display.begin(cost)

    def attempt(self, name: str, label: str, cost: float, work: Callable[[OnProgress], object]) -> bool:
        """Do one step; a failure is reported and kept, and the run goes on."""
        self.touched.add((name, label))
        self.display.step(name, label)
        base = self._cost_done

        def on_progress(event: tasks.Progress) -> None:
            share = event.done / event.total if event.total else 0.0
            self.display.progress(event.done, event.total, event.note, base + cost * share)

        try:
            work(on_progress)
        except LabError as error:
            if error.for_all:
                raise
            self._fail(name, label, error)
        else:
            self.made += 1
            if self.failures.pop((name, label), None) is not None:
                self._keep_failures()
            return True
        finally:
            self._cost_done = base + cost
        return False

    def _fail(self, name: str, label: str, error: LabError) -> None:
        log_path, tail = (error.log_path, error.log_tail) if isinstance(error, ChildError) else (None, ())
        self.failures[name, label] = StepFailure(
            step=name,
            format=label,
            message=error.message,
            hint=error.hint,
            log_path=str(log_path or ""),
            log_tail=tail,
        )
        self.display.error(error.message, error.hint)
        if tail:
            self.display.note(f"  last line of {log_path}: {tail[-1]}")
        self._keep_failures()

    def _keep_failures(self) -> None:
        with contextlib.suppress(LabError):  # on a full disk; the failure itself was shown
            write_record(self.lab.folder.record_path("failures"), Failures(failures=tuple(self.failures.values())))


def run(
    lab: Lab, display: Display, *, names: Sequence[str] = STEPS, force: Sequence[str] = (), wait: bool = False,
    report: bool = True,
) -> Outcome:  # fmt: skip
    """Make every stale step of `names`, then the report.

    Args:
        force: steps to make even if they are fresh; for perplexity, chunks already measured are measured again.
        wait: queue behind another labctl at work on this model instead of leaving.
    Raises:
        LabError: another labctl holds the lock, or the report cannot be written. Failing steps do not raise.
    """
    with lock(lab.folder.root, wait=wait):
        _sweep(lab)
        if "perplexity" in force:
            for label in lab.labels:
                quality.forget(lab, label)
        write_record(lab.folder.record_path("source"), lab.model)
        write_record(lab.folder.record_path("text"), lab.text)
        running = _Run(lab, display, _total_cost(lab, names, force))
        try:
            for name in STEPS:
                if name in names:
                    _group(running, name, name in force, "divergence" in names)
        finally:
            display.end()
        records = load_records(lab)
        total = len(lab.labels) * len(names) - ("divergence" in names)
        reports = build_report(lab, records) if report else ()
        return Outcome(
            made=running.made,
            fresh=total - len(running.touched),
            failures=tuple(one for key, one in running.failures.items() if key in running.touched),
            reports=reports,
            records=records,
        )


def _total_cost(lab: Lab, names: Sequence[str], force: Sequence[str]) -> float:
    """Cost of all that a run will do, for the progress display."""
    cost = sum(_cost(lab, step.name) for step in _stale(lab, names, force))
    if "divergence" in names:
        stale = quality.stale_divergence(lab, "divergence" in force) or (() if _bench_files(lab) else lab.labels)
        cost += _cost(lab, "divergence") * (len(stale) + bool(stale))
    if "bench" in names and ("bench" in force or not rounds.complete(lab)):
        cost += rounds.total_cost(lab)
    return cost


def _bench_files(lab: Lab) -> bool:
    return len(rounds.labels_with_file(lab)) == len(lab.labels)


def _spool(lab: Lab, wanted: bool) -> contextlib.AbstractContextManager[Path | None]:
    """A spool for the perplexity step where some format is still to be compared with the baseline."""
    if wanted and quality.stale_divergence(lab, force=False):
        return quality.spool_file(lab)
    return contextlib.nullcontext()


def _group(running: _Run, name: str, force: bool, with_divergence: bool) -> None:
    """Make what is stale of one step, all formats; asked only now, when the files that it needs are made."""
    lab = running.lab
    labels = [label for label in lab.labels if ("quantize", label) not in running.failures or name == "quantize"]
    if name == "bench":
        if force or not rounds.complete(lab):
            rounds.run_rounds(lab, running.display, running.attempt, force=force)
    elif name == "divergence":
        if stale := quality.stale_divergence(lab, force):
            quality.run_divergence(lab, running.attempt, stale, _cost(lab, name))
    elif name == "perplexity" and lab.config.is_auto:
        steps_ = [quality.perplexity_step(label) for label in labels]
        if force or not all(_is_fresh(lab, step) for step in steps_):
            with _spool(lab, with_divergence) as spool:
                quality.run_auto(lab, running.attempt, labels, _cost(lab, name) * len(labels), spool)
    elif name == "perplexity":
        stale = [label for label in labels if force or not _is_fresh(lab, quality.perplexity_step(label))]
        if stale:
            with _spool(lab, with_divergence and lab.model.baseline in stale) as spool:
                for label in stale:
                    work = functools.partial(quality.make_perplexity, lab, label, spool=spool)
                    running.attempt(name, label, _cost(lab, name), work)
    else:
        for label in labels:
            step = _STEP[name](label)
            if force or not _is_fresh(lab, step):
                running.attempt(name, label, _cost(lab, name), functools.partial(step.make, lab))


def _sweep(lab: Lab) -> None:
    """Remove what a killed run left half-written."""
    for folder in (lab.folder.root, lab.folder.records, lab.folder.nll, Path(lab.config.reports) / lab.model.name):
        remove_partials(folder)
    for label in lab.labels:
        remove_partials(steps.prompt_path(lab, label, 1, "greedy").parent)


# -- report -----------------------------------------------------------------------------------------------------------


def report_folder(lab: Lab) -> Path:
    return Path(lab.config.reports) / lab.model.name


def build_report(lab: Lab, records: LabRecords, *, force: bool = False) -> tuple[Path, ...]:
    """Render worksheet, charts and course files, unless they are there and made from the same records.

    Raises:
        LabError: the reports folder cannot be written.
    """
    folder = report_folder(lab)
    key = _report_key(lab, records)
    stamp = folder / ".report.json"
    if not force:
        try:
            stored = json.loads(stamp.read_text("utf-8"))
            paths = tuple(folder / name for name in stored["files"])
            if stored["key"] == key and paths and all(path.is_file() for path in paths):
                return paths
        except (OSError, ValueError, KeyError, TypeError):
            pass
    from labctl.report.build import ReportOptions, build

    weights = lab.config.weights
    options = ReportOptions(
        weights=(weights.get("size", 0.0), weights.get("quality", 0.0), weights.get("speed", 0.0)),
        limit=lab.config.limit,
        machine=lab.machine,
        blank=lab.config.blank,
        q13_limits=lab.config.q13_limits,
    )
    paths = build(records, folder, options)
    key = _report_key(lab, records)  # the first rendering makes answers.toml
    write_text(stamp, json.dumps({"key": key, "files": [path.name for path in paths]}, indent=1) + "\n")
    return paths


def _report_key(lab: Lab, records: LabRecords) -> str:
    """Digest of everything the report shows; a record's visits or chunks change its key or its time of making."""
    answers = report_folder(lab) / "answers.toml"
    groups = (records.files, records.perplexity, records.divergence, records.speed, records.memory, records.generation)
    stamps = [
        [label, record.provenance.key, record.provenance.created_at]
        for group in groups
        for label, record in group.items()
    ]
    return digest(
        {
            "version": __version__,
            "records": stamps,
            "failures": [dataclasses.asdict(one) for one in records.failures],
            "warnings": list(records.warnings),
            "model": dataclasses.asdict(lab.model),
            "text": dataclasses.asdict(lab.text),
            "formats": list(lab.labels),
            "weights": lab.config.weights,
            "limit": lab.config.limit,
            "blank": lab.config.blank,
            "q13_limits": lab.config.q13_limits,
            "answers": lab.digests.sha256(answers) if answers.is_file() else "",
        }
    )


def sources_of(folder: RunFolder) -> tuple[SourceModel | None, TextSource | None]:
    """Model and text of an earlier run, from its records."""
    return (
        read_record(folder.record_path("source"), SourceModel),
        read_record(folder.record_path("text"), TextSource),
    )
