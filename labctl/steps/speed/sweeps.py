"""Speed asked in other ways: several sequences at once, and different numbers of threads."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

from labctl.errors import LabError
from labctl.executors.base import Progress
from labctl.lab.lab import Lab, key_of
from labctl.lab.listener import Listener
from labctl.records.store import read_record, write_record
from labctl.steps.files import need_file
from labctl.steps.speed.record import BatchRun, BatchTask, BenchEffort, BenchTask, SpeedVisit, ThreadSweep
from labctl.steps.speed.rounds import labels_with_file, least_visit_s, limits

BATCH_REPS = 3
_GUESSED_S = 10.0  # a format, or a number of threads; what is seen soon takes over
_SWEEP_ROUNDS = 4
_SWEEP_EFFORT = BenchEffort(min_reps=2, max_reps=6, min_s=0.3, max_s=10.0)
_SWEEP_FORMAT = "Q4_K_M"
OnDone = Callable[[int, int, str], None]


def load_batches(lab: Lab) -> dict[str, BatchRun]:
    """What was timed side by side of the files, with the threads and on the machine of now."""
    found = {}
    for label in labels_with_file(lab):
        run = read_record(lab.folder.record_path("batch", label), BatchRun)
        key = _batch_key(lab, label, [point.n_seq for point in run.points]) if run is not None else ""
        if run is not None and run.provenance is not None and run.provenance.key == key:
            found[label] = run
    return found


def load_threads(lab: Lab) -> dict[str, ThreadSweep]:
    """Sweeps of threads of the files and machine of now."""
    found = {}
    for label in labels_with_file(lab):
        sweep = read_record(lab.folder.record_path("threads", label), ThreadSweep)
        key = _threads_key(lab, label, list(sweep.visits)) if sweep is not None else ""
        if sweep is not None and sweep.provenance is not None and sweep.provenance.key == key:
            found[label] = sweep
    return found


def _batch_key(lab: Lab, label: str, n_seqs: Sequence[int]) -> str:
    n_prompt, n_gen = lab.reach.batch
    return key_of(
        "batch", lab, model=need_file(lab, label).sha256, machine=lab.machine.machine_id, n_threads=lab.n_threads,
        n_prompt=n_prompt, n_gen=n_gen, n_reps=BATCH_REPS, n_seqs=sorted(n_seqs), **limits(lab),
    )  # fmt: skip


def _threads_key(lab: Lab, label: str, counts: Sequence[int]) -> str:
    n_prompt, n_gen = lab.reach.bench
    return key_of(
        "threads", lab, model=need_file(lab, label).sha256, machine=lab.machine.machine_id, n_prompt=n_prompt,
        n_gen=n_gen, rounds=_SWEEP_ROUNDS, effort=dataclasses.asdict(_SWEEP_EFFORT), counts=sorted(counts),
        **limits(lab),
    )  # fmt: skip


def run_batches(lab: Lab, display: Listener, n_seqs: Sequence[int]) -> dict[str, BatchRun]:
    """Time so many sequences side by side, for every format that is there; keeps a record of each.

    Raises:
        LabError: no file is there, or none could be timed.
    """
    found: dict[str, BatchRun] = {}
    labels = _need_labels(lab)
    n_prompt, n_gen = lab.reach.batch
    display.begin({"bench --batch": _GUESSED_S * len(labels)})
    begun = time.monotonic()
    try:
        for place, label in enumerate(labels):
            display.step("bench --batch", label)
            left_s = lab.config.bench_seconds(lab.is_demo) - (time.monotonic() - begun)
            task = BatchTask(
                model_path=str(lab.gguf_path(label)),
                format=label,
                n_threads=lab.n_threads,
                n_prompt=n_prompt,
                n_gen=n_gen,
                n_seqs=tuple(n_seqs),
                n_reps=BATCH_REPS,
                deadline_s=max(left_s / (len(labels) - place), least_visit_s(lab)),
            )

            def on_progress(event: Progress, place: int = place) -> None:
                display.progress(event.done, event.total, event.note, (place + event.done / event.total) / len(labels))

            try:
                run = lab.run(task, BatchRun, "batch", label, on_progress)
            except LabError as error:
                display.error(error.message, error.hint)
                continue
            settings = {"n_threads": lab.n_threads, "n_seqs": list(n_seqs), "n_reps": BATCH_REPS}
            inputs = {"model": need_file(lab, label).sha256}
            key = _batch_key(lab, label, n_seqs)
            run = dataclasses.replace(run, provenance=lab.provenance("batch", key, inputs, settings))
            write_record(lab.folder.record_path("batch", label), run)
            found[label] = run
    finally:
        display.end()
    if not found:
        raise LabError("No format could be timed with several sequences.", "Try fewer at once: --batch 1,2")
    return found


def sweep_threads(lab: Lab, display: Listener) -> ThreadSweep:
    """Time one format with different numbers of threads, in rounds that go up and down in turn; keeps a record.

    Raises:
        LabError: no file is there, or llama.cpp failed.
    """
    labels = _need_labels(lab)
    label = _SWEEP_FORMAT if _SWEEP_FORMAT in labels else labels[-1]
    usable = math.ceil(lab.machine.core_limit) or lab.machine.n_cores_logical
    counts = thread_counts(lab.n_threads, lab.machine.n_cores_physical, usable)
    n_prompt, n_gen = lab.reach.bench
    visits: dict[int, tuple[SpeedVisit, ...]] = {}
    n_visits = _SWEEP_ROUNDS * len(counts)
    display.begin({"bench --sweep-threads": _GUESSED_S * len(counts)})
    begun, done = time.monotonic(), 0
    try:
        display.step("bench --sweep-threads", label)
        for number in range(_SWEEP_ROUNDS):
            if number and time.monotonic() - begun > lab.config.bench_seconds(lab.is_demo):
                break
            for count in counts if number % 2 == 0 else counts[::-1]:
                left_s = lab.config.bench_seconds(lab.is_demo) - (time.monotonic() - begun)
                task = BenchTask(
                    model_path=str(lab.gguf_path(label)),
                    format=label,
                    n_threads=count,
                    n_prompt=n_prompt,
                    n_gen=n_gen,
                    effort=_SWEEP_EFFORT,
                    round=number,
                    order=done,
                    deadline_s=max(left_s / (len(counts) - done % len(counts)), least_visit_s(lab)),
                )
                visits[count] = (*visits.get(count, ()), lab.run(task, SpeedVisit, "threads", label, None))
                done += 1
                display.progress(done, n_visits, f"{count} threads", done / n_visits)
    finally:
        display.end()
    inputs = {"model": need_file(lab, label).sha256}
    settings = {"n_threads": list(counts), "rounds": _SWEEP_ROUNDS}
    sweep = ThreadSweep(
        format=label,
        n_prompt=n_prompt,
        n_gen=n_gen,
        visits=dict(sorted(visits.items())),
        provenance=lab.provenance("threads", _threads_key(lab, label, counts), inputs, settings),
    )
    write_record(lab.folder.record_path("threads", label), sweep)
    return sweep


def thread_counts(usual: int, n_physical: int, n_logical: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: all up to eight, then powers of two, the usual one, all cores, all threads."""
    few = range(1, min(8, n_logical) + 1)
    powers = [2**power for power in range(4, 11) if 2**power <= n_logical]
    return tuple(sorted({*few, *powers, usual, min(n_physical, n_logical), n_logical}))


def _need_labels(lab: Lab) -> tuple[str, ...]:
    labels = labels_with_file(lab)
    if not labels:
        raise LabError(
            f"There is no file of {lab.model.name} to time.", f"Make them first: {lab.command('quantize', exact=True)}"
        )
    return labels
