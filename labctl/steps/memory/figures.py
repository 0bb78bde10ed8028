"""Figures of the memory step."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.steps.measured import Measured
from labctl.steps.memory.record import plain_load
from labctl.steps.memory.step import MEMORY


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """Peak memory of a process that computes with one file.

    Attributes:
        peak_rss_bytes: with mmap off, the headline.
        peak_rss_mmap_bytes: with mmap on; None where that was not measured.
        n_ctx: tokens of context that it was measured at.
    """

    peak_rss_bytes: int
    peak_rss_mmap_bytes: int | None
    kv_bytes: int
    n_ctx: int


def memory_figures(records: Measured) -> dict[str, MemoryFigures]:
    """Format -> its figures, where a load with mmap off was measured."""
    return {
        name: MemoryFigures(
            peak_rss_bytes=plain.peak_rss_bytes,
            peak_rss_mmap_bytes=next((load.peak_rss_bytes for load in run.loads if load.mmap), None),
            kv_bytes=plain.kv_bytes,
            n_ctx=run.n_ctx,
        )
        for name, run in records.of(MEMORY).items()
        if (plain := plain_load(run)) is not None
    }
