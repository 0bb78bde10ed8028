"""The whole chain: every stale step in its order, and what happens when one of them fails."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError
from labctl.executors.base import Progress
from labctl.executors.child import ChildError, OnProgress
from labctl.lab import heard
from labctl.lab.lab import Lab
from labctl.lab.listener import Listener
from labctl.pipeline import asked, labs, plan
from labctl.pipeline.plan import STEP, STEPS, is_fresh
from labctl.pipeline.reporting import build_report, failures_of, load_records, report_folder
from labctl.records.disk import remove_partials
from labctl.records.lock import lock
from labctl.records.store import refuse_newer, set_aside_damaged, write_record
from labctl.steps.divergence.step import (
    has_spool,
    riding,
    run_divergence,
    stale_divergence,
    sweep_spools,
)
from labctl.steps.generate.step import prompt_path
from labctl.steps.groups import KINDS, Failures, runs
from labctl.steps.measured import LabRecords, StepFailure
from labctl.steps.perplexity import adaptive
from labctl.steps.perplexity.step import forget, make_perplexity, perplexity_step
from labctl.steps.quantize.step import load_source
from labctl.steps.speed import rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did.

    Attributes:
        made, fresh: records that it wrote, and those that it found up to date.
    """

    made: int
    fresh: int
    failures: tuple[StepFailure, ...]
    reports: tuple[Path, ...]
    records: LabRecords


class _Run:
    """One run over the stale steps: counts, failures, progress."""

    def __init__(self, lab: Lab, display: Listener, costs: Mapping[str, float]) -> None:
        self.lab = lab
        self.display = display
        self.made: set[tuple[str, str]] = set()
        self.failures = {(one.step, one.format): one for one in failures_of(lab)}
        self.touched: set[tuple[str, str]] = set()
        self._costs = costs
        self._cost_done = dict.fromkeys(STEPS, 0.0)
        display.begin(_expected_s(lab, costs), self._result)

    def load(self) -> None:
        """Open the source, unless that was done before, and say what llama.cpp warned of.

        Raises:
            LabError: it cannot be measured.
        """
        if not heard.was_loaded(self.lab.folder, self.lab.notices_key):
            self.display.step(heard.LOAD, self.lab.model.baseline)
            known, self.lab = self.lab.model.notices, load_source(self.lab)
            for notice in self.lab.model.notices[len(known) :]:
                self.display.notice(notice)
        write_record(self.lab.folder.record_path("source"), self.lab.model)

    def attempt(self, name: str, label: str, cost: float, work: Callable[[OnProgress], object]) -> bool:
        """Do one step; a failure is reported and kept, and the run goes on."""
        self.touched.add((name, label))
        self.display.step(name, label)
        base, whole = self._cost_done[name], self._costs.get(name, 0.0)

        def on_progress(event: Progress) -> None:
            share = event.done / event.total if event.total else 0.0
            self.display.progress(
                event.done, event.total, event.note, (base + cost * share) / whole if whole else share
            )

        try:
            work(on_progress)
        except LabError as error:
            if error.for_all:
                raise
            self._fail(name, label, error)
        else:
            self.made.add((name, label))
            if self.failures.pop((name, label), None) is not None:
                self._keep_failures()
            return True
        finally:
            self._cost_done[name] = base + cost
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
            self.display.note(f"  log: {log_path}")
        self._keep_failures()

    def _result(self, name: str) -> str:
        """What a finished step found; the run goes on where that cannot be told."""
        from labctl.report.analysis import frame, rows_of
        from labctl.report.summary import step_result

        with contextlib.suppress(LabError):
            records = load_records(self.lab)
            return step_result(records, rows_of(frame(records, limit=self.lab.config.limit)), name)
        return ""

    def _keep_failures(self) -> None:
        with contextlib.suppress(LabError):  # on a full disk; the failure itself was shown
            write_record(self.lab.folder.record_path("failures"), Failures(failures=tuple(self.failures.values())))


def run(
    lab: Lab, display: Listener, *, names: Sequence[str] = STEPS, force: Sequence[str] = (), wait: bool = False,
    report: bool = True,
) -> Outcome:  # fmt: skip
    """Make every stale step of `names`, then the report.

    Args:
        force: steps to make even if they are fresh; for perplexity, chunks already measured are measured again.
        wait: queue behind another labctl at work on this model instead of leaving.
    Raises:
        LabError: another labctl holds the lock, or the report cannot be written. Failing steps do not raise.
    """
    with lock(lab.folder.root, wait, display.note):
        _sweep(lab)
        refuse_newer(lab.folder.records)
        for path in set_aside_damaged(lab.folder.records, KINDS):
            display.warn(f"A record was damaged and is set aside as {path}; its step is done again.")
        if "perplexity" in force:
            for label in lab.labels:
                forget(lab, label)
        _claim(lab, names)
        whole = set(STEPS) <= set(names)
        now = asked.note(lab.folder, lab.model, lab.config, lab.n_threads, names, whole=whole, standing=lab.standing)
        lab = dataclasses.replace(lab, asked={**lab.asked, **{name: now.steps[name] for name in names}})
        running = _Run(lab, display, _costs(lab, names, force))
        try:
            running.load()
            for name in STEPS:
                if name in names:
                    _group(running, name, name in force, "divergence" in names)
        finally:
            display.end()
        lab = running.lab.with_notices()
        write_record(lab.folder.record_path("source"), lab.model)
        records = load_records(lab)
        there = {(one.group.step, one.label) for one in runs(records) if one.group.step in names}
        reports = build_report(lab, records) if report else ()
        return Outcome(
            made=len(running.made & there),
            fresh=len(there - running.touched),
            failures=tuple(one for key, one in running.failures.items() if key in running.touched),
            reports=reports,
            records=records,
        )


def _claim(lab: Lab, names: Sequence[str]) -> None:
    """See that the folder is still this model's, and note the text where one is read.

    Raises:
        LabError: it became another model's since the lab was opened.
    """
    if labs.owner(lab.folder.root) not in ("", lab.model.sha256):
        raise LabError(f"{lab.folder.root} has just become the lab of another model.", "Run the same command again.")
    text = lab.folder.record_path("text")
    if {"perplexity", "divergence"} & set(names) or not text.exists():
        write_record(text, lab.text)


def _costs(lab: Lab, names: Sequence[str], force: Sequence[str]) -> dict[str, float]:
    """Cost of all that a run will do in each step, in the order of the work, for the progress display."""
    costs = dict.fromkeys(STEPS, 0.0)
    for step in plan.stale(lab, names, force):
        costs[step.name] += plan.cost(lab, step.name)
    if "divergence" in names:
        stale = stale_divergence(lab, "divergence" in force) or (() if _bench_files(lab) else lab.labels)
        costs["divergence"] = plan.cost(lab, "divergence") * (len(stale) + bool(stale))
    if "bench" in names and ("bench" in force or not rounds.complete(lab)):
        costs["bench"] = rounds.total_cost(lab)
    return costs


def _expected_s(lab: Lab, costs: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each step will take, by this machine's speed as far as it is known."""
    per_s = plan.prompt_rate(lab)
    expected = {name: cost / per_s for name, cost in costs.items()}
    if expected["bench"]:
        expected["bench"] = len(lab.labels) * rounds.estimate_s(lab, per_s)
    return expected


def _bench_files(lab: Lab) -> bool:
    return len(rounds.labels_with_file(lab)) == len(lab.labels)


def _group(running: _Run, name: str, force: bool, with_divergence: bool) -> None:
    """Make what is stale of one step, all formats; asked only now, when the files that it needs are made."""
    lab = running.lab
    labels = [label for label in lab.labels if ("quantize", label) not in running.failures or name == "quantize"]
    if name == "bench":
        if force or not rounds.complete(lab):
            rounds.run_rounds(lab, running.display, running.attempt, force=force)
    elif name == "divergence":
        if stale := stale_divergence(lab, force):
            run_divergence(lab, running.attempt, stale, plan.cost(lab, name))
    elif name == "perplexity" and lab.config.is_auto:
        steps_ = [perplexity_step(label) for label in labels]
        if force or not all(is_fresh(lab, step) for step in steps_):
            with riding(lab, with_divergence) as rider_of:
                adaptive.run_auto(lab, running.attempt, labels, plan.cost(lab, name) * len(labels), rider_of)
    elif name == "perplexity":
        stale = [label for label in labels if force or not is_fresh(lab, perplexity_step(label))]
        if stale:
            with riding(lab, with_divergence and (lab.model.baseline in stale or has_spool(lab))) as rider_of:
                for label in stale:
                    work = functools.partial(make_perplexity, lab, label, rider=rider_of(label))
                    running.attempt(name, label, plan.cost(lab, name), work)
    else:
        for label in labels:
            step = STEP[name](label)
            if force or not is_fresh(lab, step):
                running.attempt(name, label, plan.cost(lab, name), functools.partial(step.make, lab))


def _sweep(lab: Lab) -> None:
    """Remove what a killed run left half-written."""
    for folder in (lab.folder.root.parent, lab.folder.root, lab.folder.records, lab.folder.nll, report_folder(lab)):
        remove_partials(folder)
    sweep_spools(lab)
    for label in lab.labels:
        remove_partials(prompt_path(lab, label, 1, "greedy").parent)
