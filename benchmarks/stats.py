"""Medians, ratios and their intervals, and whether a target is met: pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.steps.bench.ratios import median_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """labctl over llama.cpp, over rounds taken in turn.

    Attributes:
        ours, theirs: medians of the two sides.
        value: median of the ratios within rounds; low and high: its 95 % interval, NaN with one round.
        n_rounds: how many rounds both sides have.
    """

    ours: float
    theirs: float
    value: float
    low: float
    high: float
    n_rounds: int


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare two sides measured in turn, as labctl compares two formats; element i of both belongs to round i.

    Args:
        ours, theirs: (n_rounds,) positive figures of the same kind.
    Raises:
        ValueError: different lengths, no rounds, or a figure that is not positive.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} rounds cannot be compared")
    if min((*ours, *theirs), default=0) <= 0:
        raise ValueError("only positive figures have a ratio")
    found = median_ratio([a / b for a, b in zip(ours, theirs, strict=True)])
    if found is None:
        raise ValueError("there are no rounds")
    low, high = (found.low, found.high) if math.isfinite(found.high) else (math.nan, math.nan)
    return Ratio(
        ours=statistics.median(ours),
        theirs=statistics.median(theirs),
        value=found.ratio,
        low=low,
        high=high,
        n_rounds=found.n_rounds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure has to be: at least `low` and at most `high`."""

    text: str
    low: float = -math.inf
    high: float = math.inf

    def met(self, value: float) -> bool:
        """A figure that is not there (NaN) meets nothing."""
        return self.low <= value <= self.high


PERPLEXITY_WALL = Target(text="at most 0.95", high=0.95)
PERPLEXITY_PEAK = Target(text="at most 0.80", high=0.8)
SPEED = Target(text="0.95 to 1.05", low=0.95, high=1.05)
AS_IT_COMES = Target(text="at most 0.25", high=0.25)
EARLY_SHARE = Target(text="at most 0.08 of the tokens", high=0.08)
SETTLED_SHARE = Target(text="under 0.30 of the tokens", high=0.3)
WRONG_STOPS = Target(text="at most 0.05", high=0.05)
LOOK_S = Target(text="under 1 ms", high=0.001)
KL_STORED = Target(text="within 0.00001 nats", high=1e-5)
"""llama-perplexity prints six decimals, and float32 sums in another order move the last of them."""
BUSY_RATIO = Target(text="within 0.05 of the idle machine's, or undecided", high=0.05)
BUSY_UNDISTURBED = Target(text="at most 1.05 of the idle machine's", high=1.05)
BUSY_PERPLEXITY = Target(text="at most 2.5 times the idle machine's", high=2.5)
PREDICTED = Target(text="within 0.15 for files larger than the cache", high=0.15)
AGAIN_WITHIN = Target(text="at least 0.95 of the pairs within 3 %", low=0.95)
AGAIN_COVERED = Target(text="at least 0.95 of the pairs", low=0.95)
AGAIN_WRONG = Target(text="none", high=0)
HELP_S = Target(text="under 0.3 s", high=0.3)
SECOND_RUN_S = Target(text="under 2 s", high=2.0)


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"
