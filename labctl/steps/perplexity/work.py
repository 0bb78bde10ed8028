"""In a child: the perplexity task, chunk by chunk, with the comparison to the baseline on the way."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from labctl.engines.llama_cpp.binding import FloatArray, Llama, Model
from labctl.errors import LabError
from labctl.machine.memory import peak_rss_bytes
from labctl.records.arrays import NllArray, NllStore, load_nll, to_ranges
from labctl.steps.divergence.kl import Floats, kl_rows, same_top
from labctl.steps.divergence.spool import Spool
from labctl.steps.perplexity.increase import chunk_differences
from labctl.steps.perplexity.record import PerplexityRun, PerplexityTask, SpoolPlan
from labctl.steps.perplexity.scorer import ChunkScorer, batch_shape, chunk_order, perplexity, text_tokens
from labctl.steps.perplexity.sequence import settle

OnProgress = Callable[[int, int, str], None]


def measure_perplexity(llama: Llama, task: PerplexityTask, on_progress: OnProgress) -> PerplexityRun:
    """Measure the chunks that are missing, keep each as it comes, and say what all of them together give.

    Args:
        on_progress: chunks there, chunks wanted, note.
    Raises:
        LabError: the text, the model or the disk refuses.
    """
    spent, measured = 0.0, 0
    begun = time.monotonic()
    path = Path(task.model_path)
    tokens = text_tokens(llama, path, Path(task.text.path), task.n_ctx, task.tokens_path)
    with contextlib.ExitStack() as opened:
        model = opened.enter_context(Model(llama, path))
        shape = task.shape or batch_shape(model)
        scorer = opened.enter_context(
            ChunkScorer(model, tokens, n_ctx=task.n_ctx, n_threads=task.n_threads, shape=shape)
        )
        order = chunk_order(scorer.n_chunks, task.order_seed)
        wanted = order[: task.n_first]
        nll = NllStore(Path(task.nll_path), scorer.n_chunks, scorer.n_scored)
        watcher = _Watcher(task.divergence, order, scorer) if task.divergence is not None else None
        missing = set(nll.missing(wanted)) | (watcher.missing() & set(wanted) if watcher is not None else set())
        todo = [chunk for chunk in wanted if chunk in missing]
        done_before = len(wanted) - len(todo)
        baseline = load_nll(Path(task.stop.baseline_nll_path)) if task.stop else None

        def settled(chunk: int) -> bool:
            if task.deadline_s is not None and time.monotonic() - begun > task.deadline_s:
                return True
            visited = wanted[: wanted.index(chunk) + 1]
            if task.stop is None or baseline is None or len(visited) < task.stop.at_least:
                return False
            differences = chunk_differences(nll.values[visited], baseline[visited])
            return settle(differences, limit=task.stop.limit, alpha=task.stop.alpha).verdict != "undecided"

        def keep(chunk: int, values: NllArray) -> None:
            nonlocal nll
            try:
                nll.add(chunk, values)
            except LabError:
                if watcher is None or not watcher.give_up():
                    raise
                nll.close()
                nll = NllStore(Path(task.nll_path), scorer.n_chunks, scorer.n_scored)  # without the torn row
                nll.add(chunk, values)

        try:
            on_progress(done_before, len(wanted), "")
            for done, spent in scorer.run(todo, keep, settled, watcher):
                measured = done
                tps = done * task.n_ctx / spent if spent else 0.0
                on_progress(done_before + done, len(wanted), f"{tps:,.0f} t/s")
        finally:
            opened.close()  # what is written now would else count on top of the model's memory
            nll.finish()
            if watcher is not None:
                watcher.finish()
        # A shuffled visit takes along what earlier runs measured further on; a fixed one is what was asked for.
        pool = wanted if task.order_seed is None else order
        chunks = list(itertools.takewhile(lambda chunk: nll.measured[chunk], pool))
        ppl, ppl_se = perplexity(nll.values[chunks])
        return PerplexityRun(
            format=task.format,
            text=task.text,
            n_ctx=task.n_ctx,
            n_chunks_text=scorer.n_chunks,
            n_scored_per_chunk=scorer.n_scored,
            chunks=to_ranges(chunks),
            nll_path=task.shown_nll_path,
            order_seed=task.order_seed,
            ppl=ppl,
            ppl_se=ppl_se,
            n_threads=task.n_threads,
            shape=shape,
            wall_s=spent,
            n_tokens_evaluated=measured * task.n_ctx,
            peak_rss_bytes=peak_rss_bytes(),
            provenance=task.provenance,
        )


class _Watcher:
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
