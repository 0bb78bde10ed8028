"""What the perplexity step asks of its child, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from labctl.executors.base import ModelSize, Task
from labctl.records.base import Provenance
from labctl.records.sources import TextSource

N_SIDE = 2
"""Chunks of a text that are computed at the same time, where there are threads for them."""
TEXT_FACTOR = 128  # bytes for a byte of text; measured with llama.cpp's BPE: 85 for a text of one line


COMMON_CHUNKS = 12
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

    @property
    def could_stop(self) -> bool:
        """Whether the run could stop on its own figures, so that its interval has to hold at every look."""
        return self.order_seed is not None and self.n_chunks < self.n_chunks_text


def n_scored(n_ctx: int) -> int:
    """Tokens of a chunk that are scored: its second half but for the first, as llama-perplexity does."""
    return n_ctx - 1 - n_ctx // 2


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Another step's part of this task: it sees the logits as they pass.

    Attributes:
        watch: "module:function" that makes the watcher of the plan, the order of the visit, the scorer and the Report.
        plan: what the watcher has to know, still encoded.
    """

    watch: str
    plan: msgspec.Raw


class Rider(Protocol):
    """Another step that rides along: its part goes into the task, and it keeps what comes of that."""

    @property
    def part(self) -> Part: ...

    def keep(self, chunk: int, values: bytes) -> None:
        """Take what the watcher sent of a chunk. Raises LabError: it cannot be kept."""

    def give_up(self) -> bool:
        """Ride no further, where that may be, and make room on the disk. Returns whether it did."""

    def finish(self, n_chunks: int) -> None:
        """Nothing more comes of this text of so many chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a perplexity task says of itself, besides the rows that it sent.

    Attributes:
        done_s: seconds in decode and scoring until each chunk was sent, in the order of the visit.
    """

    shape: BatchShape
    done_s: tuple[float, ...]
    peak_rss_bytes: int


class ReadsText(Task, frozen=True, kw_only=True):
    """A task that reads chunks of a text.

    Attributes:
        tokens_path: a file of the text's token ids; empty to tokenize, and send them as the row of "tokens", int32.
    """

    text: TextSource
    n_ctx: int
    tokens_path: str = ""


class PerplexityTask(ReadsText, frozen=True, kw_only=True):
    """Measure chunks of a text, and send each as a row of "nll": (n_scored,) float64, nats.

    Attributes:
        order_seed: visit the chunks in the order shuffled by this seed; None for the order of the text.
        n_first: only the first N chunks in that order; None for all.
        measured: chunks that are there already, in [start, stop) ranges.
        deadline_s: stop at the chunk during which so many seconds are over.
        shape: as suits the model unless given.
        rider: another step's part, which looks at the logits while they are at hand.
    """

    name = "perplexity"
    work = "labctl.steps.perplexity.work:measure"

    shape: BatchShape | None = None
    order_seed: int | None = None
    n_first: int | None = None
    measured: tuple[tuple[int, int], ...] = ()
    deadline_s: float | None = None
    rider: Part | None = None

    def n_ctx_open(self) -> int:
        return self.n_ctx * self._n_side()

    def work_bytes(self, size: ModelSize) -> int:
        logits = 4 * 4 * self.n_ctx * self._n_side() * size.n_vocab
        return super().work_bytes(size) + logits + TEXT_FACTOR * self.text.size_bytes

    def _n_side(self) -> int:
        return self.shape.n_side if self.shape is not None else N_SIDE
