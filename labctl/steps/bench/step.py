"""Speed, in rounds over all formats: a fresh process a visit, the baseline in every round as the anchor."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from labctl.executors.base import OnProgress, Progress
from labctl.lab.lab import Lab, key_of
from labctl.machine.checks import BUSY_CORE, conditions_checks
from labctl.machine.fingerprint import conditions
from labctl.records.base import Setting
from labctl.records.hardware import Conditions, Work
from labctl.records.store import read_record, write_record
from labctl.records.units import rate
from labctl.steps.base import AnyStep, Case, Running, Step, stored
from labctl.steps.bench.record import (
    DISTURBED,
    LONG_PROMPT_S,
    WARM_S,
    BenchConditions,
    BenchEffort,
    BenchTask,
    SpeedRun,
    SpeedVisit,
)
from labctl.steps.files import fresh_file, need_file
from labctl.steps.rates import Rates

if TYPE_CHECKING:
    from labctl.steps.measured import Measured

EFFORT = BenchEffort()
_WATCH_S = 1.0
_BRIEF_S, _LONG_S = 1.0, 60.0
_MOST_S = 900.0  # for the fewest rounds of a large model, if nobody set a time


# -- what is there ----------------------------------------------------------------------------------------------------


def labels_with_file(lab: Lab) -> tuple[str, ...]:
    """Formats that can be timed: their file is there."""
    return tuple(label for label in lab.formats if fresh_file(lab, label) is not None)


def bench_key(lab: Lab, labels: tuple[str, ...]) -> str:
    """Digest for the speed of a set of formats: they are timed against each other, so one more means timing all."""
    n_prompt, n_gen = lab.reach.bench
    return key_of(
        "bench",
        lab,
        files={label: need_file(lab, label).sha256 for label in labels},
        machine=lab.machine.machine_id,
        n_threads=lab.n_threads,
        n_prompt=n_prompt,
        n_gen=n_gen,
        effort=dataclasses.asdict(EFFORT),
        disturbed=DISTURBED,
        **limits(lab),
    )


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
    return state is not None and bool(_ending(lab, lab.formats, load_speed(lab), state))


def _ending(lab: Lab, labels: tuple[str, ...], speed: dict[str, SpeedRun], state: BenchConditions) -> str:
    from labctl.steps.bench.ratios import ending

    config = lab.config
    return ending(
        speed,
        labels,
        n_rounds=state.n_rounds,
        spent_s=state.spent_s,
        min_rounds=config.bench_rounds,
        max_rounds=config.bench_max_rounds,
        budget_s=_budget_s(lab, state),
    )


def _budget_s(lab: Lab, state: BenchConditions) -> float:
    """Most seconds for all rounds: what was asked for, or else enough for the fewest rounds of a large model, too."""
    config = lab.config
    budget_s = config.bench_seconds(lab.is_demo)
    if config.bench_budget_s is not None or state.n_rounds == 0:
        return budget_s
    return max(budget_s, min(_MOST_S, (config.bench_rounds + 0.5) * state.spent_s / state.n_rounds))


def warnings(lab: Lab, speed: Mapping[str, SpeedRun], state: BenchConditions | None) -> tuple[str, ...]:
    """What a reader must know about the speed figures."""
    if state is None or not speed:
        return ()
    from labctl.steps.bench.ratios import speed_warnings

    round_s = state.spent_s / state.n_rounds if state.n_rounds else 0.0
    known = speed_warnings(speed, lab.model.baseline, lab.config.bench_rounds, round_s)
    lengths = (lab.reach.bench_notice,) if lab.reach.bench_notice else ()
    return (*lengths, *state.notices, *_cut_notice(speed, state.before), *known)


def _cut_notice(speed: Mapping[str, SpeedRun], before: Conditions) -> tuple[str, ...]:
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


# -- doing it ---------------------------------------------------------------------------------------------------------


def _run_rounds(running: Running) -> None:
    """Time all formats in rounds until the ratios to the baseline are known well enough, or the time is over.

    After the fewest rounds, only formats whose ratios are not known well are timed again, beside the baseline. Every
    other round runs in reverse order, so that heat and drift hit all formats alike. A round that was interrupted
    is done again as a whole. A format that fails is left out of the rest of this run.
    """
    from labctl.steps.bench.ratios import due

    lab, display = running.lab, running.display
    labels = labels_with_file(lab)
    if not labels:
        return
    state, speed = load_conditions(lab), load_speed(lab)
    display.stage(BENCH.name)
    now = conditions(watch_s=_WATCH_S)
    notices = (*condition_notices(now, lab.machine.n_cores_logical), *_thread_notice(lab))
    for notice in notices:
        display.warn(notice)
    if state is None:
        work = {label: _work(lab, label) for label in labels}
        state = BenchConditions(
            key=bench_key(lab, labels), n_rounds=0, spent_s=0.0, ended="", settings={}, before=now, after=now, work=work
        )
    state = dataclasses.replace(
        state, settings=_settings(lab), notices=tuple(dict.fromkeys((*state.notices, *notices)))
    )
    _keep(lab, state)
    while labels and not (ended := _ending(lab, labels, speed, state)):
        failed, spent_s = _round(running, due(speed, labels, lab.config.bench_rounds), speed, state)
        labels = tuple(label for label in labels if label not in failed)
        # The load would be labctl's own by now; clock, heat and power are the machine's.
        after = conditions(watch_s=0)
        state = dataclasses.replace(state, n_rounds=state.n_rounds + 1, spent_s=state.spent_s + spent_s, after=after)
        _keep(lab, state)
    if labels:
        _keep(lab, dataclasses.replace(state, ended=ended))
    for text in warnings(lab, load_speed(lab), dataclasses.replace(state, notices=())):
        display.warn(text)


def _round(
    running: Running, labels: tuple[str, ...], speed: dict[str, SpeedRun], state: BenchConditions
) -> tuple[set[str], float]:
    """One visit to each format; adds to `speed`.

    Returns: the formats that failed, and the seconds it took.
    """
    lab, number = running.lab, state.n_rounds
    budget_s = _budget_s(lab, state) - state.spent_s
    failed: set[str] = set()
    begun = time.monotonic()
    for place, label in enumerate(labels if number % 2 == 0 else labels[::-1]):
        if place:
            time.sleep(lab.config.cooldown_s)

        def visit(on_progress: OnProgress, label: str = label, place: int = place) -> None:
            left_s = (budget_s - (time.monotonic() - begun)) / (len(labels) - place)
            new = _visit(lab, label, number, number * len(lab.formats) + place, max(left_s, least_visit_s(lab)))
            before = speed[label].visits if label in speed else ()
            speed[label] = _store(lab, label, state.key, (*before, new))
            on_progress(Progress(done=number + 1, total=max(number + 1, lab.config.bench_rounds)))

        expected_s = BENCH.expected_s(lab, Case(label), running.rates) / lab.config.bench_rounds
        if not running.attempt(BENCH.name, Case(label), expected_s, visit):
            failed.add(label)
    time.sleep(lab.config.cooldown_s)
    return failed, time.monotonic() - begun


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


def _settings(lab: Lab) -> dict[str, Setting]:
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
    from labctl.steps.bench.arithmetic import work_of

    n_prompt, n_gen = lab.reach.bench
    file = lab.engine.inspect(lab.gguf_path(label))
    return work_of(
        file.tensors,
        file.shape,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_expert=file.n_expert,
        n_expert_used=file.n_expert_used,
    )


def _visit_s(lab: Lab, rates: Rates) -> float:
    """About how long a visit takes: each test with its warm-up, and the pause after it."""
    n_prompt, n_gen = lab.reach.bench
    pp_s, tg_s = n_prompt * rates.prompt_s, n_gen * rates.token_s
    if tg_s > EFFORT.max_s:
        tg_s = min(tg_s, max(EFFORT.max_s, EFFORT.min_tokens * rates.token_s))
    warm_s = pp_s if pp_s < LONG_PROMPT_S else 0.0
    prompts_s = warm_s + (max(EFFORT.min_s, EFFORT.min_reps * pp_s) if pp_s < EFFORT.max_s else pp_s)
    tokens_s = max(EFFORT.min_s, EFFORT.min_reps * tg_s) if tg_s < EFFORT.max_s else tg_s
    return rates.process_s() + prompts_s + tokens_s + WARM_S + lab.config.cooldown_s


class Bench(Step[SpeedRun]):
    """Reading a prompt and generating text, timed in rounds over all formats."""

    name = "bench"
    words = "speed"
    record = SpeedRun
    asks = "time"
    settings = ("formats", "threads", "bench_rounds", "bench_max_rounds", "bench_budget_s", "cooldown_s")
    unit = "visit"
    figure = "generated tokens/second"
    beside: ClassVar[Mapping[str, type[object]]] = {"conditions": BenchConditions}

    def key(self, lab: Lab, case: Case) -> str:
        return bench_key(lab, labels_with_file(lab))

    def fresh(self, lab: Lab, case: Case) -> SpeedRun | None:
        return self.load(lab).get(case)

    def load(self, lab: Lab) -> dict[Case, SpeedRun]:
        return {Case(label): run for label, run in load_speed(lab).items()}

    def stale(self, lab: Lab, *, force: bool = False) -> tuple[Case, ...]:
        """All formats while a further round is due, since they are timed against each other."""
        return self.cases(lab) if force or not complete(lab) else ()

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        """As often as there is time for, and at least the fewest rounds."""
        budget_s = lab.config.bench_seconds(lab.is_demo) / len(lab.formats)
        least_s = lab.config.bench_rounds * _visit_s(lab, rates)
        return budget_s if lab.config.bench_budget_s is not None else max(budget_s, least_s)

    def run(self, running: Running, stale: Sequence[Case], riders: Sequence[AnyStep] = ()) -> None:
        _run_rounds(running)

    def load_beside(self, lab: Lab) -> dict[str, object]:
        return {"conditions": load_conditions(lab)}

    def warnings(self, lab: Lab, records: Mapping[str, SpeedRun]) -> tuple[str, ...]:
        return warnings(lab, records, load_conditions(lab))

    def outcome(self, record: SpeedRun) -> str:
        from labctl.steps.bench.ratios import visits_speed

        speed = visits_speed(record.visits, "tg", record.n_prompt)
        return rate(speed.tps) if speed is not None else ""

    def outcomes(self, records: Measured, limit: float) -> str:
        listed = super().outcomes(records, limit)
        n_rounds = max((len({visit.round for visit in run.visits}) for run in records.of(self).values()), default=0)
        return f"{n_rounds} round{'s' if n_rounds != 1 else ''}, {listed}" if listed else ""

    def forget(self, lab: Lab, case: Case) -> None:
        """Without what a bench was measured under, no round of it counts."""
        lab.folder.record_path("conditions").unlink(missing_ok=True)


BENCH = Bench()
