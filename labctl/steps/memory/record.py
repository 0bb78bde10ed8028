"""What the memory step asks of its child, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.executors.base import Task
from labctl.records.base import Provenance

N_GEN = 16
"""Tokens generated: the peak stands once the prompt is read, and 128 tokens after it changed it by not one kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLoad:
    """Peak memory of one fresh process that loaded a file, read a prompt and generated text.

    Attributes:
        peak_rss_bytes: high-water mark of resident memory: VmHWM on Linux.
        start_rss_bytes: resident before the model was opened (Python and llama.cpp's libraries).
        anonymous_bytes, file_bytes: parts of resident memory after the work, where the system tells.
        model_bytes: llama.cpp's own buffers for weights, by name ("CPU_Mapped", "CPU", "CPU_REPACK", ...).
        kv_bytes, compute_bytes, output_bytes: llama.cpp's buffers for cache, graph and logits.
    """

    mmap: bool
    peak_rss_bytes: int
    start_rss_bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None
    model_bytes: dict[str, int]
    kv_bytes: int
    compute_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRun:
    """Memory of one file at one context size; loads[0] has mmap off and is the headline."""

    format: str
    n_ctx: int
    n_threads: int
    loads: tuple[MemoryLoad, ...]
    provenance: Provenance

    @property
    def peak_rss_bytes(self) -> int:
        return next(load.peak_rss_bytes for load in self.loads if not load.mmap)


def plain_load(run: MemoryRun | None) -> MemoryLoad | None:
    """The load with mmap off: a mapped file's pages count or do not, as the system likes."""
    return None if run is None else next((load for load in run.loads if not load.mmap), None)


class MemoryTask(Task, frozen=True, kw_only=True):
    """One load: mmap on or off."""

    name = "memory"
    work = "labctl.steps.memory.work:measure"

    n_ctx: int
    mmap: bool

    def n_ctx_open(self) -> int:
        return max(self.n_ctx, 1024)
