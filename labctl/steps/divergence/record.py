"""What the divergence step asks of its child, and what it keeps."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from labctl.records.base import Provenance
from labctl.records.sources import TextSource
from labctl.steps.perplexity.record import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceRun:
    """How far a file's predictions are from the baseline's on the same tokens.

    Attributes:
        chunks: as in PerplexityRun.
        values_path: .npy, (n_chunks_text, 2 n_scored) float64: each token's divergence in nats, then 1 or 0 for the
            same top token; NaN rows were not compared. Relative to the outputs folder.
        kld_mean, kld_median, kld_p90, kld_p99, kld_max: Kullback-Leibler divergence KL(baseline || file), nats a token.
        same_top_p: share of tokens at which both find the same token most likely, 0..1.
        *_low, *_high: 95 % intervals clustered by chunk.
    """

    format: str
    text: TextSource
    n_ctx: int
    n_chunks: int
    n_tokens: int
    chunks: tuple[tuple[int, int], ...]
    values_path: str
    kld_mean: float
    kld_mean_low: float
    kld_mean_high: float
    kld_median: float
    kld_p90: float
    kld_p99: float
    kld_max: float
    same_top_p: float
    same_top_low: float
    same_top_high: float
    provenance: Provenance

    @property
    def same_top_pct(self) -> float:
        return 100 * self.same_top_p

    @property
    def same_top_low_pct(self) -> float:
        return 100 * self.same_top_low

    @property
    def same_top_high_pct(self) -> float:
        return 100 * self.same_top_high


class SpoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Where the baseline's probabilities are kept, and how far a file is from them.

    Attributes:
        spool_path: log-probabilities, float32 (n_rows, n_scored, n_vocab), a row for each of the first n_rows chunks in
            the order of the visit, with a list of the rows written beside it; the baseline writes it, others read.
        compared: chunks that are there already, in [start, stop) ranges. Each further one is sent as a row of "kl":
            (2 n_scored,) float64, divergences, then 1 or 0 for the same top token.
        optional: a disk that fills up ends the comparison, not the measurement beside it.
    """

    spool_path: str
    n_rows: int
    is_baseline: bool
    compared: tuple[tuple[int, int], ...] = ()
    optional: bool = False

    def part(self) -> Part:
        """This plan as a part of the perplexity task."""
        return Part(watch="labctl.steps.divergence.work:watch", plan=msgspec.Raw(msgspec.json.encode(self)))


def list_path(spool: Path) -> Path:
    """Where the list of a spool's rows is."""
    return spool.with_name(spool.name + ".rows")


def remove_spool(spool: Path) -> None:
    """Take a spool from the disk, as far as that is possible now; the next run sweeps."""
    for path in (spool, list_path(spool)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
