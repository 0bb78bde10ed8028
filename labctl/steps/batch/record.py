"""What the batch step asks of its child, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import msgspec

from labctl.executors.base import Task
from labctl.records.base import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPoint:
    """So many sequences decoded side by side: seconds of each repetition for all prompts, and for all generation."""

    n_seq: int
    pp_s: tuple[float, ...]
    tg_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """Speed of one file with several sequences at once, as llama-batched-bench measures it.

    Attributes:
        cut: the time allowed was over: fewer repetitions than asked for, or fewer tokens, whose seconds are what all
            would have taken at that pace.
    """

    format: str
    n_threads: int
    n_prompt: int
    n_gen: int
    points: tuple[BatchPoint, ...]
    cut: bool = False
    provenance: Provenance

    def tg_tps(self, point: BatchPoint) -> float:
        """Generated tokens per second, all sequences together (median)."""
        return point.n_seq * self.n_gen / median(point.tg_s)

    def pp_tps(self, point: BatchPoint) -> float:
        """Prompt tokens per second, all sequences together (median)."""
        return point.n_seq * self.n_prompt / median(point.pp_s)


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """What a child timed; `cut` as in BatchRun."""

    points: tuple[BatchPoint, ...]
    cut: bool


class BatchTask(Task, frozen=True, kw_only=True):
    """Time several sequences side by side, for each number of them.

    Attributes:
        deadline_s: after so many seconds each number is timed once at most, and shortly.
    """

    name = "batch"
    work = "labctl.steps.batch.work:measure"

    n_prompt: int
    n_gen: int
    n_seqs: tuple[int, ...]
    n_reps: int
    deadline_s: float | None = None

    def n_ctx_open(self) -> int:
        return max(self.n_seqs, default=1) * (self.n_prompt + self.n_gen)
