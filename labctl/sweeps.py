"""Speed asked in other ways: several sequences at once, and different numbers of threads."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labctl import tasks
from labctl.console import Display
from labctl.errors import LabError
from labctl.measure.ratios import Test
from labctl.records_hardware import BatchRun, BenchEffort, SpeedVisit, ThreadSweep
from labctl.rounds import labels_with_file
from labctl.steps import N_GEN, N_PROMPT, Lab, need_file
from labctl.store import digest, write_record

BATCH_PROMPT, BATCH_GEN, BATCH_REPS = 128, 128, 3
_SWEEP_ROUNDS = 4
_SWEEP_EFFORT = BenchEffort(min_reps=2, max_reps=6, min_s=0.3, max_s=10.0)
_SWEEP_FORMAT = "Q4_K_M"
OnDone = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadsRow:
    """Median speed of one number of threads, over the rounds, in tokens per second, with its range over them."""

    n_threads: int
    tg_tps: float
    tg_low_tps: float
    tg_high_tps: float
    pp_tps: float
    pp_low_tps: float
    pp_high_tps: float


def run_batches(lab: Lab, display: Display, n_seqs: Sequence[int]) -> dict[str, BatchRun]:
    """Time so many sequences side by side, for every format that is there; keeps a record of each.

    Raises:
        LabError: no file is there, or none could be timed.
    """
    found: dict[str, BatchRun] = {}
    labels = _need_labels(lab)
    display.begin(len(labels))
    try:
        for place, label in enumerate(labels):
            display.step("bench --batch", label)
            task = tasks.BatchTask(
                model_path=str(lab.gguf_path(label)),
                format=label,
                n_threads=lab.n_threads,
                n_prompt=BATCH_PROMPT,
                n_gen=BATCH_GEN,
                n_seqs=tuple(n_seqs),
                n_reps=BATCH_REPS,
            )

            def on_progress(event: tasks.Progress, place: int = place) -> None:
                display.progress(event.done, event.total, event.note, place + event.done / event.total)

            try:
                run = lab.run(task, BatchRun, "batch", label, on_progress)
            except LabError as error:
                display.error(error.message, error.hint)
                continue
            settings = {"n_threads": lab.n_threads, "n_seqs": list(n_seqs), "n_reps": BATCH_REPS}
            inputs = {"model": need_file(lab, label).sha256}
            run = BatchRun(
                format=run.format, n_threads=run.n_threads, n_prompt=run.n_prompt, n_gen=run.n_gen, points=run.points,
                provenance=lab.provenance("batch", digest({**inputs, **settings}), inputs, settings),
            )  # fmt: skip
            write_record(lab.folder.record_path("batch", label), run)
            found[label] = run
    finally:
        display.end()
    if not found:
        raise LabError("No format could be timed with several sequences.", "Try fewer at once: --batch 1,2")
    return found


def sweep_threads(lab: Lab, display: Display) -> ThreadSweep:
    """Time one format with different numbers of threads, in rounds that go up and down in turn; keeps a record.

    Raises:
        LabError: no file is there, or llama.cpp failed.
    """
    labels = _need_labels(lab)
    label = _SWEEP_FORMAT if _SWEEP_FORMAT in labels else labels[-1]
    counts = thread_counts(lab.n_threads, lab.machine.n_cores_physical, lab.machine.n_cores_logical)
    visits: dict[int, tuple[SpeedVisit, ...]] = {}
    display.begin(_SWEEP_ROUNDS * len(counts))
    done = 0
    try:
        display.step("bench --sweep-threads", label)
        for number in range(_SWEEP_ROUNDS):
            for count in counts if number % 2 == 0 else counts[::-1]:
                task = tasks.BenchTask(
                    model_path=str(lab.gguf_path(label)),
                    format=label,
                    n_threads=count,
                    n_prompt=N_PROMPT,
                    n_gen=N_GEN,
                    effort=_SWEEP_EFFORT,
                    round=number,
                    order=done,
                )
                visits[count] = (*visits.get(count, ()), lab.run(task, SpeedVisit, "threads", label, None))
                done += 1
                display.progress(done, _SWEEP_ROUNDS * len(counts), f"{count} threads", done)
    finally:
        display.end()
    inputs = {"model": need_file(lab, label).sha256}
    settings = {"n_threads": list(counts), "rounds": _SWEEP_ROUNDS}
    sweep = ThreadSweep(
        format=label,
        n_prompt=N_PROMPT,
        n_gen=N_GEN,
        visits=dict(sorted(visits.items())),
        provenance=lab.provenance("threads", digest({**inputs, **settings}), inputs, settings),
    )
    write_record(lab.folder.record_path("threads", label), sweep)
    return sweep


def thread_counts(usual: int, n_physical: int, n_logical: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: all up to eight, then powers of two, the usual one, all cores, all threads."""
    few = range(1, min(8, n_logical) + 1)
    powers = [2**power for power in range(4, 11) if 2**power <= n_logical]
    return tuple(sorted({*few, *powers, usual, min(n_physical, n_logical), n_logical}))


def sweep_rows(sweep: ThreadSweep) -> tuple[ThreadsRow, ...]:
    """One row a number of threads, ascending."""
    rows = []
    for count, visits in sorted(sweep.visits.items()):
        tg = sorted(sweep.n_gen / statistics.median(visit.tg_s) for visit in visits)
        pp = sorted(sweep.n_prompt / statistics.median(visit.pp_s) for visit in visits)
        rows.append(
            ThreadsRow(
                n_threads=count,
                tg_tps=statistics.median(tg),
                tg_low_tps=tg[0],
                tg_high_tps=tg[-1],
                pp_tps=statistics.median(pp),
                pp_low_tps=pp[0],
                pp_high_tps=pp[-1],
            )
        )
    return tuple(rows)


def advice(rows: Sequence[ThreadsRow], usual: int) -> str:
    """Which number of threads is best for either test, in words, and whether the usual one is as good."""
    parts = []
    tests: tuple[tuple[Test, str], ...] = (("tg", "generating text (tg)"), ("pp", "reading prompts (pp)"))
    for test, words in tests:
        best = max(rows, key=lambda row: _speed(row, test)[0])
        floor = _speed(best, test)[1]
        equal = [row.n_threads for row in rows if row is not best and _speed(row, test)[2] >= floor]
        also = f" ({' and '.join(map(str, equal))} within its range over the rounds)" if equal else ""
        parts.append(f"{words}: {best.n_threads}{also}")
    return (
        f"Fastest number of threads for {'; for '.join(parts)}. labctl uses {usual} unless told otherwise by --threads."
    )


def _speed(row: ThreadsRow, test: Test) -> tuple[float, float, float]:
    if test == "tg":
        return row.tg_tps, row.tg_low_tps, row.tg_high_tps
    return row.pp_tps, row.pp_low_tps, row.pp_high_tps


def _need_labels(lab: Lab) -> tuple[str, ...]:
    labels = labels_with_file(lab)
    if not labels:
        raise LabError(f"There is no file of {lab.model.name} to time.", "Make them first: labctl quantize")
    return labels
