"""The divergence step's part of the perplexity task: the baseline's probabilities are kept, the others compared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from labctl.engines.model import FloatArray
from labctl.errors import LabError
from labctl.executors.base import Report
from labctl.records.arrays import from_ranges
from labctl.steps.divergence.kl import Floats, kl_rows, same_top
from labctl.steps.divergence.record import SpoolPlan
from labctl.steps.divergence.spool import Spool
from labctl.steps.perplexity.scorer import ChunkScorer


def watch(plan: SpoolPlan, order: list[int], scorer: ChunkScorer, report: Report) -> Watcher:
    """What looks at the logits of this run; called by the perplexity task."""
    return Watcher(plan, order, scorer, report)


class Watcher:
    """Looks at the logits as they pass: spools the baseline's, compares the others with them."""

    def __init__(self, plan: SpoolPlan, order: list[int], scorer: ChunkScorer, report: Report) -> None:
        self._row = {chunk: row for row, chunk in enumerate(order[: plan.n_rows])}
        self._spool = Spool(Path(plan.spool_path), scorer.n_scored, scorer.n_vocab)
        self._report = report
        self._is_baseline = plan.is_baseline
        self._optional, self._given_up = plan.optional, False
        self._parts: dict[int, list[tuple[Floats, Floats]]] = {}
        self._wanted: set[int] = set()
        with self._giving_way():
            if plan.is_baseline:
                self._spool.begin()
                self._wanted = {chunk for chunk, row in self._row.items() if row not in self._spool.rows}
            else:
                there = from_ranges(plan.compared)
                self._wanted = {chunk for chunk, row in self._row.items() if row in self._spool.rows} - there

    def missing(self) -> set[int]:
        """Chunks that have to be computed for the comparison, measured before or not."""
        return self._wanted

    @contextlib.contextmanager
    def _giving_way(self) -> Iterator[None]:
        """End the comparison when it fails, if it may end, and make room for what is measured."""
        try:
            yield
        except LabError:
            if not self._optional:
                raise
            self._given_up, self._wanted = True, set()
            self._spool.remove()

    def see(self, chunk: int, start: int, logits: FloatArray) -> None:
        """Take some of a chunk's positions, in order; a thread of its own for each chunk at work."""
        if chunk not in self._wanted:
            return
        with self._giving_way():
            row = self._row[chunk]
            if self._is_baseline:
                self._spool.write(row, start, logits)
                return
            base = self._spool.read(row, start, len(logits))
            part = (kl_rows(base, logits), same_top(base, logits).astype(np.float64))
            self._parts.setdefault(chunk, []).append(part)

    def keep(self, chunk: int) -> None:
        """Count a chunk of the baseline as spooled, or send how far the file is from it."""
        if chunk not in self._wanted:
            return
        with self._giving_way():
            if self._is_baseline:
                self._spool.close_row(self._row[chunk])
                return
            self._spool.check_row(self._row[chunk])
            divergences, tops = zip(*self._parts.pop(chunk), strict=True)
            self._report.rows("kl", chunk, np.concatenate([*divergences, *tops]).astype("<f8").tobytes())

    def finish(self) -> None:
        if self._given_up:
            self._spool.remove()  # another thread may have been writing
