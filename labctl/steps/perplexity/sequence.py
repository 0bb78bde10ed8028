"""Stopping early: bounds of the increase that hold at every look at once, so that a run may end when they decide."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labctl.steps.perplexity.increase import DEFAULT_LIMIT, Floats, Verdict, as_fraction, side_of

DEFAULT_ALPHA = 0.05
BURN_IN = 10
"""No stop before this many chunks.

The bounds hold from the second chunk on for normal differences; the first stops are where skewed ones would go wrong.
"""
TUNED_FOR = 60
"""The number of chunks at which the confidence sequence is narrowest: a tenth of WikiText-2's test split.

Simulated over 600 chunks with a look after each and the true increase at the limit, wrong stops at alpha 0.05 are 2 %
for Student t (3 degrees of freedom), 3 % for normal, and 4 % for exponential and for lognormal differences of skewness
2.3; at skewness 3.3 they reach 5.3 %, at 6.2 8 %. Six quantizations of a small model on WikiText-2 had at most 1.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLook:
    """What a look at the chunks so far says; low and high hold at every look at once, so stopping on them is fair."""

    n_chunks: int
    increase: float
    low: float
    high: float
    verdict: Verdict


def shuffled_chunks(n_chunks: int, seed: int) -> npt.NDArray[np.int64]:
    """The order in which chunks are visited when a run may stop early; the same for all formats of a lab.

    Neighbouring chunks come from one article and resemble each other; shuffled, the first ones stand for the text.
    Sorting by Python's random() keeps the order fixed for good: its stream for an integer seed is promised not to
    change between versions, unlike that of shuffle() or of numpy's generators.

    Returns: (n_chunks,) int64, each of 0 .. n_chunks - 1 once.
    """
    stream = random.Random(seed)
    keys = [stream.random() for _ in range(n_chunks)]
    return np.array(sorted(range(n_chunks), key=keys.__getitem__), dtype=np.int64)


def look(
    differences: Floats,
    limit: float = DEFAULT_LIMIT,
    alpha: float = DEFAULT_ALPHA,
    burn_in: int = BURN_IN,
    tuned_for: int = TUNED_FOR,
) -> SequenceLook:
    """Look at the chunks measured so far; it may be called after every chunk, and the run may stop when it decides.

    Args:
        differences: (t,) float64, nats: chunk_differences in the shuffled order.
        limit: largest acceptable increase, as a fraction.
        alpha: accepted probability of ever stopping on the wrong side of the limit.
        burn_in: before this many chunks the verdict stays undecided.
        tuned_for: as for confidence_sequence.
    Returns: the increase, its bounds and the verdict. A text that ends undecided is judged by paired_increase.
    """
    low, high = confidence_sequence(differences, alpha, tuned_for)
    return SequenceLook(
        n_chunks=len(differences),
        increase=as_fraction(float(np.mean(differences))) if len(differences) else math.nan,
        low=low,
        high=high,
        verdict=side_of(low, high, limit) if len(differences) >= burn_in else "undecided",
    )


def settle(
    differences: Floats,
    limit: float = DEFAULT_LIMIT,
    alpha: float = DEFAULT_ALPHA,
    burn_in: int = BURN_IN,
    tuned_for: int = TUNED_FOR,
) -> SequenceLook:
    """All looks so far taken together: the bounds hold at every look at once, so their intersection holds too.

    A verdict that was settled once stays settled, whatever chunks are measured afterwards.

    Args:
        differences: (t,) float64, nats: chunk_differences in the shuffled order.
        limit, alpha, burn_in, tuned_for: as for look.
    Returns: the increase over all of them, and the tightest bounds of any look from the burn-in on.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < max(burn_in, 2) or not np.isfinite(values).all():
        return look(values, limit, alpha, burn_in, tuned_for)
    n = np.arange(1, values.size + 1, dtype=np.float64)
    shift = values[0]  # moments about a value near the mean, or their differences would cancel
    moved = values - shift
    first, second, third = (np.cumsum(moved**power) / n for power in (1, 2, 3))
    variance = np.maximum(second - first**2, 0.0)
    central = third - 3 * first * second + 2 * first**3
    seen = slice(max(burn_in, 2) - 1, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(variance > 0, central / variance**1.5, 0.0)[seen]
    sd = np.sqrt(variance[seen] * n[seen] / (n[seen] - 1))
    lows, highs = sequence_bounds(n[seen], first[seen] + shift, sd, skewness, alpha, tuned_for)
    low, high = as_fraction(float(lows.max())), as_fraction(float(highs.min()))
    return SequenceLook(
        n_chunks=values.size,
        increase=as_fraction(float(values.mean())),
        low=low,
        high=high,
        verdict=side_of(low, high, limit),
    )


def confidence_sequence(
    differences: Floats, alpha: float = DEFAULT_ALPHA, tuned_for: int = TUNED_FOR
) -> tuple[float, float]:
    """Bounds of the increase that hold at every look at once with probability 1 - alpha.

    Args:
        differences: (t,) float64, nats: chunk_differences in the shuffled order.
        alpha: probability that the bounds are ever wrong.
        tuned_for: number of chunks at which they are narrowest.
    Returns: low and high, fractions; -1 and infinity while there are too few chunks to say.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2 or not np.isfinite(values).all():
        return -1.0, math.inf
    mean, sd = values.mean(), values.std(ddof=1)
    spread = values.std()
    skewness = ((values - mean) ** 3).mean() / spread**3 if spread > 0 else 0.0
    low, high = sequence_bounds(np.float64(values.size), mean, sd, skewness, alpha, tuned_for)
    return as_fraction(float(low)), as_fraction(float(high))


def sequence_bounds(
    n_chunks: Floats | np.float64,
    mean: Floats | np.float64,
    sd: Floats | np.float64,
    skewness: Floats | np.float64 | float,
    alpha: float = DEFAULT_ALPHA,
    tuned_for: int = TUNED_FOR,
) -> tuple[Floats, Floats]:
    """Bounds of the mean difference from running moments, for arrays of looks as well as for one.

    The radius assumes differences like normal ones. For skewed ones the mean of a few chunks sits on one side of the
    truth with too small a spread beside it; Hall's cubic transformation of the t statistic undoes this. Its estimate is
    itself unsteady under heavy tails, so each bound is the wider of the plain and the transformed one.

    Args:
        n_chunks: number of chunks, any shape; the others broadcast against it.
        mean, sd: of the differences, nats; sd with ddof 1.
        skewness: third central moment over the cube of the spread (ddof 0).
    Returns: low and high, nats.
    Source: Hall (1992), On the removal of skewness by transformation, J. R. Stat. Soc. B 54, 221-228.
    """
    radius = sequence_radius(n_chunks, alpha, tuned_for)
    skew = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)
    up = 3 / skew * (np.cbrt(1 + skew * (radius - skew / (6 * n_chunks))) - 1)
    down = 3 / skew * (np.cbrt(1 + skew * (-radius - skew / (6 * n_chunks))) - 1)
    open_ended = np.isinf(radius)
    below = np.where(open_ended, np.inf, sd * np.where(open_ended, 1, np.maximum(radius, up)))
    above = np.where(open_ended, np.inf, sd * np.where(open_ended, 1, np.maximum(radius, -down)))
    return mean - below, mean + above


def sequence_radius(n_chunks: Floats | np.float64, alpha: float, tuned_for: int) -> Floats:
    """Half width of the confidence sequence, in standard deviations (ddof 1) of the differences.

    The asymptotic sequence takes the estimated spread for the true one and stops too early: with normal differences
    and a look after every chunk from the 5th on, it errs on 7 % of texts. Its exact form for normal differences of
    unknown spread has the same mixture and the same limit, but is wider at first (1.6 times at 12 chunks, 1.04 times
    at 60). Chunks are drawn without replacement from a finite text, which only makes errors rarer; no correction
    narrows the bounds for it, because the interval over all chunks takes them as a sample, too.

    Args:
        n_chunks: number of chunks, any shape.
        alpha: probability that the sequence is ever wrong.
        tuned_for: number of chunks at which it is narrowest.
    Returns: the shape of n_chunks; infinite for the first few chunks.
    Source: Wang, Ramdas (2023), arXiv 2310.03722, t-test martingale with a Gaussian mixture. Its limit and the choice
        of the mixture (rho^2): Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2021), arXiv 2103.06476, Theorem 2.2 and
        the appendix on optimizing Robbins' normal mixture.
    """
    n = np.asarray(n_chunks, dtype=np.float64)
    two_log = -2 * math.log(alpha)
    rho2 = (two_log + math.log(two_log + 1)) / tuned_for
    shrink = 1 / (n * rho2 + 1)
    level = (alpha**2 * shrink) ** (1 / n)
    room = level - shrink  # not positive for the first few chunks: there is no bound yet
    squared = (1 - level) * (n - 1) / n / np.where(room > 0, room, 1)
    radius: Floats = np.where(room > 0, np.sqrt(squared), np.inf)
    return radius
