"""Ratios within rounds, when to stop, and what to warn of."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import speed_run

from labctl.records.hardware import Disturbance
from labctl.steps.bench.ratios import (
    PRECISE,
    TESTS,
    drift,
    due,
    ending,
    median_ratio,
    ratios_over,
    round_ratio,
    round_seconds,
    speed_warnings,
    times,
    visits_speed,
)
from labctl.steps.bench.record import SpeedRun, SpeedVisit, Test


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
    assert times(2.0, 0.0, math.inf) == "2.0 (no interval)"


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


@pytest.mark.parametrize("n", [3, 4, 8, 12, 20])
def test_all_pairs_of_seven_formats_together_are_ranked_wrongly_in_at_most_5_of_100_labs(n: int) -> None:
    random = np.random.default_rng(n)
    alpha, n_wrong = 0.05 / math.comb(7, 2), 0
    for _ in range(400):
        seconds = np.exp(random.normal(0.0, 0.02, size=(7, n)))  # all equally fast
        pairs = [median_ratio(list(a / b), alpha) for a, b in itertools.combinations(seconds, 2)]
        n_wrong += any(pair is not None and (pair.low > 1 or pair.high < 1) for pair in pairs)
    assert n_wrong / 400 <= 0.05


@pytest.mark.parametrize("n", [2, 3, 5, 8, 20])
def test_an_interval_for_many_pairs_is_wider_and_holds_that_of_one(n: int) -> None:
    ratios = list(np.exp(np.random.default_rng(n).normal(0.4, 0.02, size=n)))
    one, many = median_ratio(ratios), median_ratio(ratios, 0.05 / 21)
    assert one is not None and many is not None and many.ratio == one.ratio
    assert many.low <= one.low and one.high <= many.high


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
    speed = visits_speed(base.visits, "tg", 512)
    assert speed is not None and (speed.tps, speed.low, speed.high) == pytest.approx((1000, 1000, 1000))


# -- disturbed --------------------------------------------------------------------------------------------------------

QUIET = Disturbance(lost_s=0.0, waited_s=0.0)


def disturbed(made: SpeedRun, rounds: set[int], seen: Disturbance, slower: float = 3.0) -> SpeedRun:
    """The same with all repetitions of some rounds slower, and what went on in these."""

    def visit(one: SpeedVisit) -> SpeedVisit:
        hit = one.round in rounds
        factor, note = (slower, seen) if hit else (1.0, QUIET)
        token_s = tuple(tuple(factor * s for s in tokens) for tokens in one.token_s)
        all_tokens = tuple(tuple(range(len(tokens))) if hit else () for tokens in token_s)
        return replace(
            one,
            pp_s=tuple(factor * s for s in one.pp_s),
            tg_s=tuple(factor * s for s in one.tg_s),
            token_s=token_s,
            pp_disturbance=(note,) * len(one.pp_s),
            tg_disturbance=(note,) * len(token_s),
            held_up=all_tokens if seen.waited_s is not None else ((),) * len(token_s),
        )

    return replace(made, visits=tuple(map(visit, made.visits)))


@pytest.mark.parametrize(
    "seen",
    [
        Disturbance(lost_s=99.0, waited_s=99.0, stolen_s=0.0),
        Disturbance(lost_s=99.0, waited_s=0.0, stolen_s=99.0),
        Disturbance(lost_s=99.0, others_s=99.0),
    ],
    ids=["waiting", "stolen", "other programs"],
)
@pytest.mark.parametrize("test", ["pp", "tg"])
def test_disturbed_rounds_do_not_count(test: Test, seen: Disturbance) -> None:
    base, fast = run("F16", [1.0] * 4), disturbed(run("Q8_0", [0.5] * 4), {1, 3}, seen)
    found, speed = round_ratio(fast, base, test), visits_speed(fast.visits, test, 512)
    assert found is not None and (found.ratio, found.n_rounds) == pytest.approx((2, 2))
    assert speed is not None and (speed.tps, speed.n_rounds) == pytest.approx(({"tg": 2, "pp": 1024}[test], 2))
    assert sum(visit.n_disturbed(test) for visit in fast.visits) == (6 if test == "pp" else 2)
    text = " ".join(speed_warnings({"F16": base, "Q8_0": fast}, "F16", 4))
    assert "24 of 32 repetitions were undisturbed; only these count" in text


def test_a_little_waiting_is_no_disturbance() -> None:
    brief = Disturbance(lost_s=0.004, waited_s=0.004)
    fast = disturbed(run("Q8_0", [0.5] * 4), set(), brief)
    fast = replace(fast, visits=tuple(replace(one, pp_disturbance=(brief,) * 3) for one in fast.visits))
    assert all(visit.n_disturbed("pp") == 0 for visit in fast.visits)


def test_single_tokens_are_left_out() -> None:
    one = replace(
        run("F16", [1.0]).visits[0],
        token_s=((0.1, 0.9, 0.1, 0.3),),
        tg_disturbance=(Disturbance(lost_s=1.0, waited_s=1.0),),
        held_up=((1, 3),),
    )
    assert one.undisturbed_s("tg") == (0.1, 0.1) and one.all_s("tg") == (0.1, 0.9, 0.1, 0.3)
    assert one.n_disturbed("tg") == 0  # half of it is of use


def test_where_all_was_disturbed_there_is_a_guess_and_no_interval() -> None:
    seen = Disturbance(lost_s=99.0, waited_s=99.0)
    base, slow = run("F16", [1.0] * 4), disturbed(run("Q8_0", [0.5] * 4), {0, 1, 2, 3}, seen)
    for test in TESTS:
        found, speed = round_ratio(slow, base, test), visits_speed(slow.visits, test, 512)
        assert found is not None and (found.low, found.high, found.n_rounds) == (0.0, math.inf, 0)
        assert found.ratio == pytest.approx(2 / 3)
        assert speed is not None and (speed.low, speed.high, speed.n_rounds) == (0.0, math.inf, 0)
    text = " ".join(speed_warnings({"F16": base, "Q8_0": slow}, "F16", 4))
    assert "too busy to tell 2 speeds, among them Q8_0's at generating text: 16 of 32" in text
    assert "16 of 32 repetitions were undisturbed" in text and "--bench-time 5m" in text


def test_rounds_go_on_for_formats_that_are_not_known() -> None:
    seen = Disturbance(lost_s=99.0, waited_s=99.0)
    speed = {
        "F16": run("F16", [1.0] * 4),
        "Q8_0": run("Q8_0", [0.5] * 4),
        "Q6_K": disturbed(run("Q6_K", [0.5] * 4), {0, 1, 2}, seen),
        "Q4_K_M": run("Q4_K_M", [0.5, 0.6, 0.5, 0.6]),
    }
    assert due(speed, tuple(speed), 4) == ("F16", "Q6_K", "Q4_K_M")
    assert due(speed, ("F16", "Q8_0"), 4) == ("F16",)
    assert due(speed, ("F16", "Q8_0"), 5) == ("F16", "Q8_0")
    assert due({}, ("F16", "Q8_0"), 1) == ("F16", "Q8_0")


def test_digits_follow_the_interval() -> None:
    assert times(2.604, 0.431, 15.733) == "2.6 (0.43 to 16)"
    assert times(1.13, 0.0081, 152.3) == "1.1 (0.0081 to 152)"
    assert times(1.5523, 1.5481, 1.5561) == "1.552 (1.548 to 1.556)"
    assert times(1.552, 1.29, 1.65) == "1.55 (1.29 to 1.65)"
    assert times(31.2, 11.0, 60.0) == "31 (11 to 60)"


def test_median_of_a_round_ignores_a_slow_repetition() -> None:
    slow = run("F16", [1.0, 2.0])
    assert round_seconds(slow.visits, "pp") == {0: 1.0, 1: 2.0}
    assert round_seconds(slow.visits, "tg") == {0: 1.0, 1: 2.0}


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
    n_rounds = 4 if speed else 0
    assert ending(speed, ("F16", "Q8_0"), n_rounds=n_rounds, spent_s=spent_s, **limits) == why  # type: ignore[arg-type]


def test_a_single_round_is_never_precise() -> None:
    one = {"F16": run("F16", [1.0]), "Q8_0": run("Q8_0", [0.5])}
    assert ending(one, ("F16", "Q8_0"), n_rounds=1, spent_s=1, min_rounds=1, max_rounds=12, budget_s=60) == ""


def test_widths_of_every_ratio() -> None:
    ratios = ratios_over(NOISY, "F16")
    assert set(ratios) == {("Q8_0", "tg"), ("Q8_0", "pp")}
    assert all(ratio.half_width > PRECISE for ratio in ratios.values())
    assert ratios_over(NOISY, "BF16") == {}


def test_a_drifting_baseline_is_warned_of_beyond_ten_percent() -> None:
    assert drift(run("F16", [1.0, 1.1]), "tg") == pytest.approx(1.1)
    steady = {"F16": run("F16", [1.0, 1.09] * 2), "Q8_0": run("Q8_0", [0.5, 0.545] * 2)}
    assert speed_warnings(steady, "F16", 4) == ()
    hot = {"F16": run("F16", [1.0, 10.6] * 2), "Q8_0": run("Q8_0", [0.5, 5.3] * 2)}
    (text,) = speed_warnings(hot, "F16", 4)
    uneven = {"F16": run("F16", [1.0, 1.2] * 2), "Q8_0": run("Q8_0", [0.5, 0.5, 1.5, 0.5])}
    assert "Q8_0 took 3.0 times as long" in speed_warnings(uneven, "F16", 4)[0]
    assert "F16 took 11 times as long in one round as in another, though nothing was seen to" in text
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
    assert "`labctl bench --bench-time 5m`" in wide
    assert "4 of at least 5 rounds" in few
    # Logarithms vary by 0.105: (1.96 x 1.2533 x 0.105 / 0.02)^2 = 167 rounds.
    _, wide, _ = speed_warnings(NOISY, "F16", 5, 10.0)
    assert "About 28 min would do: `labctl bench --bench-time 28m`." in wide
    _, wide, _ = speed_warnings(NOISY, "F16", 5, 60.0)
    assert "an hour would hardly be enough" in wide
    assert speed_warnings({}, "F16", 4) == ()
