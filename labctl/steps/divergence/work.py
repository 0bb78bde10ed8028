"""The divergence step's part of the perplexity task: the baseline's probabilities are kept, the others compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from labctl.engines.llama_cpp.binding import FloatArray
from labctl.errors import LabError
from labctl.records.arrays import NllStore
from labctl.steps.divergence.kl import Floats, kl_rows, same_top
from labctl.steps.divergence.record import SpoolPlan
from labctl.steps.divergence.spool import Spool
from labctl.steps.perplexity.scorer import ChunkScorer


def watch(plan: SpoolPlan, order: list[int], scorer: ChunkScorer) -> Watcher:
    """Who looks at the logits of this run; called by the perplexity task."""
    return Watcher(plan, order, scorer)


class Watcher:
    """Looks at the logits as they pass: spools the baseline's, compares the others with them."""

    def __init__(self, plan: SpoolPlan, order: list[int], scorer: ChunkScorer) -> None:
        self._row = {chunk: row for row, chunk in enumerate(order[: plan.n_rows])}
        self._spool = Spool(Path(plan.spool_path), scorer.n_scored, scorer.n_vocab)
        if plan.is_baseline:
            self._spool.drop_damaged()
        self._kl = None if plan.is_baseline else NllStore(Path(plan.kl_path), scorer.n_chunks, 2 * scorer.n_scored)
        self._compared: dict[int, list[tuple[Floats, Floats]]] = {}
        self._wanted = self.missing()
        self._optional, self._given_up = plan.optional, False

    def missing(self) -> set[int]:
        """Chunks that have to be computed for the comparison, measured before or not."""
        if self._kl is None:
            return {chunk for chunk, row in self._row.items() if row not in self._spool.rows}
        return {chunk for chunk in self._kl.missing(self._row) if self._row[chunk] in self._spool.rows}

    def give_up(self) -> bool:
        """End the comparison, if it may be, and make room for what is measured."""
        if not self._optional:
            return False
        self._given_up, self._wanted = True, set()
        self._spool.remove()
        return True

    def see(self, chunk: int, start: int, logits: FloatArray) -> None:
        """Take some of a chunk's positions, in order; a thread of its own for each chunk at work."""
        if chunk in self._wanted:
            try:
                self._see(chunk, start, logits)
            except LabError:
                if not self.give_up():
                    raise

    def _see(self, chunk: int, start: int, logits: FloatArray) -> None:
        row = self._row[chunk]
        if self._kl is None:
            self._spool.write(row, start, logits)
            return
        base = self._spool.read(row, start, len(logits))
        self._compared.setdefault(chunk, []).append((kl_rows(base, logits), same_top(base, logits).astype(np.float64)))

    def keep(self, chunk: int) -> None:
        if chunk in self._wanted:
            try:
                self._keep(chunk)
            except LabError:
                if not self.give_up():
                    raise

    def _keep(self, chunk: int) -> None:
        if self._kl is None:
            self._spool.close_row(self._row[chunk])
            return
        self._spool.check_row(self._row[chunk])
        divergences, tops = zip(*self._compared.pop(chunk), strict=True)
        self._kl.add(chunk, np.concatenate([*divergences, *tops]))

    def finish(self) -> None:
        if self._given_up:
            self._spool.remove()  # another thread may have been writing
        if self._kl is not None:
            self._kl.finish()
