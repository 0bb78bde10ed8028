"""The order of visits, what a killed bench keeps, when it ends; the visits themselves are invented here."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.lab_factory import provenance

from labctl.cli.output import Display
from labctl.errors import LabError
from labctl.lab.lab import Lab
from labctl.pipeline import preflight
from labctl.pipeline import reporting as results
from labctl.pipeline import run as pipeline
from labctl.records.hardware import Conditions
from labctl.report.sweep_tables import advice, sweep_rows
from labctl.steps.base import Case, Step
from labctl.steps.batch.record import BatchPoint, Timed
from labctl.steps.batch.step import BATCH, Batch
from labctl.steps.bench import step as rounds
from labctl.steps.bench.record import SpeedVisit
from labctl.steps.bench.step import BENCH
from labctl.steps.threads.record import ThreadSweep
from labctl.steps.threads.step import THREADS, thread_counts

QUIET = Conditions(taken_at="2025-03-01T10:00:00+00:00", busy_cores=0.1, busiest_share=0.1)
SPEEDS = {"F16": 1.0, "Q8_0": 0.5, "Q4_K_M": 0.25}


class Machine:
    """Plays the timed processes: notes every visit, and does what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.visits: list[tuple[int, str]] = []
        self.slept: list[float] = []
        self.deadlines: list[float] = []
        self.clock = 0.0
        self.before_visit: Callable[[int, str], None] = lambda number, label: None
        self.noise = itertools.cycle([1.0])
        self.state = QUIET
        monkeypatch.setattr(rounds, "_visit", self.visit)
        monkeypatch.setattr(rounds, "conditions", lambda **_: self.state)
        monkeypatch.setattr(time, "sleep", self.slept.append)
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)

    def visit(self, lab: Lab, label: str, round_number: int, order: int, deadline_s: float) -> SpeedVisit:
        self.deadlines.append(deadline_s)
        self.before_visit(round_number, label)
        self.visits.append((round_number, label))
        self.clock += 1.0
        seconds = SPEEDS[label] * next(self.noise)
        return SpeedVisit(
            round=round_number, order=order, load_s=0.1, pp_s=(seconds,), tg_s=(seconds,), token_s=((seconds,),)
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rounds")


@pytest.fixture
def lab(files: Path, open_lab: Callable[..., Lab]) -> Lab:
    """A lab of three formats whose files are there and whose speed is not measured."""
    made = open_lab(files, formats=("Q8_0", "Q4_K_M"), text="demo", threads=1)
    pipeline.run(made, Display(quiet=True), names=("quantize",), report=False)
    for path in made.folder.records.glob("*.json"):
        if path.stem.startswith(("bench-", "conditions", "threads-", "failures")):
            path.unlink()
    return made


class Warnings(Display):
    """Keeps what it is to warn of."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Run:
    """A run of this step alone."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.display = Warnings(quiet=True)
        self.rates = preflight.rates(lab)

    def cases(self, step: Step[Any]) -> tuple[Case, ...]:
        return step.cases(self.lab)

    def attempt(self, step: str, case: Case, expected_s: float, work: Callable[[Any], object]) -> bool:
        try:
            work(lambda event: None)
        except LabError:
            return False
        return True


def bench(lab: Lab, force: bool = False) -> list[str]:
    """Run the rounds; returns what was shown as a warning."""
    running = Run(lab)
    if force:
        BENCH.forget(lab, Case("F16"))
    BENCH.run(running, BENCH.cases(lab))
    return running.display.warnings


def with_config(lab: Lab, **changes: Any) -> Lab:
    return dataclasses.replace(lab, config=dataclasses.replace(lab.config, **changes))


def test_order_turns_every_round_and_the_baseline_is_in_each(lab: Lab, machine: Machine) -> None:
    assert bench(lab) == []
    there = ["F16", "Q8_0", "Q4_K_M"]
    wanted = [(number, label) for number in range(4) for label in (there if number % 2 == 0 else there[::-1])]
    assert machine.visits == wanted  # four rounds at least, and these are perfectly steady
    assert rounds.complete(lab)
    state = rounds.load_conditions(lab)
    assert state is not None
    assert (state.n_rounds, state.ended, state.spent_s) == (4, "precise", 12.0)
    orders = sorted(visit.order for run in rounds.load_speed(lab).values() for visit in run.visits)
    assert orders == list(range(12))


def test_the_time_before_the_first_visit_counts_as_the_speed_steps(
    lab: Lab, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(Display, "stage", lambda _display, name: order.append(name))

    def watched(**_: object) -> Conditions:
        order.append("watched")
        return QUIET

    monkeypatch.setattr(rounds, "conditions", watched)
    bench(lab)
    assert order[:2] == ["bench", "watched"]


def test_a_visit_gets_its_share_of_the_time_that_is_left(lab: Lab, machine: Machine) -> None:
    bench(with_config(lab, bench_budget_s=9.0, bench_max_rounds=4))
    # Nine seconds for three visits of one second each, then what is left of them; never less than the grace.
    assert machine.deadlines[:3] == [3.0, 4.0, 7.0]
    assert machine.deadlines[3:6] == [2.0, 2.5, 4.0]
    assert min(machine.deadlines) >= 1.0


def test_visits_that_were_cut_off_are_said(lab: Lab, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    played = machine.visit
    monkeypatch.setattr(rounds, "_visit", lambda *given: dataclasses.replace(played(*given), cut=True))
    machine.state = dataclasses.replace(QUIET, busy_cores=1.0, busiest_share=0.9)
    said = " ".join(bench(with_config(lab, bench_rounds=1, bench_max_rounds=1)))
    assert "3 of 3 visits were cut off" in said and "--bench-time" in said
    assert "Another program held a core" in said


def test_a_second_bench_measures_nothing(lab: Lab, machine: Machine) -> None:
    bench(lab)
    machine.visits.clear()
    bench(lab)
    assert machine.visits == []
    bench(lab, force=True)
    assert len(machine.visits) == 12


def test_noise_goes_on_until_the_most_rounds_or_the_time(lab: Lab, machine: Machine) -> None:
    machine.noise = itertools.cycle([1.0, 1.3, 1.0, 1.0, 1.1, 1.2, 1.05])
    drifted, wide = bench(with_config(lab, bench_max_rounds=6))
    assert len(machine.visits) == 18 and "Q8_0 took 1.3 times as long" in drifted and "± 2 %" in wide
    state = rounds.load_conditions(lab)
    assert state is not None and state.ended == "rounds"
    longer = with_config(lab, bench_max_rounds=8, bench_budget_s=22.0)
    assert not rounds.complete(longer)  # more rounds are allowed now
    bench(longer)
    state = rounds.load_conditions(lab)
    assert state is not None and (state.n_rounds, state.ended) == (7, "budget")


def test_a_killed_bench_repeats_one_round_at_most(lab: Lab, machine: Machine) -> None:
    def kill(number: int, label: str) -> None:
        if (number, label) == (2, "Q4_K_M"):
            raise KeyboardInterrupt

    machine.before_visit = kill
    with pytest.raises(KeyboardInterrupt):
        bench(lab)
    assert machine.visits[-1] == (2, "Q8_0")
    assert {label: len(run.visits) for label, run in rounds.load_speed(lab).items()} == dict.fromkeys(SPEEDS, 2)
    assert not rounds.complete(lab)
    machine.before_visit = lambda number, label: None
    machine.visits.clear()
    bench(lab)
    assert [number for number, _ in machine.visits] == [2, 2, 2, 3, 3, 3]
    for run in rounds.load_speed(lab).values():
        assert [visit.round for visit in run.visits] == [0, 1, 2, 3]


def test_a_failing_format_does_not_hold_the_others_up(lab: Lab, machine: Machine) -> None:
    def fail(number: int, label: str) -> None:
        if label == "Q8_0":
            raise LabError("no", "")

    machine.before_visit = fail
    bench(lab)
    assert set(rounds.load_speed(lab)) == {"F16", "Q4_K_M"}
    assert not rounds.complete(lab)
    machine.before_visit = lambda number, label: None
    machine.visits.clear()
    bench(lab)  # Q8_0 needs four rounds of its own, with the baseline in each
    assert [label for number, label in machine.visits].count("Q8_0") == 4
    assert rounds.complete(lab)
    assert len(rounds.load_speed(lab)["Q8_0"].visits) == 4


def test_cooldown_is_slept_between_visits(lab: Lab, machine: Machine) -> None:
    bench(with_config(lab, cooldown_s=7.0))
    assert machine.slept == [7.0] * 12


def test_a_busy_machine_on_battery_is_warned_of_on_screen_and_in_the_record(lab: Lab, machine: Machine) -> None:
    machine.state = Conditions(
        taken_at="", power="battery", governor="powersave (acpi-cpufreq)", busy_cores=0.9, busiest_share=0.9
    )
    shown = bench(lab)
    assert ["on battery" in shown[0], "powersave" in shown[1], "busiest one to 90 %" in shown[2]] == [True] * 3
    records = results.load_records(lab)
    assert records.conditions is not None
    assert records.warnings == records.conditions.notices == tuple(shown)


def test_another_file_makes_the_speeds_stale(lab: Lab, machine: Machine) -> None:
    bench(lab)
    more = with_config(lab, formats=("Q8_0",))
    assert rounds.load_speed(more) == {} and not rounds.complete(more)


# -- threads ----------------------------------------------------------------------------------------------------------


def test_numbers_of_threads_to_try() -> None:
    assert thread_counts(2, 2, 2) == (1, 2)
    assert thread_counts(4, 4, 8) == (1, 2, 3, 4, 5, 6, 7, 8)
    assert thread_counts(14, 14, 20) == (1, 2, 3, 4, 5, 6, 7, 8, 14, 16, 20)


def test_advice_names_the_fastest_and_those_that_are_not_told_apart() -> None:
    def visits(tg: tuple[float, ...], pp: tuple[float, ...]) -> tuple[SpeedVisit, ...]:
        return tuple(
            SpeedVisit(round=place, order=place, load_s=0, pp_s=(one,), tg_s=(other,), token_s=((other / 128,),))
            for place, (one, other) in enumerate(zip(pp, tg, strict=True))
        )

    sweep = ThreadSweep(
        format="Q4_K_M",
        n_prompt=512,
        n_gen=128,
        provenance=provenance("threads"),
        visits={
            1: visits((2.0, 2.1, 2.0, 4.0), (4.0, 4.0, 4.1, 8.0)),
            2: visits((1.0, 1.1, 1.0, 2.0), (2.0, 2.0, 2.1, 4.0)),
            4: visits((1.05, 1.0, 0.9, 2.0), (1.0, 1.0, 1.0, 2.0)),  # the last round was slow for all alike
        },
    )
    assert advice(sweep, 2) == (
        "Fastest number of threads for generating text (tg): 4 or 2 (not told apart); for reading "
        "prompts (pp): 4. labctl uses 2 unless told otherwise by --threads."
    )


def test_a_sweep_goes_up_and_down(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def play(self: Lab, task: Any, *_: object) -> SpeedVisit:
        tried.append(task.n_threads)
        seconds = 1.0 / task.n_threads
        return SpeedVisit(
            round=task.round,
            order=task.order,
            load_s=0.1,
            pp_s=(seconds,),
            tg_s=(seconds,),
            token_s=((seconds / 128,),),
        )

    monkeypatch.setattr(Lab, "run", play)
    two = dataclasses.replace(lab.machine, n_cores_physical=2, n_cores_logical=3)
    lab = dataclasses.replace(lab, machine=two)
    done = pipeline.run(lab, Display(quiet=True), names=("threads",), force=("threads",), report=False)
    sweep = done.records.of(THREADS)["Q4_K_M"]
    assert sweep.format == "Q4_K_M"
    assert tried == [1, 2, 3, 3, 2, 1, 1, 2, 3, 3, 2, 1]
    rows = sweep_rows(sweep)
    assert [one.n_threads for one in rows] == [1, 2, 3]
    assert [one.tg.tps for one in rows] == pytest.approx([128, 256, 384])
    assert [one.pp.tps for one in rows] == pytest.approx([512, 1024, 1536])
    # Whichever number of threads the lab uses, the sweep holds; on another machine it does not.
    assert THREADS.load(dataclasses.replace(lab, n_threads=3)) == {Case("Q4_K_M"): sweep}
    other = dataclasses.replace(two, machine_id="another")
    assert THREADS.load(dataclasses.replace(lab, machine=other)) == {}


def test_several_sequences_are_kept_and_a_format_that_fails_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(self: Lab, task: Any, *_: object) -> Timed:
        if task.format == "F16":
            raise LabError("no", "")
        points = tuple(BatchPoint(n_seq=n, pp_s=(1.0,), tg_s=(2.0, 1.0, 3.0)) for n in task.n_seqs)
        return Timed(points=points, cut=False)

    monkeypatch.setattr(Lab, "run", play)
    done = pipeline.run(lab, Display(quiet=True), names=(Batch((1, 4)),), force=("batch",), report=False)
    found = done.records.of(BATCH)
    assert sorted(found) == ["Q4_K_M", "Q8_0"]
    assert [(failure.step, failure.format) for failure in done.failures] == [("batch", "F16")]
    assert found["Q8_0"].tg_tps(found["Q8_0"].points[1]) == 4 * 128 / 2
    assert BATCH.load(dataclasses.replace(lab, n_threads=lab.n_threads + 1)) == {}
