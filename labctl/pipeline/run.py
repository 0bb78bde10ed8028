"""The whole chain: every stale step in its order, and what happens when one of them fails."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl import steps
from labctl.errors import LabError
from labctl.executors.base import ChildError, OnProgress, Progress
from labctl.lab import heard
from labctl.lab.lab import Lab
from labctl.lab.listener import Listener
from labctl.pipeline import asked, labs, preflight
from labctl.pipeline.plan import STEPS
from labctl.pipeline.reporting import build_report, failures_of, kinds, load_records, report_folder
from labctl.records.disk import remove_partials
from labctl.records.lock import lock
from labctl.records.store import refuse_newer, set_aside_damaged, write_record
from labctl.steps.base import AnyStep, Case
from labctl.steps.measured import Failures, Measured, StepFailure
from labctl.steps.quantize.step import load_source


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
    records: Measured


class _Run:
    """One run over the stale steps: counts, failures, progress."""

    def __init__(self, lab: Lab, display: Listener, wanted: Sequence[AnyStep], force: Sequence[str]) -> None:
        self.lab = lab
        self.display = display
        self.made: set[tuple[str, Case]] = set()
        self.failures = {(failure.step, failure.case): failure for failure in failures_of(lab)}
        self.touched: set[tuple[str, Case]] = set()
        stale = {step: step.stale(lab, force=step.name in force) for step in wanted}
        self._units = {step.name: step.unit for step in wanted}
        self.rates = preflight.rates(lab)
        self._expected_s = {step.name: step.total_s(lab, cases, self.rates) for step, cases in stale.items()}
        self._done_s = dict.fromkeys(self._expected_s, 0.0)
        display.begin(self._expected_s, self._result)

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

    def cases(self, step: AnyStep) -> tuple[Case, ...]:
        """What a step can measure: nothing that it comes after has failed for that format."""
        failed = {failure.format for failure in self.failures.values() if failure.step in step.after}
        return tuple(case for case in step.cases(self.lab) if case.format not in failed)

    def do(self, step: AnyStep, *, force: bool, riders: Sequence[AnyStep]) -> None:
        """Make what is stale of one step; asked only now, when the files that it needs are made."""
        possible = self.cases(step)
        stale = [case for case in step.stale(self.lab, force=force) if case in possible]
        if stale:
            step.run(self, stale, riders)

    def attempt(self, step: str, case: Case, expected_s: float, work: Callable[[OnProgress], object]) -> bool:
        """Do a part of a step; a failure is reported and kept, and the run goes on."""
        self.touched.add((step, case))
        self.display.step(step, case.format, self._units[step])
        base, whole = self._done_s[step], self._expected_s[step]

        def on_progress(event: Progress) -> None:
            share = event.done / event.total if event.total else 0.0
            self.display.progress(
                event.done, event.total, event.note, (base + expected_s * share) / whole if whole else share
            )

        try:
            work(on_progress)
        except LabError as error:
            if error.for_all:
                raise
            self._fail(step, case, error)
        else:
            self.made.add((step, case))
            if self.failures.pop((step, case), None) is not None:
                self._keep_failures()
            return True
        finally:
            self._done_s[step] = base + expected_s
        return False

    def _fail(self, name: str, case: Case, error: LabError) -> None:
        log_path, tail = (error.log_path, error.log_tail) if isinstance(error, ChildError) else (None, ())
        self.failures[name, case] = StepFailure(
            step=name,
            format=case.format,
            text=case.text,
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
        if name in steps.TABLE:  # reading the source is none
            with contextlib.suppress(LabError):
                return steps.named(name).outcomes(load_records(self.lab), self.lab.config.limit)
        return ""

    def _keep_failures(self) -> None:
        with contextlib.suppress(LabError):  # on a full disk; the failure itself was shown
            write_record(self.lab.folder.record_path("failures"), Failures(failures=tuple(self.failures.values())))


def run(
    lab: Lab,
    display: Listener,
    *,
    names: Sequence[str | AnyStep] = STEPS,
    force: Sequence[str] = (),
    wait: bool = False,
    report: bool = True,
) -> Outcome:
    """Make every stale step of `names`, then the report.

    Args:
        names: names of steps, or a step with a request of its own.
        force: steps to make even if they are fresh, all of their single measurements, too.
        wait: queue behind another labctl at work on this model instead of leaving.
    Raises:
        LabError: another labctl holds the lock, or the report cannot be written. Failing steps do not raise.
    """
    wanted = steps.every(names)
    step_names = tuple(step.name for step in wanted)
    with lock(lab.folder.root, wait, display.note):
        _sweep(lab)
        refuse_newer(lab.folder.records)
        for path in set_aside_damaged(lab.folder.records, kinds()):
            display.warn(f"A record was damaged and is set aside as {path}; its step is done again.")
        for step in wanted:
            for case in step.cases(lab) if step.name in force else ():
                step.forget(lab, case)
        _claim(lab, wanted)
        whole = set(STEPS) <= set(step_names)
        now = asked.note(
            lab.folder, lab.model, lab.config, lab.n_threads, step_names, whole=whole, standing=lab.standing
        )
        lab = dataclasses.replace(lab, asked={**lab.asked, **{name: now.steps[name] for name in step_names}})
        for step in wanted:
            if why := step.lacking(lab):
                display.note(f"{step.name} is left out: {why}")
        wanted = tuple(step for step in wanted if not step.lacking(lab))
        running = _Run(lab, display, wanted, force)
        try:
            running.load()
            for step in wanted:
                riders = [other for other in wanted if other.rides == step.name]
                running.do(step, force=step.name in force, riders=riders)
        finally:
            display.end()
        lab = running.lab.with_notices()
        write_record(lab.folder.record_path("source"), lab.model)
        records = load_records(lab)
        there = {(step.name, case) for step in wanted for case in records[step] if case in step.cases(lab)}
        reports = build_report(lab, records) if report else ()
        return Outcome(
            made=len(running.made & there),
            fresh=len(there - running.touched),
            failures=tuple(failure for key, failure in running.failures.items() if key in running.touched),
            reports=reports,
            records=records,
        )


def _claim(lab: Lab, wanted: Sequence[AnyStep]) -> None:
    """See that the folder is still this model's, and note the text where one is read.

    Raises:
        LabError: it became another model's since the lab was opened.
    """
    if labs.owner(lab.folder.root) not in ("", lab.model.sha256):
        raise LabError(f"{lab.folder.root} has just become the lab of another model.", "Run the same command again.")
    text = lab.folder.record_path("text")
    if any("text" in step.settings for step in wanted) or not text.exists():
        write_record(text, lab.text)


def _sweep(lab: Lab) -> None:
    """Remove what a killed run left half-written."""
    for folder in (lab.folder.root.parent, lab.folder.root, lab.folder.records, lab.folder.nll, report_folder(lab)):
        remove_partials(folder)
    lab.folder.sweep_scratch(tuple(name for step in steps.every() if (name := step.kept_scratch(lab))))
    for step in steps.every():
        step.sweep(lab)
