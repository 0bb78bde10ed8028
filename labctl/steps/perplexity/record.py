"""What the perplexity step asks of its child, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from labctl.executors.base import ModelSize, Task
from labctl.records.base import Provenance
from labctl.records.sources import TextSource

N_SIDE = 2
"""Chunks of a text that are computed at the same time, where there are threads for them."""
_TEXT_FACTOR = 128  # bytes for a byte of text; measured with llama.cpp's BPE: 85 for a text of one line


COMMON_CHUNKS = 32
"""Chunks that `--chunks auto` measures every format on before only open verdicts get more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """How chunks of a text are computed; the same for every format of a run.

    Attributes:
        n_side: chunks computed at the same time, each with its share of the threads.
        n_ubatch, n_outputs: tokens computed at once in a chunk's first half, and in its second half, which has logits.
    """

    n_side: int
    n_ubatch: int
    n_outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityRun:
    """Perplexity of one file on one text.

    Attributes:
        nll_path: .npy of shape (n_chunks_text, n_scored_per_chunk), float64, nats; NaN rows were not measured.
            Relative to the model's outputs folder.
        n_chunks_text: how many whole chunks the text has.
        chunks: numbers of the chunks measured, ascending; [start, stop) ranges.
        order_seed: the chunks were visited in the order shuffled by this seed, and the visit ended when the verdict was
            settled; None for chunks in the order of the text.
        ppl, ppl_se: over these chunks, by llama-perplexity's formulas.
        wall_s, n_tokens_evaluated: time in decode and scoring, and prompt tokens read, in the run that wrote this
            record; chunks taken over from an earlier run are not in it.
    """

    format: str
    text: TextSource
    n_ctx: int
    n_chunks_text: int
    n_scored_per_chunk: int
    chunks: tuple[tuple[int, int], ...]
    nll_path: str
    order_seed: int | None = None
    ppl: float
    ppl_se: float
    n_threads: int
    shape: BatchShape
    wall_s: float
    n_tokens_evaluated: int
    peak_rss_bytes: int
    provenance: Provenance

    @property
    def n_chunks(self) -> int:
        return sum(stop - start for start, stop in self.chunks)


class StopRule(msgspec.Struct, frozen=True, kw_only=True):
    """Stop a format once its verdict against the baseline is settled; looked at after every chunk.

    Attributes:
        at_least: chunks to measure whatever the verdict.
    """

    baseline_nll_path: str
    limit: float
    alpha: float
    at_least: int


class Rider(msgspec.Struct, frozen=True, kw_only=True):
    """Another step's part of this task: it sees the logits as they pass.

    Attributes:
        watch: "module:function" that makes the watcher from the plan, the order of the visit and the scorer.
        plan: what the watcher has to know, still encoded.
    """

    watch: str
    plan: msgspec.Raw


class PerplexityTask(Task, frozen=True, kw_only=True):
    """Measure chunks of a text that are not in the NLL file yet.

    Attributes:
        order_seed: visit the chunks in the order shuffled by this seed; None for the order of the text.
        n_first: only the first N chunks in that order; None for all.
        nll_path: absolute; shown_nll_path as the record says it.
        deadline_s: stop at the chunk during which so many seconds are over.
        shape: as suits the model unless given.
        tokens_path: where the text's token ids are kept for the other formats; empty to tokenize again.
        rider: who else looks at the logits while they are at hand.
    """

    name = "perplexity"
    work = "labctl.steps.perplexity.work:measure"

    text: TextSource
    n_ctx: int
    shape: BatchShape | None = None
    order_seed: int | None = None
    n_first: int | None = None
    stop: StopRule | None = None
    deadline_s: float | None = None
    nll_path: str
    shown_nll_path: str
    tokens_path: str = ""
    rider: Rider | None = None
    provenance: Provenance

    def n_ctx_open(self) -> int:
        return self.n_ctx * self._n_side()

    def work_bytes(self, size: ModelSize) -> int:
        logits = 4 * 4 * self.n_ctx * self._n_side() * size.n_vocab
        return super().work_bytes(size) + logits + _TEXT_FACTOR * self.text.size_bytes

    def _n_side(self) -> int:
        return self.shape.n_side if self.shape is not None else N_SIDE
