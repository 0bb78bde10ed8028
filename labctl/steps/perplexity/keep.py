"""The chunks of a perplexity task, kept as they come; the task is told to stop once they are enough."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from labctl.errors import LabError
from labctl.executors.base import OnRows, Rows
from labctl.records.arrays import ArrayJournal, FloatArray, to_ranges
from labctl.records.base import Provenance
from labctl.records.disk import write_bytes
from labctl.steps.perplexity.record import PerplexityRun, PerplexityTask, Rider, Scored, n_scored
from labctl.steps.perplexity.scorer import chunk_order, load_tokens, perplexity

Enough = Callable[[FloatArray], bool]
"""Whether the chunks visited so far suffice, by their NLL: (n_visited, n_scored), nats."""

_ROOM_TRIES, _ROOM_WAIT_S = 20, 0.1


class Run(Protocol):
    """Runs a task and hands over its rows."""

    def __call__(self, task: PerplexityTask, kind: type[Scored], /, *, on_rows: OnRows) -> Scored: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a text's figures are kept.

    Attributes:
        nll: the .npy file; `shown` as the record says it.
        tokens: .npy of the text's token ids, the same for all formats of a model; None not to keep them.
    """

    nll: Path
    shown: str
    tokens: Path | None = None


def measure(
    run: Run,
    task: PerplexityTask,
    place: Place,
    provenance: Provenance,
    *,
    enough: Enough | None = None,
    rider: Rider | None = None,
) -> PerplexityRun:
    """Measure what is missing of a format's chunks, keep each as it comes, and say what all of them together give.

    Args:
        enough: asked after each chunk whether to leave the rest.
        rider: another step that looks at the logits on the way.
    Raises:
        LabError: the task failed, or the disk refuses.
    """
    kept = _Kept(task, place, enough, rider)
    task = msgspec.structs.replace(
        task,
        measured=to_ranges(kept.nll.rows),
        tokens_path=str(place.tokens) if kept.order else "",
        rider=None if rider is None else rider.part,
    )
    try:
        scored = run(task, Scored, on_rows=kept.take)
    except BaseException:
        with contextlib.suppress(LabError):
            kept.finish()
        raise
    with task.naming():
        kept.finish()
    # A shuffled visit takes along what earlier runs measured further on; a fixed one is what was asked for.
    wanted = kept.order[: task.n_first] if task.order_seed is None else kept.order
    chunks = list(itertools.takewhile(lambda chunk: chunk in kept.nll.rows, wanted))
    ppl, ppl_se = perplexity(kept.values(chunks))
    return PerplexityRun(
        format=task.format,
        text=task.text,
        n_ctx=task.n_ctx,
        n_chunks_text=len(kept.order),
        n_scored_per_chunk=n_scored(task.n_ctx),
        chunks=to_ranges(chunks),
        nll_path=place.shown,
        order_seed=task.order_seed,
        ppl=ppl,
        ppl_se=ppl_se,
        n_threads=task.n_threads,
        shape=scored.shape,
        wall_s=scored.done_s[kept.n_new - 1] if kept.n_new else 0.0,
        n_tokens_evaluated=kept.n_new * task.n_ctx,
        peak_rss_bytes=scored.peak_rss_bytes,
        provenance=provenance,
    )


class _Kept:
    """What is there of a format and text, and what comes.

    Attributes:
        nll: rows of chunks.
        order: the chunks of the text as they are visited; empty until its tokens are known.
        n_new: chunks that came.
    """

    def __init__(self, task: PerplexityTask, place: Place, enough: Enough | None, rider: Rider | None) -> None:
        self.nll = ArrayJournal(place.nll, n_scored(task.n_ctx))
        self.order: list[int] = []
        self.n_new = 0
        self._task, self._place, self._enough, self._rider = task, place, enough, rider
        tokens = load_tokens(place.tokens) if place.tokens is not None else None
        if tokens is not None:
            self._count(len(tokens))

    def _count(self, n_tokens: int) -> None:
        self.order = chunk_order(n_tokens // self._task.n_ctx, self._task.order_seed)

    def take(self, rows: Rows) -> bool:
        """Keep a row, and say whether that was enough."""
        if rows.to == "tokens":
            self._take_tokens(np.frombuffer(rows.values, dtype="<i4"))
        elif rows.to == "nll":
            self._add(rows.number, rows.values)
            self.n_new += 1
            if self._enough is not None:
                visited = self.order[: self.order.index(rows.number) + 1]
                return self._enough(self.values(visited))
        elif self._rider is not None:
            self._rider.keep(rows.number, rows.values)
        return False

    def _take_tokens(self, tokens: np.ndarray) -> None:
        self._count(len(tokens))
        if self._place.tokens is not None:
            buffer = io.BytesIO()
            np.save(buffer, tokens)
            write_bytes(self._place.tokens, buffer.getvalue())

    def _add(self, chunk: int, values: bytes) -> None:
        """Keep a chunk; what rides along gives way to it on a full disk."""
        tries = 0
        while True:
            try:
                self.nll.add(chunk, values)
                return
            except LabError:
                if tries == _ROOM_TRIES or self._rider is None or not self._rider.give_up():
                    raise
            tries += 1
            time.sleep(_ROOM_WAIT_S)  # the child may still be writing to the file that gave way

    def values(self, chunks: list[int]) -> FloatArray:
        """NLL of chunks that are there, (n_chunks, n_scored)."""
        return np.array([self.nll.rows[chunk] for chunk in chunks])

    def finish(self) -> None:
        if self.order and self.nll.rows:
            self.nll.finish(len(self.order))
            if self._rider is not None:
                self._rider.finish(len(self.order))
