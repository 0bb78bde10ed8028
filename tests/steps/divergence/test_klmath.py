"""KL divergence and top-token agreement: known values, scipy's sums, and intervals over chunks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from labctl.errors import LabError
from labctl.steps.divergence import kl as klmath

Float32s = npt.NDArray[np.float32]


def logits(n_rows: int, n_vocab: int, seed: int = 0) -> Float32s:
    return np.random.default_rng(seed).normal(0, 3, (n_rows, n_vocab)).astype(np.float32)


def log_of(*probabilities: float) -> Float32s:
    return np.log(np.array([probabilities], dtype=np.float64)).astype(np.float32)


# -- log-softmax ------------------------------------------------------------------------------------------------------


def test_uniform_logits_give_one_over_the_vocabulary() -> None:
    rows = klmath.log_softmax_rows(np.full((3, 500), 7.5, dtype=np.float32))
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.full((3, 500), -math.log(500)), rel=1e-7)


def test_log_softmax_matches_scipy_across_blocks_and_large_logits() -> None:
    # 5,000 words make blocks of 6 rows: 13 rows cross two borders.
    values = logits(13, 5_000)
    values[4] += 1000
    wanted = special.log_softmax(values.astype(np.float64), axis=1)
    np.testing.assert_allclose(klmath.log_softmax_rows(values), wanted, rtol=1e-6)


def test_log_softmax_in_place_and_leaving_its_input_alone() -> None:
    values = logits(5, 100)
    before = values.copy()
    wanted = klmath.log_softmax_rows(values)
    assert (values == before).all()
    assert klmath.log_softmax_rows(values, out=values) is values
    assert (values == wanted).all()


# -- KL divergence ----------------------------------------------------------------------------------------------------


def test_known_two_symbol_values() -> None:
    half, quarter = log_of(0.5, 0.5), log_of(0.25, 0.75)
    forward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    backward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert klmath.kl_rows(half, quarter) == pytest.approx([forward], abs=1e-7)
    assert klmath.kl_rows(quarter, half) == pytest.approx([backward], abs=1e-7)
    assert forward != pytest.approx(backward, abs=1e-3)


def test_divergence_from_itself_is_exactly_zero() -> None:
    values = logits(9, 40_000)
    assert (klmath.kl_rows(values, values) == 0).all()
    # The rounding of stored log-probabilities to float32 leaves next to nothing.
    assert klmath.kl_rows(klmath.log_softmax_rows(values), values).max() < 1e-12


def test_divergence_matches_scipy_and_takes_logits_or_log_probabilities() -> None:
    base, other = logits(13, 5_000), logits(13, 5_000, seed=1)
    p, q = (special.softmax(values.astype(np.float64), axis=1) for values in (base, other))
    wanted = special.rel_entr(p, q).sum(axis=1)
    logp = klmath.log_softmax_rows(base)
    np.testing.assert_allclose(klmath.kl_rows(logp, other), wanted, rtol=1e-6)
    np.testing.assert_allclose(klmath.kl_rows(logp, klmath.log_softmax_rows(other)), wanted, rtol=1e-6)


def test_small_divergences_keep_their_digits() -> None:
    # Q8_0 sits near 1e-5 nats: float32 sums would lose it.
    base = logits(4, 32_000).astype(np.float64)
    other = base + np.random.default_rng(2).normal(0, 0.004, base.shape)
    p, q = special.softmax(base, axis=1), special.softmax(other, axis=1)
    wanted = special.kl_div(p, q).sum(axis=1)
    assert wanted.max() < 2e-5
    found = klmath.kl_rows(base.astype(np.float32), other.astype(np.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_impossible_tokens() -> None:
    never = np.array([[0.0, 0.0, -math.inf]], dtype=np.float32)
    tilted = np.array([[math.log(3), 0.0, -math.inf]], dtype=np.float32)
    always = np.zeros((1, 3), dtype=np.float32)
    assert klmath.kl_rows(never, tilted) == pytest.approx([0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)])
    assert klmath.kl_rows(never, always) == pytest.approx([math.log(1.5)])
    assert klmath.kl_rows(always, never)[0] == math.inf


def test_nan_logits_show_as_nan() -> None:
    broken = logits(2, 10)
    broken[1, 3] = np.nan
    assert np.isnan(klmath.kl_rows(logits(2, 10), broken)).tolist() == [False, True]


@given(
    pair=hnp.arrays(
        np.float32,
        st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 40)),
        elements=st.floats(-100, 100, width=32),
    ),
    offset=st.floats(-50, 50, width=32),
)
@settings(deadline=None)
def test_divergence_is_never_negative_and_ignores_an_offset(pair: Float32s, offset: float) -> None:
    kl = klmath.kl_rows(pair[0], pair[1])
    assert kl.shape == (pair.shape[1],)
    assert (kl >= 0).all()
    moved = klmath.kl_rows(pair[0], pair[1] + np.float32(offset))
    np.testing.assert_allclose(moved, kl, rtol=1e-4, atol=1e-4)


def test_other_vocabulary_is_refused() -> None:
    with pytest.raises(LabError, match="Cannot compare"):
        klmath.kl_rows(logits(2, 10), logits(2, 11))


# -- top token --------------------------------------------------------------------------------------------------------


def test_same_top_and_its_ties() -> None:
    base = np.array([[1, 3, 2], [1, 3, 2], [3, 3, 2], [3, 3, 2]], dtype=np.float32)
    other = np.array([[0, 9, 8], [9, 0, 8], [5, 1, 5], [1, 5, 5]], dtype=np.float32)
    assert klmath.same_top(base, other).tolist() == [True, False, True, False]
    assert klmath.same_top(klmath.log_softmax_rows(base), other).tolist() == [True, False, True, False]


# -- summary ----------------------------------------------------------------------------------------------------------


def test_summary_by_hand() -> None:
    kl = np.array([[0.0, 0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 1.1]])
    same = np.array([[True, True, True, False], [True, False, True, False]])
    found = klmath.summarise(kl, same)
    assert (found.n_chunks, found.n_tokens) == (2, 8)
    # Chunk means 0.15 and 0.65, shares 0.75 and 0.5; t for one degree of freedom is 12.7062.
    assert found.mean == pytest.approx(0.4)
    assert found.mean_low == 0
    assert found.mean_high == pytest.approx(0.4 + 12.7062047 * 0.25)
    assert (found.median, found.max) == pytest.approx((0.35, 1.1))
    assert found.p90 == pytest.approx(0.6 + 0.3 * 0.5)  # place 0.9 * 7 = 6.3 among 0 .. 7
    assert found.p99 == pytest.approx(0.6 + 0.93 * 0.5)
    assert (found.same_top_p, found.same_top_low, found.same_top_high) == pytest.approx((0.625, 0, 1))


def test_summary_interval_is_clustered_by_chunk() -> None:
    rng = np.random.default_rng(5)
    kl = rng.gamma(2.0, 0.01, (12, 1)) * rng.gamma(4.0, 0.25, (12, 255))
    found = klmath.summarise(kl, kl < 0.05)
    low, high = stats.t.interval(0.95, 11, loc=kl.mean(), scale=stats.sem(kl.mean(axis=1)))
    assert (found.mean_low, found.mean_high) == pytest.approx((low, high))
    tokens_as_independent = 2 * 1.96 * kl.std() / math.sqrt(kl.size)
    assert found.mean_high - found.mean_low > 3 * tokens_as_independent
    shares = (kl < 0.05).mean(axis=1)
    low, high = stats.t.interval(0.95, 11, loc=shares.mean(), scale=stats.sem(shares))
    assert (found.same_top_low, found.same_top_high) == pytest.approx((low, min(1.0, high)))


def test_chunks_not_measured_are_left_out() -> None:
    rng = np.random.default_rng(6)
    kl, same = rng.gamma(2.0, 0.01, (5, 20)), rng.random((5, 20)) < 0.9
    gaps = kl.copy()
    gaps[2, 7] = np.nan
    kept = [0, 1, 3, 4]
    assert klmath.summarise(gaps, same) == klmath.summarise(kl[kept], same[kept])


def test_one_chunk_leaves_the_intervals_open() -> None:
    found = klmath.summarise(np.array([[0.1, 0.3]]), np.array([[True, False]]))
    assert (found.mean, found.mean_low, found.mean_high) == pytest.approx((0.2, 0.0, math.inf))
    assert (found.same_top_p, found.same_top_low, found.same_top_high) == (0.5, 0.0, 1.0)


def test_identical_files_summarise_to_zero() -> None:
    found = klmath.summarise(np.zeros((3, 8)), np.ones((3, 8), dtype=bool))
    assert (found.mean, found.mean_low, found.mean_high, found.p99, found.max) == (0, 0, 0, 0, 0)
    assert (found.same_top_p, found.same_top_low, found.same_top_high) == (1, 1, 1)


def test_nothing_measured_is_an_error_with_a_hint() -> None:
    with pytest.raises(LabError, match="No chunk") as caught:
        klmath.summarise(np.full((2, 3), np.nan), np.ones((2, 3), dtype=bool))
    assert caught.value.hint
    with pytest.raises(LabError, match="Cannot summarise"):
        klmath.summarise(np.zeros((2, 3)), np.ones((2, 4), dtype=bool))
