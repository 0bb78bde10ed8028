"""Batch step: several sequences at once, each number of them timed as llama-batched-bench does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.executors.base import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.steps.base import AnyStep, Case, Running, Step
from labctl.steps.batch.record import BatchRun, BatchTask, Timed
from labctl.steps.bench.step import least_visit_s, limits
from labctl.steps.files import need_file
from labctl.steps.rates import Rates

N_REPS = 3


@dataclass(frozen=True, slots=True)
class Batch(Step[BatchRun]):
    """Speed of each format with several sequences side by side.

    Attributes:
        n_seqs: numbers of sequences to time.
    """

    n_seqs: tuple[int, ...] = (1, 2, 4, 8)

    name = "batch"
    record = BatchRun
    asks = "batch"
    on_request = True
    settings = ("threads",)

    def key(self, lab: Lab, case: Case) -> str:
        n_prompt, n_gen = lab.reach.batch
        return key_of(
            self.name,
            lab,
            model=need_file(lab, case.format).sha256,
            machine=lab.machine.machine_id,
            n_threads=lab.n_threads,
            n_prompt=n_prompt,
            n_gen=n_gen,
            n_reps=N_REPS,
            n_seqs=sorted(self.n_seqs),
            **limits(lab),
        )

    def fresh(self, lab: Lab, case: Case) -> BatchRun | None:
        """What was timed with the threads and on the machine of now, whatever the numbers of sequences."""
        record = self.read(lab.folder, case)
        if record is None:
            return None
        asked = Batch(tuple(point.n_seq for point in record.points))
        return record if record.provenance.key == asked.key(lab, case) else None

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        return rates.process_s(n_prompt=5_000 * len(self.n_seqs))

    def run(self, running: Running, stale: Sequence[Case], riders: Sequence[AnyStep] = ()) -> None:
        lab, begun = running.lab, time.monotonic()
        for place, case in enumerate(stale):
            left_s = lab.config.bench_seconds(lab.is_demo) - (time.monotonic() - begun)
            deadline_s = max(left_s / (len(stale) - place), least_visit_s(lab))

            def work(on_progress: OnProgress, case: Case = case, deadline_s: float = deadline_s) -> None:
                self._time(lab, case, on_progress, deadline_s)

            running.attempt(self.name, case, self.expected_s(lab, case, running.rates), work)

    def _time(self, lab: Lab, case: Case, on_progress: OnProgress, deadline_s: float) -> None:
        n_prompt, n_gen = lab.reach.batch
        task = BatchTask(
            model_path=str(lab.gguf_path(case.format)),
            format=case.format,
            n_threads=lab.n_threads,
            n_prompt=n_prompt,
            n_gen=n_gen,
            n_seqs=self.n_seqs,
            n_reps=N_REPS,
            deadline_s=deadline_s,
        )
        timed = lab.run(task, Timed, self.name, case.format, on_progress)
        record = BatchRun(
            format=case.format,
            n_threads=lab.n_threads,
            n_prompt=n_prompt,
            n_gen=n_gen,
            points=timed.points,
            cut=timed.cut,
            provenance=lab.provenance(
                self.name,
                self.key(lab, case),
                {"model": need_file(lab, case.format).sha256},
                {"n_threads": lab.n_threads, "n_seqs": list(self.n_seqs), "n_reps": N_REPS},
            ),
        )
        self.write(lab.folder, case, record)


BATCH = Batch()
