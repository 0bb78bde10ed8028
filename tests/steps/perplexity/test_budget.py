"""A time budget is spent where it decides most: simulated labs, against as many chunks for every format."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from labctl.steps.perplexity.adaptive import block_end, next_block
from labctl.steps.perplexity.increase import Floats
from labctl.steps.perplexity.record import COMMON_CHUNKS
from labctl.steps.perplexity.sequence import settle

N_TEXT = 648
LIMIT = 0.02


def lab_of(rng: np.random.Generator) -> dict[str, Floats]:
    """Chunk differences of six formats: increases from next to nothing to a fifth, each with its own spread."""
    means = np.log1p(rng.uniform(0.0, 1.0, 6) ** 2 * 0.2)
    return {f"format {n}": rng.normal(mean, 0.006 + 0.5 * mean, N_TEXT) for n, mean in enumerate(means)}


def verdicts(differences: Mapping[str, Floats], counts: Mapping[str, int]) -> list[str]:
    return [settle(values[: counts[name]], N_TEXT, LIMIT).verdict for name, values in differences.items()]


def by_next_block(differences: Mapping[str, Floats], budget: int) -> list[str]:
    """As the adaptive run reads: the common chunks, then block by block, each until its verdict stands."""
    counts, n_base = dict.fromkeys(differences, COMMON_CHUNKS), COMMON_CHUNKS
    left = budget - COMMON_CHUNKS * (len(differences) + 1)
    while left > 0:
        read = {name: values[: min(counts[name], n_base)] for name, values in differences.items()}
        block = next_block(read, N_TEXT, LIMIT, math.inf)
        if block is None:
            break
        name, size = block
        grown = min(max(0, size - n_base), left)
        n_base, left = n_base + grown, left - grown
        while left > 0 and counts[name] < min(size, n_base):
            counts[name] += 1
            left -= 1
            if settle(differences[name][: counts[name]], N_TEXT, LIMIT).verdict != "undecided":
                break
    return verdicts(differences, counts)


def test_blocks_end_at_the_same_chunks_wherever_a_run_was_killed() -> None:
    """Or what the baseline reads, and with it every figure, would hang on the moment of the kill."""
    assert [block_end(n) for n in (1, 12, 13, 18, 19, 27, 28, 41, 42)] == [12, 12, 18, 18, 27, 27, 41, 41, 62]
    rng = np.random.default_rng(5)
    open_ = {"Q8_0": rng.normal(0.02, 0.05, 400)}
    for n in (13, 15, 17):
        assert next_block({"Q8_0": open_["Q8_0"][:n]}, N_TEXT, LIMIT, math.inf) == ("Q8_0", 18)
    assert next_block({"Q8_0": open_["Q8_0"][:18]}, N_TEXT, LIMIT, math.inf) == ("Q8_0", 27)


@pytest.mark.parametrize("budget", [150, 250, 400])
def test_more_verdicts_are_settled_than_by_an_even_split(budget: int) -> None:
    rng = np.random.default_rng(budget)
    n_ours, n_even, n_worse, n_labs = 0, 0, 0, 60
    for _ in range(n_labs):
        differences = lab_of(rng)
        truth = ["pass" if math.expm1(values.mean()) < LIMIT else "fail" for values in differences.values()]
        ours = by_next_block(differences, budget)
        even = verdicts(differences, dict.fromkeys(differences, budget // 7))
        right = [sum(a == b for a, b in zip(found, truth, strict=True)) for found in (ours, even)]
        n_ours, n_even = n_ours + right[0], n_even + right[1]
        n_worse += right[0] < right[1]
    assert n_ours > n_even + 0.15 * (6 * n_labs - n_even)  # of those left open, at least so many
    assert n_worse <= 0.05 * n_labs
