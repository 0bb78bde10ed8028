"""Ratios within rounds, when to stop, and what to warn of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import speed_run

from labctl.steps.bench.ratios import (
    PRECISE,
    drift,
    ending,
    half_widths,
    median_ratio,
    round_ratio,
    round_seconds,
    speed_warnings,
    stalls,
    times,
)
from labctl.steps.bench.record import SpeedRun, SpeedVisit


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


def by_token(name: str, rounds: list[list[float]]) -> SpeedRun:
    """One repetition a round with these times of its tokens."""
    made = run(name, [sum(seconds) for seconds in rounds])
    return replace(
        made,
        visits=tuple(replace(v, tg_s=(sum(s),), token_s=(tuple(s),)) for v, s in zip(made.visits, rounds, strict=True)),
    )


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
    found = median_ratio([2.0])
    assert found is not None and (found.low, found.high, found.half_width) == (0.0, math.inf, math.inf)
    assert median_ratio([]) is None
    assert times(2.0, 0.0, math.inf) == "2.0 (one round, no interval)"


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_interval_holds_the_ratio_and_turns_with_it(ratios: list[float]) -> None:
    found, turned = median_ratio(ratios), median_ratio([1 / ratio for ratio in ratios])
    assert found is not None and turned is not None
    assert found.low <= found.ratio * (1 + 1e-12) and found.ratio <= found.high * (1 + 1e-12)
    assert found.ratio * turned.ratio == pytest.approx(1)
    assert len(ratios) == 1 or found.low * turned.high == pytest.approx(1)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 9, 12])
def test_interval_covers_the_truth_at_least_95_times_in_100(n: int) -> None:
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(4000):
        found = median_ratio(list(np.exp(random.normal(math.log(1.5), 0.05, size=n))))
        assert found is not None
        inside += found.low <= 1.5 <= found.high
    assert inside / 4000 >= 0.94
    assert n > 5 or inside / 4000 <= 0.96


def test_one_stalled_round_of_six_moves_neither_ratio_nor_its_lower_end() -> None:
    found = median_ratio([1.5, 1.52, 1.48, 1.51, 1.49, 15.0])
    assert found is not None and found.ratio == pytest.approx(1.505, abs=1e-3)
    assert found.low == 1.48


def test_stalled_tokens_change_nothing() -> None:
    """Three tokens that took 1.167 s of a repetition's 1.355 s once turned 1.5 times into 2.6 (0.4 to 15.7)."""
    even = [[0.001] * 128 for _ in range(3)]
    stalled = [[0.001] * 125 + [0.389] * 3, *even[1:]]
    base, fast = by_token("F16", stalled), by_token("Q8_0", [[0.0005] * 128 for _ in range(3)])
    found = round_ratio(fast, base, "tg")
    assert found is not None and (found.ratio, found.low, found.high) == pytest.approx((2, 2, 2))
    assert stalls(base) == pytest.approx(1) and stalls(fast) == pytest.approx(1)
    held_up = by_token("F16", [stalled[0]] * 3)
    assert stalls(held_up) == pytest.approx(10.09, abs=0.1)
    text = " ".join(speed_warnings({"F16": held_up, "Q8_0": fast}, "F16", 3))
    assert "F16 took 10 times as long as its tokens usually take" in text and "speed-ups" in text


def test_without_single_tokens_the_repetitions_count() -> None:
    base = by_token("F16", [[0.001] * 128] * 3)
    bare = replace(base, visits=tuple(replace(visit, token_s=()) for visit in base.visits))
    found = round_ratio(by_token("Q8_0", [[0.0005] * 128] * 3), bare, "tg")
    assert found is not None and found.ratio == pytest.approx(2)


def test_digits_follow_the_interval() -> None:
    assert times(2.604, 0.431, 15.733) == "2.6 (0.43 to 16)"
    assert times(1.13, 0.0081, 152.3) == "1.1 (0.0081 to 152)"
    assert times(1.5523, 1.5481, 1.5561) == "1.552 (1.548 to 1.556)"
    assert times(1.552, 1.29, 1.65) == "1.55 (1.29 to 1.65)"
    assert times(31.2, 11.0, 60.0) == "31 (11 to 60)"


def test_median_of_a_round_ignores_a_slow_repetition() -> None:
    slow = run("F16", [1.0, 2.0])
    assert round_seconds(slow.visits, "pp") == {0: 1.0, 1: 2.0}
    assert round_seconds(slow.visits, "tg", by_token=False) == {0: 1.0, 1: 2.0}


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
    assert drift(run("F16", [1.0, 1.1]), "tg") == pytest.approx(1.1)
    steady = {"F16": run("F16", [1.0, 1.09] * 2), "Q8_0": run("Q8_0", [0.5, 0.545] * 2)}
    assert speed_warnings(steady, "F16", 4) == ()
    hot = {"F16": run("F16", [1.0, 10.6] * 2), "Q8_0": run("Q8_0", [0.5, 5.3] * 2)}
    (text,) = speed_warnings(hot, "F16", 4)
    uneven = {"F16": run("F16", [1.0, 1.2] * 2), "Q8_0": run("Q8_0", [0.5, 0.5, 1.5, 0.5])}
    assert "Q8_0 took 3.0 times as long" in speed_warnings(uneven, "F16", 4)[0]
    assert "F16 took 11 times as long in one round as in another: something else used the processor" in text
    assert "speed-ups compare moments of one round and are known to ± 2 %" in text


def test_ratios_that_are_not_known_are_not_recommended() -> None:
    for speed in (
        {"F16": run("F16", [1.0, 10.6] * 2), "Q8_0": run("Q8_0", [0.5] * 4)},
        {"F16": run("F16", [1.0]), "Q8_0": run("Q8_0", [0.5])},
        {"F16": run("F16", [1.0, 10.6] * 2)},
    ):
        text = " ".join(speed_warnings(speed, "F16", 4))
        assert "all the same" not in text and "% slower" not in text and "Trust" not in text
    assert "1 of 1" not in text


def test_wide_intervals_and_few_rounds_are_warned_of() -> None:
    _, wide, few = speed_warnings(NOISY, "F16", 5)
    assert "2 of 2 speed-ups over F16 are known to worse than ± 2 %" in wide and "1.83 (" in wide
    assert "labctl bench --force" in wide and "--bench-time" in wide
    assert "4 of at least 5 rounds" in few
    assert speed_warnings({}, "F16", 4) == ()
