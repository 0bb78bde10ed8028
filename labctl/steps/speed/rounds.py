"""Speed, in rounds over all formats: a fresh process a visit, the baseline in every round as the anchor."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labctl.executors.base import Progress
from labctl.executors.child import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.lab.listener import Listener
from labctl.machine.checks import BUSY_CORE, conditions_checks
from labctl.machine.fingerprint import conditions
from labctl.records.hardware import Conditions, Work
from labctl.records.store import read_record, write_record
from labctl.steps.base import stored
from labctl.steps.files import fresh_file, need_file
from labctl.steps.speed.record import BenchConditions, BenchEffort, BenchTask, SpeedRun, SpeedVisit

VISIT_COST = 3_000
"""A visit's size in prompt tokens, roughly, for the progress display and the time estimate."""
EFFORT = BenchEffort()
Attempt = Callable[[str, str, float, Callable[[OnProgress], object]], bool]
"""Does one step: name, format, cost, work. Says whether it succeeded; a failure is reported there."""

_WATCH_S = 1.0
_BRIEF_S, _LONG_S = 1.0, 60.0


# -- what is there ----------------------------------------------------------------------------------------------------


def labels_with_file(lab: Lab) -> tuple[str, ...]:
    """Formats that can be timed: their file is there."""
    return tuple(label for label in lab.labels if fresh_file(lab, label) is not None)


def bench_key(lab: Lab, labels: tuple[str, ...]) -> str:
    """Digest for the speed of a set of formats: they are timed against each other, so one more means timing all."""
    n_prompt, n_gen = lab.reach.bench
    return key_of(
        "bench", lab, files={label: need_file(lab, label).sha256 for label in labels}, machine=lab.machine.machine_id,
        n_threads=lab.n_threads, n_prompt=n_prompt, n_gen=n_gen, effort=dataclasses.asdict(EFFORT), **limits(lab),
    )  # fmt: skip


def limits(lab: Lab) -> dict[str, float]:
    """What of a container's limits a speed depends on; nothing where there is none."""
    return {"core_limit": lab.machine.core_limit} if lab.machine.core_limit else {}


def load_conditions(lab: Lab) -> BenchConditions | None:
    """What the speeds were measured under, if they are fresh."""
    labels = labels_with_file(lab)
    record = read_record(lab.folder.record_path("conditions"), BenchConditions)
    return record if record is not None and labels and record.key == bench_key(lab, labels) else None


def load_speed(lab: Lab) -> dict[str, SpeedRun]:
    """All fresh speed records, with the visits of whole rounds only: ratios compare one moment."""
    labels = labels_with_file(lab)
    state = load_conditions(lab)
    if state is None:
        return {}
    found = {}
    for label in labels:
        run = stored(lab, "bench", label, SpeedRun, state.key)
        visits = tuple(visit for visit in run.visits if visit.round < state.n_rounds) if run else ()
        if run is not None and visits:
            found[label] = dataclasses.replace(run, visits=visits)
    return found


def complete(lab: Lab) -> bool:
    """Whether no further round is due, by the settings of now."""
    state = load_conditions(lab)
    return state is not None and bool(_ending(lab, lab.labels, load_speed(lab), state.spent_s))


def _ending(lab: Lab, labels: tuple[str, ...], speed: dict[str, SpeedRun], spent_s: float) -> str:
    from labctl.steps.speed.ratios import ending

    config = lab.config
    return ending(
        speed, labels, spent_s=spent_s, min_rounds=config.bench_rounds, max_rounds=config.bench_max_rounds,
        budget_s=config.bench_seconds(lab.is_demo),
    )  # fmt: skip


def warnings(lab: Lab, speed: dict[str, SpeedRun], state: BenchConditions | None) -> tuple[str, ...]:
    """What a reader must know about the speed figures."""
    if state is None or not speed:
        return ()
    from labctl.steps.speed.ratios import speed_warnings

    known = speed_warnings(speed, lab.model.baseline, lab.config.bench_rounds)
    lengths = (lab.reach.bench_notice,) if lab.reach.bench_notice else ()
    return (*lengths, *state.notices, *_cut_notice(speed, state.before), *known)


def _cut_notice(speed: dict[str, SpeedRun], before: Conditions) -> tuple[str, ...]:
    """Visits that the time allowed did not suffice for."""
    visits = [visit for run in speed.values() for visit in run.visits]
    n_cut = sum(visit.cut for visit in visits)
    if not n_cut:
        return ()
    text = (
        f"The time allowed was over before the speed tests were full: {n_cut} of {len(visits)} visits were cut off,"
        " with fewer repetitions or tokens. Allow more with --bench-time."
    )
    if (before.busiest_share or 0) > BUSY_CORE:
        text += " Another program held a core: these speeds are not those of this machine alone."
    return (text,)


def total_cost(lab: Lab) -> float:
    """Cost of the whole bench, for the progress display."""
    return VISIT_COST * lab.config.bench_rounds * len(lab.labels)


def estimate_s(lab: Lab, tokens_per_s: float) -> float:
    """Seconds that the whole bench spends on one format, roughly, at a prompt speed of so many tokens a second."""
    config = lab.config
    visit_s = 0.5 + VISIT_COST / tokens_per_s + config.cooldown_s
    budget_s = config.bench_seconds(lab.is_demo) / len(lab.labels)
    return max(visit_s, min(budget_s, config.bench_rounds * visit_s))


# -- doing it ---------------------------------------------------------------------------------------------------------


def run_rounds(lab: Lab, display: Listener, attempt: Attempt, *, force: bool) -> None:
    """Time all formats in rounds until the ratios to the baseline are known well enough, or the time is over.

    Every other round runs in reverse order, so that heat and drift hit all formats alike. A round that was interrupted
    is done again as a whole. A format that fails is left out of the rest of this run.
    """
    labels = labels_with_file(lab)
    if not labels:
        return
    state, speed = (None, {}) if force else (load_conditions(lab), load_speed(lab))
    display.stage("bench")
    now = conditions(watch_s=_WATCH_S)
    notices = (*condition_notices(now, lab.machine.n_cores_logical), *_thread_notice(lab))
    for notice in notices:
        display.warn(notice)
    if state is None:
        work = {label: _work(lab, label) for label in labels}
        state = BenchConditions(
            key=bench_key(lab, labels), n_rounds=0, spent_s=0.0, ended="", settings={}, before=now, after=now,
            work=work,
        )  # fmt: skip
    state = dataclasses.replace(
        state, settings=_settings(lab), notices=tuple(dict.fromkeys((*state.notices, *notices)))
    )  # fmt: skip
    _keep(lab, state)
    while labels and not (ended := _ending(lab, labels, speed, state.spent_s)):
        labels, spent_s = _round(lab, attempt, labels, speed, state)
        # The load would be labctl's own by now; clock, heat and power are the machine's.
        after = conditions(watch_s=0)
        state = dataclasses.replace(state, n_rounds=state.n_rounds + 1, spent_s=state.spent_s + spent_s, after=after)
        _keep(lab, state)
    if labels:
        _keep(lab, dataclasses.replace(state, ended=ended))
    for text in warnings(lab, load_speed(lab), dataclasses.replace(state, notices=())):
        display.warn(text)


def _round(
    lab: Lab, attempt: Attempt, labels: tuple[str, ...], speed: dict[str, SpeedRun], state: BenchConditions
) -> tuple[tuple[str, ...], float]:
    """One visit to each format; adds to `speed`.

    Returns: the formats that did not fail, and the seconds it took.
    """
    number = state.n_rounds
    budget_s = lab.config.bench_seconds(lab.is_demo) - state.spent_s
    failed = set()
    begun = time.monotonic()
    for place, label in enumerate(labels if number % 2 == 0 else labels[::-1]):
        if place:
            time.sleep(lab.config.cooldown_s)

        def visit(on_progress: OnProgress, label: str = label, place: int = place) -> None:
            left_s = (budget_s - (time.monotonic() - begun)) / (len(labels) - place)
            new = _visit(lab, label, number, number * len(labels) + place, max(left_s, least_visit_s(lab)))
            before = speed[label].visits if label in speed else ()
            speed[label] = _store(lab, label, state.key, (*before, new))
            on_progress(Progress(done=number + 1, total=max(number + 1, lab.config.bench_rounds)))

        if not attempt("bench", label, VISIT_COST if number < lab.config.bench_rounds else 0, visit):
            failed.add(label)
    time.sleep(lab.config.cooldown_s)
    return tuple(label for label in labels if label not in failed), time.monotonic() - begun


def least_visit_s(lab: Lab) -> float:
    """Seconds that a visit may take whatever is left: a large model's tests are long, if nobody asked for less."""
    return _BRIEF_S if lab.is_demo or lab.config.bench_budget_s is not None else _LONG_S


def _visit(lab: Lab, label: str, round_number: int, order: int, deadline_s: float) -> SpeedVisit:
    """One fresh process that times one format.

    Args:
        deadline_s: after so many seconds it is cut off.
    """
    n_prompt, n_gen = lab.reach.bench
    task = BenchTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        n_prompt=n_prompt,
        n_gen=n_gen,
        effort=EFFORT,
        round=round_number,
        order=order,
        deadline_s=deadline_s,
    )
    return lab.run(task, SpeedVisit, "bench", label, None)


def _store(lab: Lab, label: str, key: str, visits: tuple[SpeedVisit, ...]) -> SpeedRun:
    """Keep a format's visits so far."""
    n_prompt, n_gen = lab.reach.bench
    settings = {"n_threads": lab.n_threads, "n_prompt": n_prompt, "n_gen": n_gen, **dataclasses.asdict(EFFORT)}
    record = SpeedRun(
        format=label,
        n_threads=lab.n_threads,
        n_prompt=n_prompt,
        n_gen=n_gen,
        visits=visits,
        provenance=lab.provenance("bench", key, {"model": need_file(lab, label).sha256}, settings),
    )
    write_record(lab.folder.record_path("bench", label), record)
    return record


def _keep(lab: Lab, state: BenchConditions) -> None:
    write_record(lab.folder.record_path("conditions"), state)


def _settings(lab: Lab) -> dict[str, Any]:
    config = lab.config
    return {
        "bench_rounds": config.bench_rounds,
        "bench_max_rounds": config.bench_max_rounds,
        "bench_budget_s": config.bench_seconds(lab.is_demo),
        "cooldown_s": config.cooldown_s,
        "n_threads": lab.n_threads,
    }


# -- the machine ------------------------------------------------------------------------------------------------------


def condition_notices(now: Conditions, n_logical: int) -> tuple[str, ...]:
    """What about the machine's state a reader of the speeds must know."""
    return tuple(
        f"When the speed measurement began: {check.name.lower()}: {check.detail}. {check.hint}"
        for check in conditions_checks(now, n_logical)
        if check.status != "ok"
    )


def _thread_notice(lab: Lab) -> tuple[str, ...]:
    """More threads than this process may use cores wait for each other."""
    limit = lab.machine.core_limit
    if not limit or lab.n_threads <= max(1, limit):
        return ()
    return (
        f"{lab.n_threads} threads computed where this process may use {limit:g} of {lab.machine.n_cores_logical} cores"
        " (a container's limit, or a mask): they wait for each other. Leave --threads out for as many as suit.",
    )


def _work(lab: Lab, label: str) -> Work:
    from labctl.engines.llama_cpp.gguf.header import model_shape, read_model
    from labctl.steps.speed.arithmetic import experts, work_of

    header, _ = read_model(Path(lab.gguf_path(label)))
    shape = model_shape(header)
    n_expert, n_expert_used = experts(header.metadata, shape.architecture)
    n_prompt, n_gen = lab.reach.bench
    return work_of(
        header.tensors, shape, n_prompt=n_prompt, n_gen=n_gen, n_expert=n_expert, n_expert_used=n_expert_used
    )
