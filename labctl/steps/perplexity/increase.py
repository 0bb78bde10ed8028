"""Paired increase of perplexity over the baseline: its interval over chunks, and the verdict against a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from labctl.errors import LabError
from labctl.lab.config import USUAL_LIMIT
from labctl.steps.intervals import ALPHA

Floats = npt.NDArray[np.float64]
Verdict = Literal["pass", "fail", "undecided"]


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


def paired_increase(nll: Floats, nll_base: Floats, confidence: float = 1 - ALPHA) -> Increase:
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


def mean_interval(values: Floats, confidence: float = 1 - ALPHA) -> tuple[float, float, float]:
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


def verdict(increase: Increase, limit: float = USUAL_LIMIT) -> Verdict:
    """Pass if the whole interval lies under the limit, fail if above it, undecided otherwise."""
    return side_of(increase.low, increase.high, limit)


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
