"""Chunks of a text read as llama-perplexity reads them: logits of the second half."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from labctl.engines.llama_cpp.binding import Context, Model
from labctl.engines.model import FloatArray, IntArray


class ChunkReader:
    """One context, for one chunk at a time; see labctl.engines.model.Reader.

    The first half of a chunk is read in large slices without logits, the second in small ones, so that few rows of
    logits are in memory at once.
    """

    def __init__(self, model: Model, *, n_ctx: int, n_threads: int, n_ubatch: int, n_outputs: int) -> None:
        self._model = model
        self._half = n_ctx // 2
        self._slices = [*_slices(0, self._half, n_ubatch), *_slices(self._half, n_ctx, n_outputs)]
        longest = max(stop - start for start, stop in self._slices)
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_ubatch=longest,
            n_batch=longest,
            n_outputs=max(stop - start for start, stop in self._slices if start >= self._half),
        )

    def close(self) -> None:
        self._context.close()

    def logits(self, tokens: IntArray) -> Iterator[tuple[int, FloatArray]]:
        read = tokens.copy()
        if self._model.adds_bos:
            read[0] = self._model.bos
        self._context.clear()
        for start, stop in self._slices:
            self._context.read_on(read[start:stop], start, all_logits=start >= self._half)
            if start >= self._half:
                yield start, self._context.logits(stop - start)


def _slices(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Cut [start, stop) into slices of about `size`, one longer slice rather than a small rest.

    llama.cpp computes a few tokens by other kernels, slower and with other digits. For the same reason all lengths but
    the last are multiples of four.
    """
    length = stop - start
    count = max(1, length // size)
    edges = [*(start + length * i // count // 4 * 4 for i in range(count)), stop]
    return list(itertools.pairwise(edges))
