"""Ratios within rounds, when to stop, and what to warn of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_factory import speed_run
from scipy import stats

from labctl.measure.ratios import (
    PRECISE,
    drift,
    ending,
    half_widths,
    mean_ratio,
    round_ratio,
    round_seconds,
    speed_warnings,
)
from labctl.records_hardware import SpeedRun, SpeedVisit


def run(name: str, tg_s: list[float], pp_s: list[float] | None = None) -> SpeedRun:
    """One visit a round with these seconds, three repetitions around each."""
    visits = tuple(
        SpeedVisit(
            round=number,
            order=number,
            load_s=0.1,
            pp_s=(0.9 * pp, pp, 3 * pp),
            tg_s=(0.9 * tg, tg, 3 * tg),
            token_s=((tg,),),
        )
        for number, (tg, pp) in enumerate(zip(tg_s, pp_s or tg_s, strict=True))
    )
    return replace(speed_run(name, 1.0, 1.0, 1, rounds=0), visits=visits)


def test_a_machine_that_slows_down_leaves_the_ratio_alone() -> None:
    base, fast = run("F16", [1.0, 2.0, 4.0, 8.0]), run("Q8_0", [0.5, 1.0, 2.0, 4.0])
    found = round_ratio(fast, base, "tg")
    assert found is not None
    assert (found.ratio, found.low, found.high, found.n_rounds) == pytest.approx((2.0, 2.0, 2.0, 4))
    assert found.half_width == pytest.approx(0.0)


def test_only_rounds_that_timed_both_count() -> None:
    base, fast = run("F16", [1.0, 1.0, 1.0]), run("Q8_0", [0.5, 0.5, 0.5, 9.0])
    found = round_ratio(fast, base, "pp")
    assert found is not None and found.n_rounds == 3 and found.ratio == pytest.approx(2.0)
    assert round_ratio(run("Q8_0", []), base, "tg") is None


def test_one_round_has_no_interval() -> None:
    found = mean_ratio([math.log(2)])
    assert found is not None and (found.low, found.high, found.half_width) == (0.0, math.inf, math.inf)
    assert mean_ratio([]) is None


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_interval_is_scipys(logs: list[float]) -> None:
    found = mean_ratio(logs)
    assert found is not None
    low, high = (
        stats.t.interval(0.95, len(logs) - 1, loc=np.mean(logs), scale=stats.sem(logs))
        if np.std(logs)
        else (np.mean(logs), np.mean(logs))
    )
    assert math.log(found.low) == pytest.approx(low, abs=1e-9)
    assert math.log(found.high) == pytest.approx(high, abs=1e-9)
    assert found.half_width == pytest.approx(found.high / found.ratio - 1)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(2000):
        found = mean_ratio(list(random.normal(math.log(1.5), 0.05, size=5)))
        assert found is not None
        inside += found.low <= 1.5 <= found.high
    assert 0.935 <= inside / 2000 <= 0.965


def test_median_of_a_round_ignores_a_slow_repetition() -> None:
    assert round_seconds(run("F16", [1.0, 2.0]), "tg") == {0: 1.0, 1: 2.0}


STEADY = {"F16": run("F16", [1.0] * 4), "Q8_0": run("Q8_0", [0.5] * 4)}
NOISY = {"F16": run("F16", [1.0] * 4), "Q8_0": run("Q8_0", [0.5, 0.6, 0.5, 0.6])}
LIMITS = {"min_rounds": 4, "max_rounds": 12, "budget_s": 60.0}


@pytest.mark.parametrize(
    ("speed", "spent_s", "limits", "why"),
    [
        (STEADY, 10.0, LIMITS, "precise"),
        (NOISY, 10.0, LIMITS, ""),
        (NOISY, 48.0, LIMITS, ""),  # a fifth round of 12 s just fits
        (NOISY, 48.1, LIMITS, "budget"),
        (NOISY, 10.0, {**LIMITS, "max_rounds": 4}, "rounds"),
        (NOISY, 10.0, {**LIMITS, "max_rounds": 2}, "rounds"),  # a maximum under the minimum gives way
        (STEADY, 10.0, {**LIMITS, "min_rounds": 5}, ""),
        (STEADY, 59.0, {**LIMITS, "min_rounds": 5}, "budget"),
        ({"F16": STEADY["F16"]}, 10.0, LIMITS, ""),  # Q8_0 is still to be timed
        ({}, 1e9, LIMITS, ""),  # at least one round, whatever the time
    ],
)
def test_when_rounds_end(speed: dict[str, SpeedRun], spent_s: float, limits: dict[str, float], why: str) -> None:
    assert ending(speed, ("F16", "Q8_0"), spent_s=spent_s, **limits) == why  # type: ignore[arg-type]


def test_a_single_round_is_never_precise() -> None:
    one = {"F16": run("F16", [1.0]), "Q8_0": run("Q8_0", [0.5])}
    assert ending(one, ("F16", "Q8_0"), spent_s=1, min_rounds=1, max_rounds=12, budget_s=60) == ""


def test_widths_of_every_ratio() -> None:
    widths = half_widths(NOISY, "F16")
    assert set(widths) == {("Q8_0", "tg"), ("Q8_0", "pp")}
    assert all(width > PRECISE for width in widths.values())
    assert half_widths(NOISY, "BF16") == {}


def test_a_drifting_baseline_is_warned_of_beyond_ten_percent() -> None:
    assert drift(run("F16", [1.0, 1.1]), "tg") == pytest.approx(0.1)
    steady = {"F16": run("F16", [1.0, 1.09] * 2), "Q8_0": run("Q8_0", [0.5, 0.545] * 2)}
    assert speed_warnings(steady, "F16", 4) == ()
    hot = {"F16": run("F16", [1.0, 1.2] * 2), "Q8_0": run("Q8_0", [0.5, 0.6] * 2)}
    (text,) = speed_warnings(hot, "F16", 4)
    assert "drifted" in text and "20 % slower" in text


def test_wide_intervals_and_few_rounds_are_warned_of() -> None:
    wide, few = speed_warnings(NOISY, "F16", 5)
    assert "2 of 2 ratios" in wide and "Q8_0" in wide and "± 2 %" in wide
    assert "4 of at least 5 rounds" in few
    assert speed_warnings({}, "F16", 4) == ()
