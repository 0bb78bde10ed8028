"""In a child: the perplexity task, chunk by chunk, with another step looking at the logits on the way."""

from __future__ import annotations

import time
from pathlib import Path

from labctl import engines
from labctl.engines.model import IntArray, Program
from labctl.executors.base import Report, call
from labctl.machine.memory import give_back_memory, peak_rss_bytes
from labctl.records.arrays import from_ranges
from labctl.steps.perplexity.record import Part, PerplexityTask, ReadsText, Scored
from labctl.steps.perplexity.scorer import (
    ChunkScorer,
    LogitsWatcher,
    batch_shape,
    chunk_order,
    load_tokens,
    read_text,
    require_two_chunks,
)


def measure(task: PerplexityTask, report: Report) -> Scored:
    """Measure the chunks that are missing, and send each as it comes.

    Args:
        report: told of chunks there, chunks wanted, and the speed.
    Raises:
        LabError: the text or the model refuses.
    """
    begun = time.monotonic()
    program = engines.of_task(task).start(report)
    tokens = tokens_of(program, task, report)
    require_two_chunks(Path(task.text.path).name, tokens, task.n_ctx)
    with program.open(Path(task.model_path)) as model:
        shape = task.shape or batch_shape(model)
        with ChunkScorer(model, tokens, n_ctx=task.n_ctx, n_threads=task.n_threads, shape=shape) as scorer:
            order = chunk_order(scorer.n_chunks, task.order_seed)
            wanted = order[: task.n_first]
            watcher = _watcher(task.rider, order, scorer, report)
            there = from_ranges(task.measured) - (watcher.missing() if watcher is not None else set())
            todo = [chunk for chunk in wanted if chunk not in there]
            n_there = len(wanted) - len(todo)
            report(n_there, len(wanted), "")
            done_s: list[float] = []
            started = time.perf_counter()
            try:
                for chunk, values in scorer.run(todo, watcher):
                    report.rows("nll", chunk, values.astype("<f8").tobytes())
                    done_s.append(time.perf_counter() - started)
                    tps = len(done_s) * task.n_ctx / done_s[-1]
                    report(n_there + len(done_s), len(wanted), f"{tps:,.0f} t/s")
                    if report.stopped or (task.deadline_s is not None and time.monotonic() - begun > task.deadline_s):
                        break
            finally:
                if watcher is not None:
                    watcher.finish()
    return Scored(shape=shape, done_s=tuple(done_s), peak_rss_bytes=peak_rss_bytes())


def tokens_of(program: Program, task: ReadsText, report: Report) -> IntArray:
    """Token ids of the text: as they are kept, or else sent to be kept."""
    tokens = load_tokens(Path(task.tokens_path)) if task.tokens_path else None
    if tokens is None:
        tokens = program.tokens(Path(task.model_path), read_text(Path(task.text.path)))
        report.rows("tokens", 0, tokens.astype("<i4").tobytes())
        give_back_memory()
    return tokens


def _watcher(part: Part | None, order: list[int], scorer: ChunkScorer, report: Report) -> LogitsWatcher | None:
    if part is None:
        return None
    watcher = call(part.watch, part.plan, order, scorer, report)
    assert isinstance(watcher, LogitsWatcher)
    return watcher
