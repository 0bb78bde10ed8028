"""Paired increase, its verdict, and how many chunks would settle it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.errors import LabError
from labctl.steps.perplexity import increase as v
from labctl.steps.perplexity import sequence as q

Floats = npt.NDArray[np.float64]


def measured(n_chunks: int = 20, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).gamma(2.0, 1.5, (n_chunks, 255))


# -- paired increase --------------------------------------------------------------------------------------------------


def test_identical_measurements_have_no_increase_and_no_width() -> None:
    nll = measured()
    assert v.paired_increase(nll, nll) == v.Increase(increase=0, low=0, high=0, n_chunks=20, sd=0)


def test_constant_shift_is_exactly_its_ratio() -> None:
    nll = measured()
    increase = v.paired_increase(nll + math.log(1.05), nll)
    assert [increase.increase, increase.low, increase.high] == pytest.approx([0.05] * 3, abs=1e-12)


def test_two_chunks_by_hand() -> None:
    nll = np.array([[1.0, 1.2], [2.0, 2.4]])
    base = np.array([[1.0, 1.0], [2.0, 2.0]])
    increase = v.paired_increase(nll, base)
    # d = 0.1 and 0.2; t for one degree of freedom at 97.5 % is 12.7062
    half = 12.706204736 * 0.1 / math.sqrt(2) / math.sqrt(2)
    assert increase.sd == pytest.approx(0.1 / math.sqrt(2))
    assert math.log1p(increase.increase) == pytest.approx(0.15)
    assert math.log1p(increase.low) == pytest.approx(0.15 - half)
    assert math.log1p(increase.high) == pytest.approx(0.15 + half)


def test_chunks_not_measured_in_both_are_dropped() -> None:
    base, noise = measured(), np.random.default_rng(1).normal(0.01, 0.02, (20, 1))
    nll = base + noise
    gaps, gaps_base = nll.copy(), base.copy()
    gaps[3] = np.nan
    gaps_base[7, 10] = np.nan
    kept = np.delete(np.arange(20), [3, 7])
    assert v.paired_increase(gaps, gaps_base) == v.paired_increase(nll[kept], base[kept])
    assert v.chunk_differences(gaps, gaps_base) == pytest.approx(noise[kept, 0])


def test_one_chunk_leaves_the_interval_open() -> None:
    nll = measured(1)
    increase = v.paired_increase(nll + 0.01, nll)
    assert (increase.low, increase.high, increase.n_chunks) == (-1.0, math.inf, 1)
    assert math.isnan(increase.sd)
    assert v.verdict(increase) == "undecided"


def test_an_infinite_nll_fails_and_does_not_crash() -> None:
    base = measured(4)
    nll = base.copy()
    nll[2, 5] = math.inf
    increase = v.paired_increase(nll, base)
    assert increase.increase == math.inf
    assert v.verdict(increase) == "fail"
    assert q.settle(v.chunk_differences(nll, base), 600).verdict == "fail"


def test_nothing_in_common_is_an_error_with_a_hint() -> None:
    nll = measured(3)
    with pytest.raises(LabError, match="No chunk") as caught:
        v.paired_increase(np.full_like(nll, np.nan), nll)
    assert caught.value.hint
    with pytest.raises(LabError, match="Cannot pair"):
        v.paired_increase(nll, nll[:, :-1])


@given(
    shift=st.floats(-0.5, 0.5), seed=st.integers(0, 2**32 - 1), n_chunks=st.integers(2, 40), spread=st.floats(1e-4, 0.1)
)
@settings(max_examples=50, deadline=None)
def test_a_shift_multiplies_and_swapping_inverts(shift: float, seed: int, n_chunks: int, spread: float) -> None:
    base = measured(n_chunks, seed)
    nll = base + np.random.default_rng(seed).normal(0.0, spread, base.shape)
    plain, shifted, swapped = (v.paired_increase(*pair) for pair in ((nll, base), (nll + shift, base), (base, nll)))
    for name in ("increase", "low", "high"):
        assert 1 + getattr(shifted, name) == pytest.approx((1 + getattr(plain, name)) * math.exp(shift), rel=1e-9)
    assert plain.low <= plain.increase <= plain.high
    assert 1 + swapped.increase == pytest.approx(1 / (1 + plain.increase), rel=1e-9)
    assert 1 + swapped.low == pytest.approx(1 / (1 + plain.high), rel=1e-9)
    assert swapped.sd == pytest.approx(plain.sd)


def test_the_interval_covers_when_tokens_in_a_chunk_move_together() -> None:
    rng = np.random.default_rng(4)
    texts = 2000
    shared, own = rng.standard_normal((texts, 30, 1)), rng.standard_normal((texts, 30, 8))
    nll = 0.01 + 0.02 * (shared + own)
    found = [v.paired_increase(text, np.zeros_like(text)) for text in nll]
    covered = np.mean([increase.low <= math.expm1(0.01) <= increase.high for increase in found])
    assert abs(covered - 0.95) < 0.015  # three standard errors


# -- verdict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.019, "pass"),
        (0.021, 0.030, "fail"),
        (0.019, 0.021, "undecided"),
        (0.010, 0.020, "undecided"),
        (0.020, 0.030, "undecided"),
        (-1.0, math.inf, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_verdict_asks_for_the_whole_interval(low: float, high: float, expected: str) -> None:
    assert v.verdict(v.Increase(increase=0.02, low=low, high=high, n_chunks=9, sd=0.1), 0.02) == expected
