"""Speed tests do the work they name, as often as they should, and keep every sample."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from labctl.machine.disturbance import Meter
from labctl.records.hardware import Disturbance
from labctl.steps.batch.record import BatchTask, Timed
from labctl.steps.bench.record import BenchEffort, BenchTask, SpeedVisit
from labctl.steps.bench.work import _generate, _repeat, _Repetition


@pytest.fixture(scope="module")
def visit(child: Callable[..., Any], quantized: Any) -> SpeedVisit:
    found: SpeedVisit = child(
        BenchTask(
            model_path=str(quantized.paths["Q8_0"]),
            format="Q8_0",
            n_threads=1,
            n_prompt=512,
            n_gen=16,
            effort=BenchEffort(min_reps=2, max_reps=3, min_s=0.0),
            round=3,
            order=7,
        ),
        SpeedVisit,
    )
    return found


def test_a_visit_keeps_every_repetition_and_every_token(visit: SpeedVisit) -> None:
    assert (visit.round, visit.order) == (3, 7)
    # The third only if one was disturbed.
    assert 2 <= len(visit.pp_s) <= 3 and 2 <= len(visit.tg_s) == len(visit.token_s) <= 3
    assert all(len(one) == 16 for one in visit.token_s)
    assert [sum(one) for one in visit.token_s] == pytest.approx(visit.tg_s)
    assert visit.load_s > 0
    assert len(visit.pp_disturbance) == len(visit.pp_s)
    assert len(visit.tg_disturbance) == len(visit.held_up) == len(visit.tg_s)
    assert all(seen.lost_s >= 0 for seen in (*visit.pp_disturbance, *visit.tg_disturbance))


def test_times_are_of_real_work(visit: SpeedVisit) -> None:
    # 15.2 million weights, two operations each: even one token takes more than a tenth of a millisecond, and 512 of
    # them in one go take longer than one by itself.
    assert all(seconds > 1e-4 for one in visit.token_s for seconds in one)
    assert min(visit.pp_s) > min(seconds for one in visit.token_s for seconds in one)


class Clock:
    """A test that takes as long as it is told; every so-manieth time it is held up."""

    def __init__(self, seconds: float, held_up: int = 0) -> None:
        self.seconds, self.held_up = seconds, held_up
        self.calls = 0

    def __call__(self) -> _Repetition:
        self.calls += 1
        lost_s = self.seconds if self.held_up and self.calls % self.held_up == 0 else 0.0
        seen = Disturbance(lost_s=lost_s, waited_s=lost_s)
        return _Repetition(parts=(self.seconds / 2,) * 2, seen=seen, held_up=(0, 1) if lost_s else ())


@pytest.mark.parametrize(
    ("seconds", "effort", "n_samples"),
    [
        (1.0, BenchEffort(min_reps=3, max_reps=20, min_s=0.4, max_s=20), 3),
        (0.1, BenchEffort(min_reps=3, max_reps=20, min_s=0.75, max_s=20), 8),
        (0.001, BenchEffort(min_reps=3, max_reps=20, min_s=0.4, max_s=20), 20),
        (15.0, BenchEffort(min_reps=3, max_reps=20, min_s=0.4, max_s=20), 2),
        (60.0, BenchEffort(min_reps=3, max_reps=20, min_s=0.4, max_s=20), 1),
    ],
)
def test_repetitions_by_effort(seconds: float, effort: BenchEffort, n_samples: int) -> None:
    clock = Clock(seconds)
    assert len(_repeat(clock, effort, math.inf)[0]) == n_samples
    assert clock.calls == n_samples


def test_a_disturbed_repetition_is_made_again_while_there_is_time() -> None:
    effort = BenchEffort(min_reps=3, max_reps=20, min_s=0.1, max_s=20)
    made, cut = _repeat(Clock(0.1, held_up=2), effort, math.inf)
    assert [one.undisturbed for one in made] == [True, False, True, False, True] and not cut
    made, _ = _repeat(Clock(0.1, held_up=1), effort, math.inf)
    assert len(made) == 20 and not any(one.undisturbed for one in made)
    assert len(_repeat(Clock(0.1, held_up=1), replace(effort, max_s=0.45), math.inf)[0]) == 5


def test_a_slow_models_generation_ends_with_enough_tokens() -> None:
    def tokens(seconds: float) -> Callable[[], Iterator[float]]:
        def generate() -> Iterator[float]:
            for _ in range(128):
                time.sleep(seconds)
                yield seconds

        return generate

    meter = Meter(1)
    effort = BenchEffort(max_s=0.05, min_tokens=8)
    slow = _generate(tokens(0.02), meter, effort, math.inf)
    assert 8 <= len(slow.parts) < 128 and not slow.cut
    assert len(_generate(tokens(0.0), meter, effort, math.inf).parts) == 128
    assert _generate(tokens(0.02), meter, effort, time.perf_counter() + 0.03).cut


def bench_task(path: Any, deadline_s: float | None, **options: Any) -> BenchTask:
    return BenchTask(
        model_path=str(path),
        format="F16",
        n_threads=1,
        n_prompt=512,
        n_gen=128,
        effort=BenchEffort(),
        round=0,
        order=0,
        deadline_s=deadline_s,
        **options,
    )


def test_a_visit_without_time_keeps_one_short_repetition_of_each_test(
    child: Callable[..., Any], quantized: Any
) -> None:
    begun = time.monotonic()
    found = child(bench_task(quantized.paths["F16"], 0.0), SpeedVisit)
    assert found.cut
    assert len(found.pp_s) == 1 and len(found.tg_s) == len(found.token_s) >= 1  # as many as the grace has room for
    assert 1 <= len(found.token_s[0]) <= 128
    assert found.tg_s[0] == pytest.approx(sum(found.token_s[0]) * 128 / len(found.token_s[0]))
    assert time.monotonic() - begun < 60  # bounded by the grace, whatever this machine does beside
    whole = child(bench_task(quantized.paths["F16"], 60.0), SpeedVisit)
    assert not whole.cut and len(whole.pp_s) >= 2 and len(whole.tg_s) >= 2


def test_a_cut_is_one_by_time_only() -> None:
    now = time.perf_counter()
    effort = BenchEffort(min_reps=3, max_reps=20, min_s=0.4, max_s=20)
    assert _repeat(Clock(1.0), effort, now) == ((), True)
    (slow,), cut = _repeat(Clock(30.0), effort, math.inf)
    assert slow.parts == (15.0, 15.0) and not cut  # a slow test is not cut
    assert _repeat(Clock(1.0), effort, math.inf)[1] is False


@pytest.mark.slow
def test_the_time_allowed_holds_beside_a_busy_program(cli: Any, new_lab: Any) -> None:
    (new_lab / "lab.toml").write_text('formats = ["Q8_0"]\ntext = "demo"\nbench_rounds = 2\n', "utf-8")
    assert cli("quantize", cwd=new_lab).returncode == 0
    busy = subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 60: pass"])
    try:
        begun = time.monotonic()
        done = cli("bench", "--bench-time", "6s", "--json", cwd=new_lab)
        spent = time.monotonic() - begun
    finally:
        busy.kill()
        busy.wait()
    assert done.returncode == 0, done.stderr
    conditions = json.loads(next(new_lab.rglob("conditions.json")).read_text("utf-8"))["record"]
    assert conditions["settings"]["bench_budget_s"] == 6.0
    # Starting four processes and loading their model comes on top, beside whatever else runs here.
    assert conditions["spent_s"] < 15 and spent < 45, (conditions["spent_s"], spent)


def test_batches_end_with_the_time_allowed(child: Callable[..., Any], quantized: Any) -> None:
    task = BatchTask(
        model_path=str(quantized.paths["F16"]),
        format="F16",
        n_threads=1,
        n_prompt=32,
        n_gen=128,
        n_seqs=(1, 2),
        n_reps=3,
        deadline_s=0.0,
    )
    found = child(task, Timed)
    assert found.cut and [len(point.tg_s) for point in found.points] == [1, 1]
    assert all(seconds > 0 for point in found.points for seconds in (*point.pp_s, *point.tg_s))
    whole = child(BatchTask(**{**msgspec.structs.asdict(task), "deadline_s": None, "n_reps": 1}), Timed)
    assert not whole.cut and [len(point.tg_s) for point in whole.points] == [1, 1]
