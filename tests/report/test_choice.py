"""Which of several files to use: what to measure next, when to stop, and what the answer says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.report.choice import Limits, Outcome, Prospect, answer, expected_loss, left, pick_of, unmeasured_words
from labctl.report.fit import FitVerdict

LIMITS = Limits(ram_gib=16, n_ctx=4096, max_loss=0.02, min_tps=8.0)
GB = 10**9


def prospect(
    label: str, bpw: float, *, tps: float | None = None, fault: str = "", fit: FitVerdict = "fits"
) -> Prospect:
    return Prospect(label=label, size_bytes=round(bpw * GB), bpw=bpw, fit=fit, need_bytes=1, tps=tps, fault=fault)


def outcome(
    label: str, bpw: float, loss: tuple[float, float, float], tps: tuple[float, float] | None = (9, 10)
) -> Outcome:
    pct, low, high = loss
    return Outcome(
        label=label,
        size_bytes=round(bpw * GB),
        bpw=bpw,
        fit="fits",
        need_bytes=round(bpw * GB),
        loss="pass" if high < 2 else "fail" if low > 2 else "undecided",
        loss_pct=pct,
        low_pct=low,
        high_pct=high,
        tps=None if tps is None else sum(tps) / 2,
        low_tps=None if tps is None else tps[0],
        high_tps=None if tps is None else tps[1],
    )


SIX = [prospect(label, bits) for label, bits in (("Q8_0", 8.5), ("Q6_K", 6.6), ("Q5", 5.7), ("Q4", 4.9), ("Q3", 3.9))]
BEST = outcome("F16", 16.0, (0.0, 0.0, 0.0))


def names(found: list[Prospect]) -> list[str]:
    return [one.label for one in found]


def test_the_first_file_is_the_one_expected_nearest_to_the_limit() -> None:
    assert names(left(SIX, [BEST], LIMITS))[0] == "Q4"
    strict = Limits(ram_gib=16, n_ctx=4096, max_loss=0.002)
    assert names(left(SIX, [BEST], strict))[0] == "Q8_0"


def test_what_was_measured_moves_what_is_expected() -> None:
    assert expected_loss(4.9, []) < expected_loss(4.9, [outcome("Q6_K", 6.6, (3.0, 2.5, 3.5))])
    assert expected_loss(4.9, []) > expected_loss(4.9, [outcome("Q6_K", 6.6, (0.1, 0.05, 0.2))])


def test_larger_files_than_one_that_meets_all_limits_are_left_out() -> None:
    good = outcome("Q5", 5.7, (1.0, 0.8, 1.2))
    assert set(names(left(SIX, [BEST, good], LIMITS))) == {"Q4", "Q3"}


def test_smaller_files_than_one_that_surely_loses_much_are_left_out() -> None:
    bad = outcome("Q4", 4.9, (5.0, 4.0, 6.0))
    assert "Q3" not in names(left(SIX, [BEST, bad], LIMITS))
    close = outcome("Q4", 4.9, (2.8, 2.4, 3.2))  # another kind of four bits may still pass
    assert "Q3" in names(left(SIX, [BEST, close], LIMITS))


def test_larger_files_than_one_that_is_too_slow_are_left_out() -> None:
    slow = outcome("Q5", 5.7, (1.0, 0.8, 1.2), tps=(5, 6))
    assert set(names(left(SIX, [outcome("F16", 16.0, (0, 0, 0), tps=(2, 3)), slow], LIMITS))) == {"Q4", "Q3"}


def test_predicted_speeds_rule_out_only_beyond_their_error() -> None:
    files = [prospect("a", 5.0, tps=6.0), prospect("b", 4.9, tps=7.0), prospect("c", 4.8)]
    assert set(names(left(files, [], LIMITS))) == {"b", "c"}


def test_what_cannot_be_compared_or_does_not_fit_is_never_measured() -> None:
    files = [prospect("a", 5.0, fault="another model"), prospect("b", 5.0, fit="does not fit"), prospect("c", 5.0)]
    assert names(left(files, [], LIMITS)) == ["c"]
    assert "b (does not fit)" in unmeasured_words(files, [outcome("c", 5.0, (1, 0.5, 1.5))], LIMITS)


@given(st.permutations(SIX), st.lists(st.floats(0.05, 20), min_size=5, max_size=5))
def test_measuring_ends_with_the_smallest_file_that_passes_where_loss_falls_with_bits(
    files: list[Prospect], losses: list[float]
) -> None:
    by_bits = dict(zip(sorted(one.bpw for one in SIX), sorted(losses, reverse=True), strict=True))
    done = [BEST]
    while later := left(files, done, LIMITS):
        loss = by_bits[later[0].bpw]
        done.append(outcome(later[0].label, later[0].bpw, (loss, 0.99 * loss, 1.01 * loss)))
    passing = [one for one in SIX if 1.01 * by_bits[one.bpw] < 2]
    pick = pick_of(done, LIMITS)
    assert pick is not None and pick.label == min(passing, key=lambda one: one.bpw, default=BEST).label


def test_the_answer_says_how_sure_it_is() -> None:
    good, also = outcome("IQ4_XS", 4.3, (1.1, 0.8, 1.5), tps=(9.0, 9.8)), outcome("Q4_K_M", 4.9, (1.0, 0.7, 1.4))
    text, pick = answer([BEST, good, also], LIMITS, "F16", lambda one, other: "F16" in (one, other))
    assert pick == good
    assert text == (
        "Use IQ4_XS: fits (4.0 of 13 GiB), 9.40 t/s (9.00 to 9.80), loss +1.10 % (+0.80 to +1.50 %);"
        " Q4_K_M cannot be told apart from it in perplexity."
    )


def test_a_file_that_fails_is_no_tie() -> None:
    good, bad = outcome("Q5", 5.7, (1.0, 0.5, 1.9)), outcome("Q4", 4.9, (4.0, 2.1, 6.0))
    text, _ = answer([BEST, good, bad], LIMITS, "F16", lambda *_: False)
    assert "Q4" not in text and "F16 cannot be told apart" in text


@pytest.mark.parametrize(
    ("found", "begins"),
    [
        (outcome("Q4", 4.9, (4.0, 3.0, 5.0)), "None meets every limit; nearest is Q4: "),
        (outcome("Q4", 4.9, (2.0, 1.0, 3.0)), "None is shown to meet every limit; nearest is Q4: "),
        (outcome("Q4", 4.9, (1.0, 0.5, 1.5), tps=None), "None is shown to meet every limit; nearest is Q4: "),
        (outcome("Q4", 4.9, (1.0, 0.5, 1.5), tps=(5, 6)), "None meets every limit; nearest is Q4: "),
    ],
)
def test_without_a_file_that_meets_all_the_nearest_is_named(found: Outcome, begins: str) -> None:
    text, pick = answer([found], LIMITS, "F16", lambda *_: True)
    assert text.startswith(begins) and pick == found
    assert "at most 2 % is asked for" in text or "at least 8 are asked for" in text or "t/s" not in text


def test_an_undecided_smaller_file_is_named() -> None:
    good, maybe = outcome("Q5", 5.7, (1.0, 0.5, 1.5)), outcome("Q4", 4.9, (2.0, 1.0, 3.0))
    text, pick = answer([BEST, good, maybe], LIMITS, "F16", lambda *_: True)
    assert pick == good and text.endswith("Smaller, but undecided: Q4.")
