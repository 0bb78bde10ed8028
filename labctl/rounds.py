"""Speed, in rounds over all formats: a fresh process a visit, the baseline in every round as the anchor."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

from labctl import tasks
from labctl.console import Display
from labctl.process import OnProgress
from labctl.records import BenchEffort, SpeedRun, SpeedVisit
from labctl.steps import N_GEN, N_PROMPT, Lab, fresh_file, key_of, need_file, stored
from labctl.store import write_record

VISIT_COST = 6_000
"""A visit's size in prompt tokens, roughly, for the progress display and the time estimate."""
EFFORT = BenchEffort()
Attempt = Callable[[str, str, float, Callable[[OnProgress], object]], bool]
"""Does one step: name, format, cost, work. Says whether it succeeded; a failure is reported there."""


def labels_with_file(lab: Lab) -> tuple[str, ...]:
    """Formats that can be timed: their file is there."""
    return tuple(label for label in lab.labels if fresh_file(lab, label) is not None)


def bench_key(lab: Lab, labels: tuple[str, ...]) -> str:
    """Digest for the speed of a set of formats: they are timed against each other, so one more means timing all."""
    return key_of(
        "bench", lab, files={label: need_file(lab, label).sha256 for label in labels}, machine=lab.machine.machine_id,
        n_threads=lab.n_threads, n_prompt=N_PROMPT, n_gen=N_GEN, effort=dataclasses.asdict(EFFORT),
    )  # fmt: skip


def load_speed(lab: Lab) -> dict[str, SpeedRun]:
    """All fresh speed records."""
    labels = labels_with_file(lab)
    if not labels:
        return {}
    key = bench_key(lab, labels)
    return {label: run for label in labels if (run := stored(lab, "bench", label, SpeedRun, key)) is not None}


def complete(lab: Lab) -> bool:
    """Whether every format was timed in every round asked for."""
    runs = load_speed(lab)
    return set(runs) == set(lab.labels) and all(len(run.visits) >= lab.config.bench_rounds for run in runs.values())


def total_cost(lab: Lab) -> float:
    """Cost of the whole bench, for the progress display."""
    return VISIT_COST * lab.config.bench_rounds * len(lab.labels)


def estimate_s(lab: Lab, tokens_per_s: float) -> float:
    """Seconds that the whole bench takes one format, roughly; of prompt tokens, the machine reads so many a second."""
    return lab.config.bench_rounds * (1.5 + VISIT_COST / tokens_per_s)


def speed_warnings(speed: dict[str, SpeedRun]) -> tuple[str, ...]:
    """What a reader must know about the speed figures."""
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


def run_rounds(lab: Lab, display: Display, attempt: Attempt, *, force: bool) -> None:
    """Rounds over the formats, each in a fresh process, in turned order every other round, so that heat hits all alike.

    A round that was not finished is done again, since its ratios would compare different moments.
    """
    labels = labels_with_file(lab)
    if not labels:
        return
    key = bench_key(lab, labels)
    runs = {} if force else load_speed(lab)
    visits = {label: list(runs[label].visits) if label in runs else [] for label in labels}
    finished = min(len(one) for one in visits.values())
    begun = time.monotonic()
    for number in range(finished, lab.config.bench_rounds):
        if number > finished and time.monotonic() - begun > lab.config.bench_budget_s:
            display.warn(
                f"The speed step ran out of time after {number} of {lab.config.bench_rounds} rounds "
                "(bench_budget_s in lab.toml)."
            )
            break
        for place, label in enumerate(labels if number % 2 == 0 else labels[::-1]):

            def visit(on_progress: OnProgress, label: str = label, number: int = number, place: int = place) -> None:
                kept = visits[label][:number]
                kept.append(_visit(lab, label, number, number * len(labels) + place))
                visits[label] = kept
                _store(lab, label, key, tuple(kept))
                on_progress(tasks.Progress(done=number + 1, total=lab.config.bench_rounds))

            attempt("bench", label, VISIT_COST, visit)


def _visit(lab: Lab, label: str, round_number: int, order: int) -> SpeedVisit:
    """One fresh process that times one format."""
    task = tasks.BenchTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        n_prompt=N_PROMPT,
        n_gen=N_GEN,
        effort=EFFORT,
        round=round_number,
        order=order,
    )
    return lab.run(task, SpeedVisit, "bench", label, None)


def _store(lab: Lab, label: str, key: str, visits: tuple[SpeedVisit, ...]) -> SpeedRun:
    """Keep a format's visits so far."""
    settings = {"n_threads": lab.n_threads, "n_prompt": N_PROMPT, "n_gen": N_GEN, **dataclasses.asdict(EFFORT)}
    record = SpeedRun(
        format=label,
        n_threads=lab.n_threads,
        n_prompt=N_PROMPT,
        n_gen=N_GEN,
        visits=visits,
        provenance=lab.provenance("bench", key, {"model": need_file(lab, label).sha256}, settings),
    )
    write_record(lab.folder.record_path("bench", label), record)
    return record
