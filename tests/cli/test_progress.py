"""The estimate of the time left: smooth, and in the end right, whatever the steps' true times are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.cli.progress import TimeLeft, clock_text, left_text

STEP_S = 0.5


def played(expected_s: dict[str, float], true_s: dict[str, float]) -> list[tuple[float, float]]:
    """Run invented steps that take `true_s`, an event every half second: (now, time left as shown)."""
    now = 100.0
    left = TimeLeft(expected_s, now)
    shown = [(now, left.left_s(now))]
    for name, seconds in true_s.items():
        left.begin_stage(name, now)
        for event in range(1, int(seconds / STEP_S) + 1):
            now += STEP_S
            left.advance(event * STEP_S / seconds, now)
            shown.append((now, left.left_s(now)))
    shown.append((now + 15.0, left.left_s(now + 15.0)))
    return shown


def ends(shown: list[tuple[float, float]]) -> list[float]:
    return [now + left for now, left in shown]


EXPECTED = {"quantize": 40.0, "perplexity": 300.0, "generate": 60.0, "bench": 100.0}


def test_what_goes_as_expected_is_shown_so_all_the_time() -> None:
    shown = played(EXPECTED, EXPECTED)
    assert all(abs(end - 600.0) < 0.01 for end in ends(shown[:-1]))


@pytest.mark.parametrize("factor", [0.2, 0.5, 3.0, 10.0])
def test_a_machine_of_another_speed_is_learned_without_turning_back(factor: float) -> None:
    shown = played(EXPECTED, {name: factor * seconds for name, seconds in EXPECTED.items()})
    found = ends(shown[:-1])
    truth = 100.0 + 500.0 * factor
    errors = [abs(end - truth) for end in found]
    rising = [later - earlier for earlier, later in itertools.pairwise(errors)]
    assert max(rising) < 0.05 * truth / len(errors) + 0.2, "the error never grows by more than rounding"
    assert errors[len(errors) // 2] < 0.5 * errors[0]
    assert errors[-1] < 15


@given(factors=st.lists(st.floats(0.1, 8.0), min_size=4, max_size=4))
def test_the_end_shown_never_jumps(factors: list[float]) -> None:
    true_s = {name: factor * seconds for (name, seconds), factor in zip(EXPECTED.items(), factors, strict=True)}
    shown = played(EXPECTED, true_s)
    for (then, earlier), (now, later) in itertools.pairwise(shown[:-1]):
        # Without smoothing the end moves by minutes within one event where a step is as unlike the last as these are.
        assert abs((now + later) - (then + earlier)) <= 0.13 * max(earlier, later) + 3.0
    assert shown[-1][1] < 5, "what is over is soon shown as over"


def test_a_step_that_is_skipped_or_unknown_does_no_harm() -> None:
    shown = played({"quantize": 10.0, "bench": 10.0}, {"bench": 10.0, "other": 5.0})
    assert all(left >= 0 for _, left in shown)
    left = TimeLeft({}, 0.0)
    left.begin_stage("x", 1.0)
    left.advance(0.5, 2.0)
    assert (left.left_s(3.0), left.share) == (0.0, 0.0)


def test_times_in_words() -> None:
    assert [clock_text(seconds) for seconds in (52, 725, 3723)] == ["0:52", "12:05", "1:02:03"]
    said = [left_text(seconds) for seconds in (2, 12, 54, 60, 100, 1700, 3600, 7900)]
    assert said == [
        "almost done",
        "about 20 s left in all",
        "about 60 s left in all",
        "about 1 min left in all",
        "about 2 min left in all",
        "about 29 min left in all",
        "about 1 h left in all",
        "about 2 h 10 min left in all",
    ]
