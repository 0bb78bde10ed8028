"""The harness rounds a baseline as llama-perplexity's 16-bit file does, value by value."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.divergence import _stored_kl, stored

_N_SCORED = 255


@given(st.lists(st.floats(-40, 0, width=32), min_size=2, max_size=40).filter(lambda row: max(row) - min(row) > 1e-3))
def test_each_value_is_at_most_half_a_step_away_or_at_the_floor(row: list[float]) -> None:
    logp = np.array([row], dtype=np.float32)
    (found,) = stored(logp)
    floor = max(min(row), max(row) - 16)
    step = (max(row) - floor) / 65535
    for value, kept in zip(row, found.tolist(), strict=True):
        assert kept == pytest.approx(max(value, floor), abs=0.51 * step + 4e-6)
        assert round((kept - floor) / step) <= 65535


def test_a_row_of_equal_values_stays() -> None:
    row = np.full((1, 4), -math.log(4), dtype=np.float32)
    assert np.array_equal(stored(row), row)


def test_divergence_from_spools_leaves_out_what_lies_at_or_below_16_nats(tmp_path: Path) -> None:
    # Three tokens: one nearly certain, one unlikely, one below the floor.
    base = np.log(np.array([1 - 1e-3 - 1e-9, 1e-3, 1e-9])).astype(np.float32)
    other = np.log(np.array([0.9, 0.05, 0.05])).astype(np.float32)
    for name, row in (("base", base), ("other", other)):
        np.tile(row, (_N_SCORED, 1)).tofile(tmp_path / name)
    values = _stored_kl(tmp_path / "base", tmp_path / "other", 1)
    assert values.shape == (1, 2 * _N_SCORED)
    by_hand = sum(math.exp(a) * (a - b) for a, b in zip(base[:2].tolist(), other[:2].tolist(), strict=True))
    assert values[0, 0] == pytest.approx(by_hand, abs=2e-6)
    assert values[0, _N_SCORED:].all()
