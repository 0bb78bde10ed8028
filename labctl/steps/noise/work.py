"""In a child: chunks of a text computed in two ways that differ in nothing but the order of the arithmetic."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from labctl import engines
from labctl.engines.model import FloatArray
from labctl.executors.base import Report
from labctl.steps.divergence.kl import kl_rows, log_softmax_rows, same_top
from labctl.steps.noise.record import NoiseTask, Repeated
from labctl.steps.perplexity.record import BatchShape
from labctl.steps.perplexity.scorer import ChunkScorer, batch_shape, chunk_order, require_two_chunks
from labctl.steps.perplexity.work import tokens_of


class _Watcher:
    """Looks at the logits of one chunk."""

    def __init__(self, log_p: FloatArray) -> None:
        self.log_p = log_p

    def missing(self) -> set[int]:
        return set()

    def keep(self, chunk: int) -> None: ...
    def finish(self) -> None: ...


class _First(_Watcher):
    """Keeps the log-probabilities, (n_scored, n_vocab)."""

    def see(self, chunk: int, start: int, logits: FloatArray) -> None:
        log_softmax_rows(logits, out=self.log_p[start : start + len(logits)])


class _Second(_Watcher):
    """Compares with those kept."""

    def __init__(self, log_p: FloatArray) -> None:
        super().__init__(log_p)
        self.kld_sum, self.n_same = 0.0, 0

    def see(self, chunk: int, start: int, logits: FloatArray) -> None:
        first = self.log_p[start : start + len(logits)]
        self.kld_sum += float(kl_rows(first, logits).sum())
        self.n_same += int(same_top(first, logits).sum())


def measure(task: NoiseTask, report: Report) -> Repeated:
    """Compute each chunk as perplexity does, and again in pieces of a few tokens.

    Raises:
        LabError: the text or the model refuses.
    """
    program = engines.of_task(task).start(report)
    tokens = tokens_of(program, task, report)
    require_two_chunks(Path(task.text.path).name, tokens, task.n_ctx)
    few = BatchShape(n_side=1, n_ubatch=task.n_at_once, n_outputs=task.n_at_once)
    differences, klds, same_tops = [], [], []
    with program.open(Path(task.model_path)) as model:
        usual = dataclasses.replace(batch_shape(model), n_side=1)
        with (
            ChunkScorer(model, tokens, n_ctx=task.n_ctx, n_threads=task.n_threads, shape=usual) as one,
            ChunkScorer(model, tokens, n_ctx=task.n_ctx, n_threads=task.n_threads, shape=few) as other,
        ):
            log_p = np.empty((one.n_scored, one.n_vocab), dtype=np.float32)
            chunks = chunk_order(one.n_chunks, task.order_seed)[: task.n_chunks]
            for done, chunk in enumerate(chunks):
                report(done, len(chunks), "")
                second = _Second(log_p)
                ((_, first_nll),) = one.run([chunk], _First(log_p))
                ((_, second_nll),) = other.run([chunk], second)
                differences.append(float((second_nll - first_nll).mean()))
                klds.append(second.kld_sum / one.n_scored)
                same_tops.append(second.n_same)
    return Repeated(chunks=tuple(chunks), differences=tuple(differences), klds=tuple(klds), same_tops=tuple(same_tops))
