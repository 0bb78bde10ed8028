"""How far a file's predictions are from the baseline's: KL divergence and agreement of the top token, on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labctl.errors import LabError
from labctl.steps.perplexity.increase import mean_interval

Float32s = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_BLOCK_VALUES = 32_768  # 256 KiB as float64: a block and its exponentials stay in the processor's second-level cache


@dataclass(frozen=True, slots=True, kw_only=True)
class KlSummary:
    """KL divergence from the baseline and top-token agreement over the tokens of some chunks.

    Attributes:
        n_chunks, n_tokens: what was measured; chunks with a NaN are left out.
        mean, median, p90, p99, max: of KL(baseline || file) over tokens, nats per token.
        mean_low, mean_high: 95 % interval of the mean; 0 and infinity for one chunk.
        same_top_p: share of positions where both files put the same token first, 0 to 1, with its 95 % interval.

    Both intervals are t intervals over chunk means: tokens inside a chunk are not independent.
    """

    n_chunks: int
    n_tokens: int
    mean: float
    mean_low: float
    mean_high: float
    median: float
    p90: float
    p99: float
    max: float
    same_top_p: float
    same_top_low: float
    same_top_high: float


def log_softmax_rows(logits: Float32s, out: Float32s | None = None) -> Float32s:
    """Log-probabilities of each row, normalised in float64 and stored as float32.

    Args:
        logits: (n, n_vocab) float32, unnormalised.
        out: where to put the result; may be logits itself. A new array if not given.
    Returns: (n, n_vocab) float32, nats.
    Source: llama.cpp tools/perplexity/perplexity.cpp, log_softmax.
    """
    result = np.empty(logits.shape, dtype=np.float32) if out is None else out
    for rows in _blocks(*logits.shape):
        result[rows] = _log_softmax(logits[rows])
    return result


def kl_rows(logp_base: Float32s, logits: Float32s) -> Floats:
    """KL(baseline || file) of the next-token distribution at each position.

    llama.cpp leaves out tokens whose base log-probability is under -16 and reads the base from a 16-bit file; here
    every token counts and both sides are normalised in float64, so equal inputs give exactly 0.

    Args:
        logp_base: (n, n_vocab) float32, the baseline's log-probabilities or logits.
        logits: (n, n_vocab) float32, the file's logits or log-probabilities.
    Returns: (n,) float64, nats, not negative.
    Raises:
        LabError: the two files have different vocabularies.
    Source: llama.cpp tools/perplexity/perplexity.cpp, log_softmax with base_log_prob and kl_divergence.
    """
    if logp_base.shape != logits.shape:
        raise LabError(
            f"Cannot compare predictions of shape {logp_base.shape} and {logits.shape} (positions, vocabulary).",
            "Compare a file with the baseline it was made from.",
        )
    kl = np.empty(logits.shape[0], dtype=np.float64)
    for rows in _blocks(*logits.shape):
        base, other = _shifted(logp_base[rows]), _shifted(logits[rows])
        weights = np.exp(other)
        offset = np.log(weights.sum(axis=1))
        np.exp(base, out=weights)
        total = weights.sum(axis=1)
        with np.errstate(invalid="ignore"):  # a token impossible in both files: -inf - -inf
            base -= other
            sums = np.einsum("ij,ij->i", weights, base)
        for row in np.flatnonzero(np.isnan(sums)):
            possible = weights[row] > 0
            sums[row] = weights[row, possible] @ base[row, possible]
        kl[rows] = sums / total + (offset - np.log(total))
    # The sum's rounding can leave -1e-17 where the divergence is 0.
    return np.maximum(kl, 0, out=kl)


def same_top(logp_base: Float32s, logits: Float32s) -> Bools:
    """Whether both files put the same token first; on a tie the token with the lower number counts as first.

    Args:
        logp_base, logits: (n, n_vocab) float32; logits or log-probabilities.
    Returns: (n,) bool.
    Source: llama.cpp tools/perplexity/perplexity.cpp, log_softmax (imax == imax_base).
    """
    same: Bools = logp_base.argmax(axis=1) == logits.argmax(axis=1)
    return same


def summarise(kl: Floats, same_top: Bools) -> KlSummary:
    """Mean, quantiles and intervals over the chunks that were measured.

    Args:
        kl: (n_chunks, n_tokens) float64, nats; a row with a NaN was not measured.
        same_top: (n_chunks, n_tokens) bool.
    Returns: the summary; percentiles interpolate linearly between the sorted values, as llama.cpp's do.
    Raises:
        LabError: the shapes differ or no chunk was measured.
    Source: llama.cpp tools/perplexity/perplexity.cpp, kl_divergence. Its intervals take tokens as independent.
    """
    if kl.shape != same_top.shape or kl.ndim != 2:
        raise LabError(
            f"Cannot summarise KL divergence of shape {kl.shape} with top tokens of shape {same_top.shape}.",
            "Both come from the same chunks: measure the divergence again.",
        )
    measured = ~np.isnan(kl).any(axis=1)
    kl, same_top = kl[measured], same_top[measured]
    if not kl.size:
        raise LabError("No chunk of the text was compared with the baseline.", "Measure the divergence again.")
    mean, _, half = mean_interval(kl.mean(axis=1))
    share, _, share_half = mean_interval(same_top.mean(axis=1))
    median, p90, p99 = np.percentile(kl, (50, 90, 99))
    return KlSummary(
        n_chunks=kl.shape[0],
        n_tokens=kl.size,
        mean=mean,
        mean_low=max(0.0, mean - half),
        mean_high=mean + half,
        median=float(median),
        p90=float(p90),
        p99=float(p99),
        max=float(kl.max()),
        same_top_p=share,
        same_top_low=max(0.0, share - share_half),
        same_top_high=min(1.0, share + share_half),
    )


def _blocks(n_rows: int, n_vocab: int) -> Iterator[slice]:
    step = max(1, _BLOCK_VALUES // max(1, n_vocab))
    return (slice(start, start + step) for start in range(0, n_rows, step))


def _shifted(logits: Float32s) -> Floats:
    """Each row less its largest value."""
    shifted: Floats = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    return shifted


def _log_softmax(logits: Float32s) -> Floats:
    shifted = _shifted(logits)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
