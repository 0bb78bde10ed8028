"""In a child: the perplexity task, chunk by chunk, with the comparison to the baseline on the way."""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path

from labctl.engines.llama_cpp.binding import Llama, Model
from labctl.errors import LabError
from labctl.executors.base import Report, call, log_line
from labctl.machine.memory import peak_rss_bytes
from labctl.records.arrays import NllArray, NllStore, load_nll, to_ranges
from labctl.steps.perplexity.increase import chunk_differences
from labctl.steps.perplexity.record import PerplexityRun, PerplexityTask, Rider
from labctl.steps.perplexity.scorer import ChunkScorer, LogitsWatcher, batch_shape, chunk_order, perplexity, text_tokens
from labctl.steps.perplexity.sequence import settle


def measure(task: PerplexityTask, report: Report) -> PerplexityRun:
    """Measure the chunks that are missing, keep each as it comes, and say what all of them together give.

    Args:
        report: told of chunks there, chunks wanted, and the speed.
    Raises:
        LabError: the text, the model or the disk refuses.
    """
    llama = Llama(log_line=log_line, warnings=report.warnings)
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
        watcher = _watcher(task.rider, order, scorer)
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
            report(done_before, len(wanted), "")
            for done, spent in scorer.run(todo, keep, settled, watcher):
                measured = done
                tps = done * task.n_ctx / spent if spent else 0.0
                report(done_before + done, len(wanted), f"{tps:,.0f} t/s")
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


def _watcher(rider: Rider | None, order: list[int], scorer: ChunkScorer) -> LogitsWatcher | None:
    if rider is None:
        return None
    watcher = call(rider.watch, rider.plan, order, scorer)
    assert isinstance(watcher, LogitsWatcher)
    return watcher
