"""Paired increase of perplexity over the baseline: its interval over chunks, and the verdict against a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from labctl.errors import LabError

Floats = npt.NDArray[np.float64]
Verdict = Literal["pass", "fail", "undecided"]

DEFAULT_LIMIT = 0.02
_MOST_CHUNKS = 1_000_000
_MOST_TIMES_MORE = (
    100  # beyond this the distance to the limit is under a tenth of the half width: noise, not a forecast
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Increase:
    """Increase of perplexity over the baseline, as fractions: 0.02 is 2 %.

    Attributes:
        increase: exp(mean d) - 1, where d is a chunk's mean difference of negative log-likelihood.
        low, high: confidence interval; -1 and infinity where one chunk leaves it open.
        n_chunks: chunks that both files were measured on.
        sd: standard deviation of d over the chunks, nats; NaN for one chunk.
    """

    increase: float
    low: float
    high: float
    n_chunks: int
    sd: float


def chunk_differences(nll: Floats, nll_base: Floats) -> Floats:
    """Mean difference of negative log-likelihood per chunk, over the chunks that both files were measured on.

    Args:
        nll: (n_chunks, n_tokens) float64, nats; a row with a NaN was not measured.
        nll_base: the same chunks and tokens of the baseline.
    Returns: (n_chunks measured in both,) float64, nats per token.
    Raises:
        LabError: the two were measured on different texts or chunk sizes.
    """
    nll, nll_base = np.asarray(nll, dtype=np.float64), np.asarray(nll_base, dtype=np.float64)
    if nll.shape != nll_base.shape or nll.ndim != 2:
        raise LabError(
            f"Cannot pair measurements of shape {nll.shape} and {nll_base.shape} (chunks, tokens).",
            "Measure both files on the same text with the same context size.",
        )
    measured = ~(np.isnan(nll).any(axis=1) | np.isnan(nll_base).any(axis=1))
    with np.errstate(invalid="ignore"):  # infinite in both: no difference can be told, and NaN says so
        differences: Floats = (nll[measured] - nll_base[measured]).mean(axis=1)
    return differences


def paired_increase(nll: Floats, nll_base: Floats, confidence: float = 0.95) -> Increase:
    """Increase of perplexity with its t interval over chunks (tokens inside a chunk are not independent).

    Args:
        nll, nll_base: as for chunk_differences.
        confidence: of the two-sided interval, between 0 and 1.
    Returns: the increase; with one chunk its interval is open on both sides.
    Raises:
        LabError: no chunk was measured for both files.
    """
    differences = chunk_differences(nll, nll_base)
    if not differences.size:
        raise LabError("No chunk of the text was measured for both files.", "Run labctl perplexity for both.")
    mean, sd, half = mean_interval(differences, confidence)
    return Increase(
        increase=as_fraction(mean),
        low=as_fraction(mean - half),
        high=as_fraction(mean + half),
        n_chunks=differences.size,
        sd=sd,
    )


def mean_interval(values: Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values with Student's interval.

    Args:
        values: (n,) float64, at least one.
        confidence: of the two-sided interval.
    Returns: mean, standard deviation (ddof 1) and half width; the last two of a single value are NaN and infinity.
    """
    mean = float(values.mean())
    if math.isinf(mean):
        return mean, math.nan, 0.0  # one infinite value makes the mean infinite, whatever the others are
    if values.size < 2 or math.isnan(mean):
        return mean, math.nan, math.inf
    sd = float(values.std(ddof=1))
    return mean, sd, _t_quantile(values.size - 1, confidence) * sd / math.sqrt(values.size)


def verdict(increase: Increase, limit: float = DEFAULT_LIMIT) -> Verdict:
    """Pass if the whole interval lies under the limit, fail if above it, undecided otherwise."""
    return side_of(increase.low, increase.high, limit)


def chunks_needed(increase: Increase, limit: float = DEFAULT_LIMIT) -> int | None:
    """How many chunks in all it would likely take until the 95 % interval clears the limit.

    Args:
        increase: what was measured so far; its spread and distance to the limit are taken as they are.
        limit: largest acceptable increase, as a fraction.
    Returns: number of chunks, at least 2; None if the estimate sits too close to the limit to say.
    """
    if increase.n_chunks < 2 or not (-1 < increase.increase < math.inf and math.isfinite(increase.sd)):
        return None
    distance = abs(math.log1p(increase.increase) - math.log1p(limit))
    low, high = 1, min(_MOST_CHUNKS, _MOST_TIMES_MORE * increase.n_chunks)
    if not _clears(high, increase.sd, distance):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _clears(middle, increase.sd, distance) else (middle, high)
    return high


def _clears(n_chunks: int, sd: float, distance: float) -> bool:
    return n_chunks > 1 and _t_quantile(n_chunks - 1, 0.95) * sd / math.sqrt(n_chunks) < distance


def side_of(low: float, high: float, limit: float) -> Verdict:
    """Where an interval lies: pass under the limit, fail above it, else undecided."""
    if high < limit:
        return "pass"
    return "fail" if low > limit else "undecided"


def as_fraction(log_ratio: float) -> float:
    """A difference of log-perplexities, nats, as an increase: 0.02 is 2 %."""
    return math.inf if log_ratio > 700 else math.expm1(log_ratio)  # beyond 709 expm1 raises


def _t_quantile(df: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + confidence / 2))
