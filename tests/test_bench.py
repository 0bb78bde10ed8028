"""Speed tests do the work they name, as often as they should, and keep every sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from labctl import tasks
from labctl.measure.bench import _repeat
from labctl.records_hardware import BenchEffort, SpeedVisit


@pytest.fixture(scope="module")
def visit(child: Callable[..., Any], quantized: Any) -> SpeedVisit:
    found: SpeedVisit = child(
        tasks.BenchTask(
            model_path=str(quantized.paths["Q8_0"]), format="Q8_0", n_threads=1, n_prompt=512, n_gen=16,
            effort=BenchEffort(min_reps=2, max_reps=3, min_s=0.0), round=3, order=7,
        ),
        SpeedVisit,
    )  # fmt: skip
    return found


def test_a_visit_keeps_every_repetition_and_every_token(visit: SpeedVisit) -> None:
    assert (visit.round, visit.order) == (3, 7)
    assert len(visit.pp_s) == len(visit.tg_s) == len(visit.token_s) == 2
    assert all(len(one) == 16 for one in visit.token_s)
    assert [sum(one) for one in visit.token_s] == pytest.approx(visit.tg_s)
    assert visit.load_s > 0


def test_times_are_of_real_work(visit: SpeedVisit) -> None:
    # 15.2 million weights, two operations each: even one token takes more than a tenth of a millisecond, and 512 of
    # them in one go take longer than one by itself.
    assert all(seconds > 1e-4 for one in visit.token_s for seconds in one)
    assert min(visit.pp_s) > min(seconds for one in visit.token_s for seconds in one)


class Clock:
    """A test that takes as long as it is told."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0

    def __call__(self) -> tuple[float, ...]:
        self.calls += 1
        return (self.seconds / 2, self.seconds / 2)


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
    assert len(_repeat(clock, effort)) == n_samples
    assert clock.calls == n_samples
