"""Stopping early: bounds of the increase that hold at every look at once, so that a run may end when they decide.

They answer one of two questions. About a text of N chunks, of which n were read in random order, everything is known
once n is N; about text like it, the N chunks are a sample, too, and some doubt stays.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labctl.lab.config import USUAL_LIMIT
from labctl.steps.intervals import ALPHA
from labctl.steps.perplexity.increase import Floats, Verdict, as_fraction, side_of

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

FUTILE_FROM = 60
"""No run is given up before so many chunks: the forecast hangs on a mean and a spread that fewer do not give."""


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


def settle(
    differences: Floats, n_text: float, limit: float = USUAL_LIMIT, alpha: float = ALPHA, burn_in: int = BURN_IN
) -> SequenceLook:
    """All looks so far taken together: the bounds hold at every look at once, so their intersection holds too.

    It may be called after every chunk, and the run may stop when it decides: a verdict that was settled once stays
    settled, whatever chunks are measured afterwards.

    Args:
        differences: (t,) float64, nats: chunk_differences in the shuffled order.
        n_text: chunks of the text that is asked about; infinity for text like it.
        limit: largest acceptable increase, as a fraction.
        alpha: accepted probability of ever stopping on the wrong side of the limit.
        burn_in: before this many chunks the verdict stays undecided, unless they are the whole text.
    Returns: the increase over all of them, and the tightest bounds of any look from the burn-in on; over the whole of
        the text that is asked about, or where it is infinite, the increase itself.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.size
    mean = as_fraction(float(values.mean())) if n else math.nan
    if n and (n == n_text or math.isinf(mean)):  # one infinite value makes the mean infinite, whatever comes
        return SequenceLook(n_chunks=n, increase=mean, low=mean, high=mean, verdict=side_of(mean, mean, limit))
    low, high = -1.0, math.inf
    if n >= max(burn_in, 2) and np.isfinite(values).all():
        lows, highs = _bounds_of_looks(values, n_text, alpha, TUNED_FOR, first=max(burn_in, 2))
        low, high = as_fraction(float(lows.max())), as_fraction(float(highs.min()))
    return SequenceLook(n_chunks=n, increase=mean, low=low, high=high, verdict=side_of(low, high, limit))


def confidence_sequence(differences: Floats, alpha: float = ALPHA, tuned_for: int = TUNED_FOR) -> tuple[float, float]:
    """Bounds of the increase on text like this one, from all chunks so far; they hold at every look at once.

    Args:
        differences: (t,) float64, nats: chunk_differences in the shuffled order.
        alpha: probability that the bounds are ever wrong.
        tuned_for: number of chunks at which they are narrowest.
    Returns: low and high, fractions; -1 and infinity while there are too few chunks to say.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2 or not np.isfinite(values).all():
        return -1.0, math.inf
    lows, highs = _bounds_of_looks(values, math.inf, alpha, tuned_for, first=values.size)
    return as_fraction(float(lows[0])), as_fraction(float(highs[0]))


def _bounds_of_looks(
    values: Floats, n_text: float, alpha: float, tuned_for: int, *, first: int
) -> tuple[Floats, Floats]:
    """Bounds of the mean, nats, at each look from the first on, from running moments."""
    n = np.arange(1, values.size + 1, dtype=np.float64)
    shift = values[0]  # moments about a value near the mean, or their differences would cancel
    moved = values - shift
    one, two, three = (np.cumsum(moved**power) / n for power in (1, 2, 3))
    variance = np.maximum(two - one**2, 0.0)
    central = three - 3 * one * two + 2 * one**3
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(variance > 0, central / variance**1.5, 0.0)
        sd = np.sqrt(variance * n / (n - 1))
    farthest = np.maximum(np.maximum.accumulate(moved) - one, one - np.minimum.accumulate(moved))
    moments = (x[first - 1 :] for x in (n, one, sd, skewness, farthest))
    low, high = sequence_bounds(*moments, n_text=n_text, alpha=alpha, tuned_for=tuned_for)
    return low + shift, high + shift


def sequence_bounds(
    n_chunks: Floats,
    mean: Floats,
    sd: Floats,
    skewness: Floats,
    farthest: Floats,
    *,
    n_text: float = math.inf,
    alpha: float = ALPHA,
    tuned_for: int = TUNED_FOR,
) -> tuple[Floats, Floats]:
    """Bounds of the mean difference from running moments, one of each a look.

    The radius assumes differences like normal ones. For skewed ones the mean of a few chunks sits on one side of the
    truth with too small a spread beside it; Hall's cubic transformation of the t statistic undoes this. Its estimate is
    itself unsteady under heavy tails, so each bound is the wider of the plain and the transformed one. And of a text
    that is nearly read, one chunk may still be as far out as the farthest so far: that much is added until all is read.

    Args:
        n_chunks: chunks read.
        mean, sd, farthest: of the differences, nats; sd with ddof 1, farthest from the mean.
        skewness: third central moment over the cube of the spread (ddof 0).
        n_text: chunks of the text that is asked about, more than n_chunks.
    Returns: low and high, nats.
    Source: Hall (1992), On the removal of skewness by transformation, J. R. Stat. Soc. B 54, 221-228.
    """
    worth = worth_of(n_chunks, n_text)
    radius = sequence_radius(n_chunks, worth, alpha, tuned_for)
    skew = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)
    with np.errstate(invalid="ignore"):  # infinite for the first few chunks
        up = 3 / skew * (np.cbrt(1 + skew * (radius - skew / (6 * worth))) - 1)
        down = 3 / skew * (np.cbrt(1 + skew * (-radius - skew / (6 * worth))) - 1)
        unread = farthest / n_text
        below = np.where(np.isinf(radius), np.inf, sd * np.fmax(radius, up) + unread)
        above = np.where(np.isinf(radius), np.inf, sd * np.fmax(radius, -down) + unread)
    return mean - below, mean + above


def worth_of(n_chunks: Floats | float, n_text: float) -> Floats:
    """How many chunks of an endless text would say as much about its mean as these say about the text's: n / (1 - n/N).

    Drawn without replacement, the sum of deviations runs like a Brownian bridge, back to nought at N; Doob's change of
    time makes of it a Brownian motion at this time, so that bounds for an endless text hold here too. This is a limit
    for many chunks, not a theorem for few. Simulated on 6,000 texts of 20 to 648 chunks with a look after each, wrong
    stops at alpha 0.05 are 0.3 to 3 % for normal, 2 to 3 % for Student t (3 degrees of freedom), 3 to 4 % for
    exponential and 3 to 4.4 % for lognormal differences of skewness 2.3; at skewness 6.2 they reach 9 %.

    Source: Doob (1949), Heuristic approach to the Kolmogorov-Smirnov theorems, Ann. Math. Stat. 20, 393-403; that
        sampling without replacement tends to the bridge: Rosen (1964), Ark. Mat. 5, 383-424.
    """
    worth: Floats = np.asarray(n_chunks / (1 - np.asarray(n_chunks, dtype=np.float64) / n_text))
    return worth


def sequence_radius(
    n_chunks: Floats | float, worth: Floats | float, alpha: float = ALPHA, tuned_for: int = TUNED_FOR
) -> Floats:
    """Half width of the confidence sequence, in standard deviations (ddof 1) of the differences.

    The asymptotic sequence takes the estimated spread for the true one and stops too early: with normal differences
    and a look after every chunk from the 5th on, it errs on 7 % of texts. Its exact form for normal differences of
    unknown spread has the same mixture and the same limit, but is wider at first (1.6 times at 12 chunks, 1.04 times
    at 60).

    Args:
        n_chunks: number of chunks, any shape: they give the spread.
        worth: how many chunks of an endless text they are worth for the mean, as worth_of says.
        alpha: probability that the sequence is ever wrong.
        tuned_for: number of chunks at which it is narrowest.
    Returns: the shape of n_chunks; infinite for the first few chunks.
    Source: Wang, Ramdas (2023), arXiv 2310.03722, t-test martingale with a Gaussian mixture. Its limit and the choice
        of the mixture (rho^2): Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2021), arXiv 2103.06476, Theorem 2.2 and
        the appendix on optimizing Robbins' normal mixture.
    """
    n, time = np.asarray(n_chunks, dtype=np.float64), np.asarray(worth, dtype=np.float64)
    two_log = -2 * math.log(alpha)
    rho2 = (two_log + math.log(two_log + 1)) / tuned_for
    shrink = 1 / (time * rho2 + 1)
    level = (alpha**2 * shrink) ** (1 / n)
    room = level - shrink  # not positive for the first few chunks: there is no bound yet
    squared = (1 - level) * (n - 1) / time / np.where(room > 0, room, 1)
    radius: Floats = np.where(room > 0, np.sqrt(squared), np.inf)
    return radius


# -- what a verdict would cost ----------------------------------------------------------------------------------------


def chunks_to_settle(differences: Floats, n_text: int, limit: float = USUAL_LIMIT) -> int:
    """How many chunks in all would settle the verdict on this text, if the rest is like those measured so far.

    Args:
        differences: (t,) float64, nats, two at least: chunk_differences in the shuffled order.
        n_text: chunks of the text; all of them settle any verdict.
    """
    distance = abs(float(differences.mean()) - math.log1p(limit))
    n = np.arange(differences.size, n_text, dtype=np.float64)
    settled = sequence_radius(n, worth_of(n, n_text)) * float(differences.std(ddof=1)) < distance
    return int(n[settled.argmax()]) if settled.any() else n_text


def is_futile(differences: Floats, n_text: int, limit: float, patience: float) -> bool:
    """Whether a verdict on this text is forecast to take more than `patience` times the chunks read so far.

    Giving up claims nothing, and the bounds hold whenever a run ends, so no verdict becomes less sure by it. On the
    differences of three quantizations of a small model on WikiText-2 (80 orders of its 648 chunks, patience 4), an
    increase of 2.08 % is left open against a limit of 2 % in 80 % of orders, after 121 chunks on average instead of
    468; verdicts that need about 50 chunks are lost in 1 to 3 %.

    Source: the idea, not the rule: Lan, Simon, Halperin (1982), Stochastically curtailed tests in long-term clinical
        trials, Sequential Analysis 1, 207-219.
    """
    return (
        differences.size >= FUTILE_FROM and chunks_to_settle(differences, n_text, limit) > patience * differences.size
    )
