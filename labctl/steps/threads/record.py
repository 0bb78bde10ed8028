"""What the threads step keeps."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.records.base import Provenance
from labctl.steps.bench.record import SpeedVisit


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSweep:
    """Speed of one file with different numbers of threads: number -> visits."""

    format: str
    n_prompt: int
    n_gen: int
    visits: dict[int, tuple[SpeedVisit, ...]]
    provenance: Provenance
