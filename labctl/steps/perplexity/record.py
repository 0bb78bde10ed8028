"""What the perplexity step asks of its child, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from labctl.executors.base import Task
from labctl.records.base import Provenance
from labctl.records.sources import TextSource

N_SIDE = 2
"""Chunks of a text that are computed at the same time, where there are threads for them."""


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


class SpoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Where the baseline's probabilities are kept, and how far a file is from them.

    Attributes:
        spool_path: log-probabilities, float32 (n_rows, n_scored, n_vocab), a row for each of the first n_rows chunks in
            the order of the visit, with a list of the rows written beside it; the baseline writes it, others read.
        kl_path: KL divergence and agreement of each token, chunk by chunk, as `journal.NllStore` keeps them.
        optional: a disk that fills up ends the comparison, not the measurement beside it.
    """

    spool_path: str
    n_rows: int
    is_baseline: bool
    kl_path: str
    optional: bool = False


class PerplexityTask(Task, frozen=True, kw_only=True, tag="perplexity"):
    """Measure chunks of a text that are not in the NLL file yet.

    Attributes:
        order_seed: visit the chunks in the order shuffled by this seed; None for the order of the text.
        n_first: only the first N chunks in that order; None for all.
        nll_path: absolute; shown_nll_path as the record says it.
        deadline_s: stop at the chunk during which so many seconds are over.
        shape: as suits the model unless given.
        tokens_path: where the text's token ids are kept for the other formats; empty to tokenize again.
        divergence: also compare with the baseline while the logits are at hand.
    """

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
    divergence: SpoolPlan | None = None
    provenance: Provenance
