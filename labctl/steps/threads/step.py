"""Threads step: one format with different numbers of threads, in rounds that go up and down in turn."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

from labctl.executors.base import OnProgress, Progress
from labctl.lab.lab import Lab, key_of
from labctl.steps.base import Case, Step
from labctl.steps.bench.record import DISTURBED, BenchEffort, BenchTask, SpeedVisit
from labctl.steps.bench.step import labels_with_file, least_visit_s, limits
from labctl.steps.files import need_file
from labctl.steps.rates import Rates
from labctl.steps.threads.record import ThreadSweep

_ROUNDS = 4
_EFFORT = BenchEffort(min_reps=2, max_reps=6, min_s=0.3, max_s=10.0)
_FORMAT = "Q4_K_M"


class Threads(Step[ThreadSweep]):
    """Speed of one format by the number of threads."""

    name = "threads"
    record = ThreadSweep
    asks = "time"
    on_request = True

    def key(self, lab: Lab, case: Case) -> str:
        return _key(lab, case, _counts(lab))

    def fresh(self, lab: Lab, case: Case) -> ThreadSweep | None:
        """What was timed on the machine of now, whatever the numbers of threads."""
        record = self.read(lab.folder, case)
        if record is None:
            return None
        return record if record.provenance.key == _key(lab, case, tuple(record.visits)) else None

    def stale(self, lab: Lab, *, force: bool = False) -> tuple[Case, ...]:
        """A single format is enough, one that is much used if it is there."""
        if not force and self.load(lab):
            return ()
        labels = labels_with_file(lab) or lab.formats
        return (Case(_FORMAT if _FORMAT in labels else labels[-1]),)

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        return rates.process_s(n_prompt=5_000 * len(_counts(lab)))

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None) -> ThreadSweep:
        need_file(lab, case.format)
        counts, budget_s, begun = _counts(lab), lab.config.bench_seconds(lab.is_demo), time.monotonic()
        n_prompt, n_gen = lab.reach.bench
        visits: dict[int, tuple[SpeedVisit, ...]] = {}
        done = 0
        for number in range(_ROUNDS):
            if number and time.monotonic() - begun > budget_s:
                break
            for count in counts if number % 2 == 0 else counts[::-1]:
                left_s = budget_s - (time.monotonic() - begun)
                task = BenchTask(
                    model_path=str(lab.gguf_path(case.format)),
                    format=case.format,
                    n_threads=count,
                    n_prompt=n_prompt,
                    n_gen=n_gen,
                    effort=_EFFORT,
                    round=number,
                    order=done,
                    deadline_s=max(left_s / (len(counts) - done % len(counts)), least_visit_s(lab)),
                )
                visits[count] = (*visits.get(count, ()), lab.run(task, SpeedVisit, self.name, case.format))
                done += 1
                if on_progress is not None:
                    on_progress(Progress(done=done, total=_ROUNDS * len(counts), note=f"{count} threads"))
        record = ThreadSweep(
            format=case.format,
            n_prompt=n_prompt,
            n_gen=n_gen,
            visits=dict(sorted(visits.items())),
            provenance=lab.provenance(
                self.name,
                self.key(lab, case),
                {"model": need_file(lab, case.format).sha256},
                {"n_threads": list(counts), "rounds": _ROUNDS},
            ),
        )
        self.write(lab.folder, case, record)
        return record


def _key(lab: Lab, case: Case, counts: Sequence[int]) -> str:
    n_prompt, n_gen = lab.reach.bench
    return key_of(
        "threads",
        lab,
        model=need_file(lab, case.format).sha256,
        machine=lab.machine.machine_id,
        n_prompt=n_prompt,
        n_gen=n_gen,
        rounds=_ROUNDS,
        effort=dataclasses.asdict(_EFFORT),
        disturbed=DISTURBED,
        counts=sorted(counts),
        **limits(lab),
    )


def _counts(lab: Lab) -> tuple[int, ...]:
    usable = math.ceil(lab.machine.core_limit) or lab.machine.n_cores_logical
    return thread_counts(lab.n_threads, lab.machine.n_cores_physical, usable)


def thread_counts(usual: int, n_physical: int, n_logical: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: all up to eight, then powers of two, the usual one, all cores, all threads."""
    few = range(1, min(8, n_logical) + 1)
    powers = [2**power for power in range(4, 11) if 2**power <= n_logical]
    return tuple(sorted({*few, *powers, usual, min(n_physical, n_logical), n_logical}))


THREADS = Threads()
