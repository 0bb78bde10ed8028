"""Perplexity by llama-perplexity's protocol, with every token's NLL kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labctl.engines.model import FloatArray, IntArray, Model, Reader
from labctl.engines.side_by_side import SideBySide, thread_shares
from labctl.errors import LabError
from labctl.records.arrays import map_array
from labctl.steps.perplexity.record import N_SIDE, BatchShape, n_scored

NllArray = NDArray[np.float64]

_BLOCK_BYTES = 1 << 18  # a block of logits that stays in the second-level cache while it is worked on


def chunk_nll(logits: FloatArray, targets: IntArray) -> NllArray:
    """Negative log-likelihood of each target token, in nats.

    Args:
        logits: (n_tokens, n_vocab) float32, unnormalised; not changed.
        targets: (n_tokens,) int, the token that really came next.
    Returns: (n_tokens,) float64.
    Source: llama.cpp tools/perplexity/perplexity.cpp, log_softmax: float32 exponentials, float64 sum.
    """
    n_tokens, n_vocab = logits.shape
    rows = max(1, _BLOCK_BYTES // (4 * n_vocab))
    result = np.empty(n_tokens)
    work = np.empty((min(rows, n_tokens), n_vocab), dtype=np.float32)
    for start in range(0, n_tokens, rows):
        block = logits[start : start + rows]
        target = targets[start : start + rows]
        largest = block.max(axis=1)
        shifted = np.subtract(block, largest[:, None], out=work[: len(block)])
        wanted = shifted[np.arange(len(block)), target].astype(np.float64)
        np.exp(shifted, out=shifted)
        result[start : start + rows] = np.log(shifted.sum(axis=1, dtype=np.float64)) - wanted
    return result


def perplexity(nll: NllArray) -> tuple[float, float]:
    """Perplexity and its standard error over all scored tokens.

    Args:
        nll: any shape, nats; NaN (not measured) is left out.
    Returns: exp(mean), and exp(mean) * sqrt((E[nll^2] - E[nll]^2) / (N - 1)); the error is NaN for one token.
    Source: llama.cpp tools/perplexity/perplexity.cpp, perplexity.
    """
    flat = nll[~np.isnan(nll)]
    if flat.size == 0:
        return float("nan"), float("nan")
    mean = float(flat.mean())
    ppl = float(np.exp(mean))
    if flat.size == 1:
        return ppl, float("nan")
    variance = max(0.0, float((flat * flat).mean()) - mean * mean)
    return ppl, ppl * float(np.sqrt(variance / (flat.size - 1)))


def read_text(path: Path) -> bytes:
    """The text as llama-perplexity takes it: without one trailing newline.

    Source: llama.cpp common/arg.cpp, option --file.
    """
    data = path.read_bytes()
    return data[:-1] if data.endswith(b"\n") else data


def require_two_chunks(name: str, tokens: IntArray, n_ctx: int) -> None:
    """Raise unless a text is long enough."""
    if len(tokens) < 2 * n_ctx:
        raise LabError(
            f"{name} is too short: {len(tokens)} tokens, and perplexity needs at least two chunks of {n_ctx}.",
            "Use a longer text with --text, or a smaller --ctx.",
            for_all=True,
        )


def load_tokens(path: Path) -> IntArray | None:
    """Token ids that are kept, read-only and mapped: only what is used takes memory. None where there are none."""
    values = map_array(path)
    return values.view(np.ndarray) if values is not None and values.ndim == 1 and values.dtype == np.int32 else None


def chunk_order(n_chunks: int, order_seed: int | None) -> list[int]:
    """Chunk numbers in the order they are visited: that of the text, or shuffled by a seed."""
    if order_seed is None:
        return list(range(n_chunks))
    from labctl.steps.perplexity.sequence import shuffled_chunks

    return [int(chunk) for chunk in shuffled_chunks(n_chunks, order_seed)]


def batch_shape(model: Model) -> BatchShape:
    """How to compute this model's chunks, whatever its format.

    Two chunks side by side, each with half of the threads, are 8 to 18 % faster than one with all of them. The more
    tokens have logits at once, the faster, up to 4 %; but the logits shall stay below half of what the weights take as
    F16, and so far below what llama-perplexity needs.

    The shape changes no digit of the result: measured bit-identical NLL for 1 and 2 chunks side by side, 1 to 4
    sequences a batch, 64 to 512 tokens at once, 1 and 2 threads. It would with fewer tokens.
    """
    logits_bytes = N_SIDE * 2 * 128 * 4 * model.n_vocab  # llama.cpp keeps them twice
    return BatchShape(n_side=N_SIDE, n_ubatch=256, n_outputs=128 if logits_bytes <= model.n_params else 64)


@runtime_checkable
class LogitsWatcher(Protocol):
    """Looks at a chunk's logits while they are there."""

    def missing(self) -> set[int]:
        """Chunks that it has to see, measured before or not."""

    def see(self, chunk: int, start: int, logits: FloatArray) -> None:
        """Take some of a chunk's scored positions, in order; called in a thread of its own for each chunk at work.

        Args:
            start: the first scored position of these.
            logits: (n, n_vocab) float32, valid during the call.
        """

    def keep(self, chunk: int) -> None:
        """The chunk is complete; called chunk by chunk in the order visited, just before its NLL is sent."""

    def finish(self) -> None:
        """Nothing more comes."""


class ChunkScorer:
    """Scores chunks of a text, some of them at the same time, each in a reader with its own share of the threads.

    A reader alone leaves processors idle: its threads wait for each other at every matrix, and all of them while one
    copies and scores logits. Two readers side by side fill those gaps.

    Args:
        tokens: (n_tokens,) of the whole text.
        n_ctx: tokens a chunk.
    """

    def __init__(self, model: Model, tokens: IntArray, *, n_ctx: int, n_threads: int, shape: BatchShape) -> None:
        self.n_chunks = len(tokens) // n_ctx
        self.n_scored = n_scored(n_ctx)
        self.n_vocab = model.n_vocab
        self._chunks = tokens[: self.n_chunks * n_ctx].reshape(self.n_chunks, n_ctx)
        self._readers = SideBySide(
            [
                model.reader(n_ctx=n_ctx, n_threads=share, n_ubatch=shape.n_ubatch, n_outputs=shape.n_outputs)
                for share in thread_shares(n_threads, shape.n_side)
            ]
        )

    def close(self) -> None:
        self._readers.close()

    def __enter__(self) -> ChunkScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _nll(self, reader: Reader, chunk: int, *, watcher: LogitsWatcher | None) -> NllArray:
        """NLL of one chunk's scored positions, (n_scored,) float64 nats."""
        tokens = self._chunks[chunk]
        half = len(tokens) // 2
        targets = tokens[half + 1 :]
        values = np.empty(self.n_scored)
        for place, logits in reader.logits(tokens):
            start = place - half
            # One less is scored than has logits: the last predicts the next chunk's first.
            scored = slice(start, min(start + len(logits), self.n_scored))
            logits = logits[: scored.stop - start]
            values[scored] = chunk_nll(logits, targets[scored])
            if watcher is not None:
                watcher.see(chunk, start, logits)
        if not np.isfinite(values).all():
            raise LabError(
                f"The model gives no probabilities (NaN) in chunk {chunk}.",
                "The file is damaged or its weights overflow; make it again from the original.",
            )
        if len(values) > 1 and values.min() == values.max():
            raise LabError(
                f"The model gives every token of chunk {chunk} the same probability: it has learned nothing, or much of"
                " the file is zeros.",
                "The file may be a download that stopped before its end: compare its sha256 with the source's.",
            )
        return values

    def run(self, chunks: Sequence[int], watcher: LogitsWatcher | None = None) -> Iterator[tuple[int, NllArray]]:
        """Score chunks, in the order given; what was begun ahead is dropped when this is closed.

        Yields: a chunk's number, and its (n_scored,) NLL in nats.
        Raises:
            LabError: the model gives no probabilities, or `watcher` or llama.cpp refuse.
        """
        score = functools.partial(self._nll, watcher=watcher)
        with contextlib.closing(self._readers.each(score, chunks)) as results:
            for chunk, values in results:
                if watcher is not None:
                    watcher.keep(chunk)
                yield chunk, values
