"""What the noise step asks of its child, and what it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from labctl.executors.base import ModelSize
from labctl.records.base import Provenance
from labctl.records.sources import TextSource
from labctl.steps.perplexity.record import TEXT_FACTOR, ReadsText, n_scored

N_CHUNKS = 4
"""Chunks that are read twice: a few say of which size the noise is."""
N_AT_ONCE = 16
"""Tokens computed at once the second time: so few are computed by other kernels, with other digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """Chunks that were computed in two ways.

    Attributes:
        chunks: their numbers, in the order of all that follows.
        differences: second way minus first, of each chunk's mean NLL, nats a token.
        klds: mean KL(first || second) of each chunk, nats a token.
        same_tops: of each chunk's scored tokens, those at which both ways find the same token most likely.
    """

    chunks: tuple[int, ...]
    differences: tuple[float, ...]
    klds: tuple[float, ...]
    same_tops: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRun(Repeated):
    """How far the baseline is from itself where only the arithmetic differs.

    Attributes:
        n_at_once: tokens computed at once the second time; the first time as perplexity is.
    """

    format: str
    text: TextSource
    n_ctx: int
    n_at_once: int
    provenance: Provenance

    @property
    def n_tokens(self) -> int:
        """Scored tokens."""
        return len(self.chunks) * n_scored(self.n_ctx)

    @property
    def is_whole(self) -> bool:
        """Whether it has a possible figure of every chunk; it may be a stranger's."""
        n, most = len(self.chunks), n_scored(self.n_ctx)
        return (
            n > 0
            and most > 0
            and n == len(self.differences) == len(self.klds) == len(self.same_tops)
            and all(abs(value) < math.inf for value in self.differences)
            and all(0 <= value < math.inf for value in self.klds)
            and all(0 <= value <= most for value in self.same_tops)
        )


class NoiseTask(ReadsText, frozen=True, kw_only=True):
    """Compute chunks of a text in two ways.

    Attributes:
        order_seed: the chunks are the first of the order shuffled by this seed.
    """

    name = "noise"
    work = "labctl.steps.noise.work:measure"

    order_seed: int
    n_chunks: int = N_CHUNKS
    n_at_once: int = N_AT_ONCE

    def n_ctx_open(self) -> int:
        return 2 * self.n_ctx

    def work_bytes(self, size: ModelSize) -> int:
        # Both contexts' logits, and the first way's probabilities of a whole chunk.
        return super().work_bytes(size) + 4 * 6 * self.n_ctx * size.n_vocab + TEXT_FACTOR * self.text.size_bytes
