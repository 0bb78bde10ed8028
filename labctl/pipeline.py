"""The whole chain: what is stale, in what order it is made, and what happens when a part of it fails."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl import __version__, steps, tasks
from labctl.config import LabConfig
from labctl.console import Display
from labctl.engine import engine_info
from labctl.errors import LabError
from labctl.process import ChildError, OnProgress
from labctl.records import LabRecords, SourceModel, SpeedRun, StepFailure, TextSource
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

STEPS = ("quantize", "perplexity", "generate", "memory", "bench")
"""Every step in the order it runs; speed last, when nothing else is due any more."""

_HUB_PAUSE_S = 3600.0
_COSTS = {"quantize": 4_000, "generate": 14_000, "memory": 6_000, "bench": 6_000}  # in prompt tokens, roughly


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
    from labctl import machine
    from labctl.prepare.sources import resolve_model

    outputs = Path(config.outputs)
    digests = DigestCache(outputs / ".digests.json")
    lab_data = config.lab_data_folder()
    model = resolve_model(config.model, lab_data, digests, allow_quantized=config.allow_quantized_source)
    text = _find_text(config, lab_data, outputs)
    if notices:
        for notice in (*model.notices, text.notice):
            if notice:
                display.notice(notice)
    n_threads = config.threads or machine.performance_cores()
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
    """The questions with known answers: every CSV file in lab_data/demo/probes/."""
    return {path.stem: path for path in sorted((lab_data / "demo" / "probes").glob("*.csv"))}


# -- what is there ----------------------------------------------------------------------------------------------------


def load_records(lab: Lab) -> LabRecords:
    """All fresh records of the lab, and what failed."""

    def fresh(name: str) -> dict[str, object]:
        found = {}
        for label in lab.labels:
            try:
                record = steps.step(name, label).fresh(lab)
            except LabError:  # the file that the step measures is not there
                record = None
            if record is not None:
                found[label] = record
        return found

    speed = {}
    with_file = tuple(label for label in lab.labels if steps.fresh_file(lab, label) is not None)
    if with_file:
        key = steps.bench_key(lab, with_file)
        speed = {label: run for label in with_file if (run := steps.stored_speed(lab, label, key)) is not None}
    return LabRecords(
        folder=str(lab.folder.root),
        model=lab.model,
        text=lab.text,
        formats=lab.labels,
        files=fresh("quantize"),  # type: ignore[arg-type]
        perplexity=fresh("perplexity"),  # type: ignore[arg-type]
        speed=speed,
        memory=fresh("memory"),  # type: ignore[arg-type]
        generation=fresh("generate"),  # type: ignore[arg-type]
        failures=_failures(lab),
        warnings=_warnings(speed),
    )


def _warnings(speed: dict[str, SpeedRun]) -> tuple[str, ...]:
    """What a reader must know about the speed figures."""
    import statistics

    anchors = next(iter(speed.values()), None)
    if anchors is None or len(anchors.visits) < 2:
        return ()
    rounds = [statistics.median(visit.tg_s) for visit in anchors.visits]
    drift = max(rounds) / min(rounds) - 1
    if drift <= 0.10:
        return ()
    return (
        f"This machine's speed drifted while it was measured: {anchors.format} generation differed by "
        f"{100 * drift:.0f} % between rounds. Ratios between formats hold better than single speeds.",
    )


def _failures(lab: Lab) -> tuple[StepFailure, ...]:
    stored = read_record(lab.folder.record_path("failures"), Failures)
    return () if stored is None else stored.failures


# -- what is to do ----------------------------------------------------------------------------------------------------


def _stale(lab: Lab, names: Iterable[str], force: Sequence[str]) -> list[steps.Step]:
    """Steps whose record is missing or no longer true, bench left aside."""
    found = []
    for name in STEPS:
        if name not in names or name == "bench":
            continue
        for label in lab.labels:
            step = steps.step(name, label)
            if name in force or not _is_fresh(lab, step):
                found.append(step)
    return found


def _is_fresh(lab: Lab, step: steps.Step) -> bool:
    try:
        return step.fresh(lab) is not None
    except LabError:  # the file that the step measures is not there yet
        return False


def _cost(lab: Lab, name: str) -> float:
    """A step's size in prompt tokens, for the progress display and the time estimate."""
    if name != "perplexity":
        return _COSTS[name]
    n_first = lab.config.n_chunks(lab.is_demo)
    n_chunks = lab.text.size_bytes / 4 / lab.config.ctx
    return lab.config.ctx * (n_chunks if n_first is None else min(n_first, n_chunks))


def plan(lab: Lab, names: Sequence[str] = STEPS, *, force: Sequence[str] = ()) -> list[Planned]:
    """What a run would do, with the bytes it would write (from llama.cpp's dry run) and a rough time."""
    from labctl.prepare.header import read_model

    header, _ = read_model(Path(lab.model.path))
    n_params = sum(tensor.n_params for tensor in header.tensors)
    # Two operations a weight and token; 40 GFLOP/s a core is what a laptop's core reaches in llama.cpp, within 3 times.
    tokens_per_s = 40e9 * lab.n_threads / (2 * n_params)
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
    if "bench" in names and ("bench" in force or not _bench_complete(lab)):
        seconds = lab.config.bench_rounds * (1.5 + _cost(lab, "bench") / tokens_per_s)
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
        allow_requantize=lab.config.allow_quantized_source,
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
        self._cost_done = 0.0
        display.begin(cost)

    def attempt(self, name: str, label: str, cost: float, work: Callable[[OnProgress], object]) -> bool:
        """Do one step; a failure is reported and kept, and the run goes on."""
        self.display.step(name, label)
        base = self._cost_done

        def on_progress(event: tasks.Progress) -> None:
            share = event.done / event.total if event.total else 0.0
            self.display.progress(event.done, event.total, event.note, base + cost * share)

        try:
            work(on_progress)
        except ChildError as error:
            self._fail(name, label, error, str(error.log_path or ""), error.log_tail)
        except LabError as error:
            self._fail(name, label, error, "", ())
        else:
            self.made += 1
            if self.failures.pop((name, label), None) is not None:
                self._keep_failures()
            return True
        finally:
            self._cost_done = base + cost
        return False

    def _fail(self, name: str, label: str, error: LabError, log_path: str, tail: tuple[str, ...]) -> None:
        self.failures[name, label] = StepFailure(
            step=name, format=label, message=error.message, hint=error.hint, log_path=log_path, log_tail=tail
        )
        self.display.error(error.message, error.hint)
        if tail:
            self.display.note(f"  last line of {log_path}: {tail[-1]}")
        self._keep_failures()

    def _keep_failures(self) -> None:
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
            for old in (*lab.folder.nll.glob("*.npy"), *lab.folder.nll.glob(".journal-*")):
                old.unlink(missing_ok=True)
        write_record(lab.folder.record_path("source"), lab.model)
        write_record(lab.folder.record_path("text"), lab.text)
        stale = _stale(lab, names, force)
        bench = "bench" in names and ("bench" in force or not _bench_complete(lab))
        bench_cost = _COSTS["bench"] * lab.config.bench_rounds * len(lab.labels)
        running = _Run(lab, display, sum(_cost(lab, step.name) for step in stale) + (bench_cost if bench else 0))
        try:
            for step in stale:
                running.attempt(step.name, step.label, _cost(lab, step.name), functools.partial(step.make, lab))
            if bench:
                _bench(running, "bench" in force)
        finally:
            display.end()
        records = load_records(lab)
        total = len(lab.labels) * len(names)
        reports = build_report(lab, records) if report else ()
        return Outcome(
            made=running.made,
            fresh=total - len(stale) - (len(lab.labels) if bench else 0),
            failures=tuple(running.failures.values()),
            reports=reports,
            records=records,
        )


def _sweep(lab: Lab) -> None:
    """Remove what a killed run left half-written."""
    for folder in (lab.folder.root, lab.folder.records, lab.folder.nll, Path(lab.config.reports) / lab.model.name):
        remove_partials(folder)
    for label in lab.labels:
        remove_partials(steps.prompt_path(lab, label, 1, "greedy").parent)


# -- speed, in rounds over all formats --------------------------------------------------------------------------------


def _bench_labels(lab: Lab) -> tuple[str, ...]:
    return tuple(label for label in lab.labels if steps.fresh_file(lab, label) is not None)


def _bench_complete(lab: Lab) -> bool:
    labels = _bench_labels(lab)
    if labels != lab.labels:
        return False
    key = steps.bench_key(lab, labels)
    runs = [steps.stored_speed(lab, label, key) for label in labels]
    return all(run is not None and len(run.visits) >= lab.config.bench_rounds for run in runs)


def _bench(running: _Run, force: bool) -> None:
    """Rounds over the formats, each in a fresh process, in turned order every other round, so that heat hits all alike.

    A round that was not finished is done again, since its ratios would compare different moments.
    """
    lab = running.lab
    labels = _bench_labels(lab)
    if not labels:
        return
    key = steps.bench_key(lab, labels)
    runs = {label: None if force else steps.stored_speed(lab, label, key) for label in labels}
    visits = {label: list(run.visits) if run is not None else [] for label, run in runs.items()}
    finished = min(len(one) for one in visits.values())
    begun = time.monotonic()
    for number in range(finished, lab.config.bench_rounds):
        if number > finished and time.monotonic() - begun > lab.config.bench_budget_s:
            running.display.warn(
                f"The speed step ran out of time after {number} of {lab.config.bench_rounds} rounds "
                "(bench_budget_s in lab.toml)."
            )
            break
        for place, label in enumerate(labels if number % 2 == 0 else labels[::-1]):

            def visit(on_progress: OnProgress, label: str = label, number: int = number, place: int = place) -> None:
                kept = visits[label][:number]
                kept.append(steps.make_visit(lab, label, number, number * len(labels) + place))
                visits[label] = kept
                steps.store_visits(lab, label, key, tuple(kept))
                on_progress(tasks.Progress(done=number + 1, total=lab.config.bench_rounds))

            running.attempt("bench", label, _COSTS["bench"], visit)


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
    )
    paths = build(records, folder, options)
    write_text(stamp, json.dumps({"key": key, "files": [path.name for path in paths]}, indent=1) + "\n")
    return paths


def _report_key(lab: Lab, records: LabRecords) -> str:
    """Digest of everything the report shows; a record's visits or chunks change its key or its time of making."""
    answers = report_folder(lab) / "answers.toml"
    groups = (records.files, records.perplexity, records.speed, records.memory, records.generation)
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
            "answers": lab.digests.sha256(answers) if answers.is_file() else "",
        }
    )


def sources_of(folder: RunFolder) -> tuple[SourceModel | None, TextSource | None]:
    """Model and text of an earlier run, from its records."""
    return (
        read_record(folder.record_path("source"), SourceModel),
        read_record(folder.record_path("text"), TextSource),
    )
