"""Perplexity by llama-perplexity's protocol, with every token's NLL kept."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labctl.engines.llama_cpp.binding import Context, FloatArray, IntArray, Llama, Model
from labctl.errors import LabError
from labctl.machine.memory import give_back_memory
from labctl.records.arrays import map_array
from labctl.records.disk import write_bytes
from labctl.steps.perplexity.record import N_SIDE, BatchShape

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


def text_tokens(llama: Llama, model_path: Path, path: Path, n_ctx: int, kept_path: str = "") -> IntArray:
    """Token ids of a text file.

    The vocabulary is opened without the weights, so that the tokenizer's working memory is gone before they come.

    Args:
        kept_path: where the ids are kept for the next call; empty not to keep them.
    Returns: (n_tokens,) int32, read-only and mapped where they are kept: only what is used takes memory.
    Raises:
        LabError: fewer tokens than two chunks.
    """
    tokens = _load_tokens(Path(kept_path)) if kept_path else None
    if tokens is None:
        with Model(llama, model_path, vocab_only=True) as model:
            tokens = model.tokenize(read_text(path))
        if kept_path:
            tokens = _keep_tokens(Path(kept_path), tokens)
        give_back_memory()
    if len(tokens) < 2 * n_ctx:
        raise LabError(
            f"{path.name} is too short: {len(tokens)} tokens, and perplexity needs at least two chunks of {n_ctx}.",
            "Use a longer text with --text, or a smaller --ctx.",
            for_all=True,
        )
    return tokens


def _keep_tokens(path: Path, tokens: IntArray) -> IntArray:
    buffer = io.BytesIO()
    np.save(buffer, tokens)
    write_bytes(path, buffer.getvalue())
    mapped = _load_tokens(path)
    return tokens if mapped is None else mapped


def _load_tokens(path: Path) -> IntArray | None:
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
    sequences a batch, 64 to 512 tokens at once, 1 and 2 threads. It would with fewer tokens: `_slices`.
    """
    logits_bytes = N_SIDE * 2 * 128 * 4 * model.n_vocab  # llama.cpp keeps them twice
    return BatchShape(n_side=N_SIDE, n_ubatch=256, n_outputs=128 if logits_bytes <= model.n_params else 64)


@runtime_checkable
class LogitsWatcher(Protocol):
    """Looks at a chunk's logits while they are there."""

    def missing(self) -> set[int]:
        """Chunks that it has to see, measured before or not."""

    def give_up(self) -> bool:
        """Look no more, where that may be, and make room on the disk. Returns whether it did."""

    def finish(self) -> None:
        """Nothing more comes."""

    def see(self, chunk: int, start: int, logits: FloatArray) -> None:
        """Take some of a chunk's scored positions, in order; called in a thread of its own for each chunk at work.

        Args:
            start: the first scored position of these.
            logits: (n, n_vocab) float32, valid during the call.
        """

    def keep(self, chunk: int) -> None:
        """The chunk is complete and counts; called chunk by chunk in the order visited."""


class ChunkScorer:
    """Scores chunks of a text, some of them at the same time, each in a context with its own share of the threads.

    A context alone leaves processors idle: its threads wait for each other at every matrix, and all of them while one
    copies and scores logits. Two contexts side by side fill those gaps.

    Args:
        tokens: (n_tokens,) of the whole text.
        n_ctx: tokens a chunk.
    """

    def __init__(self, model: Model, tokens: IntArray, *, n_ctx: int, n_threads: int, shape: BatchShape) -> None:
        self.n_chunks = len(tokens) // n_ctx
        self.n_scored = n_ctx - 1 - n_ctx // 2
        self.n_vocab = model.n_vocab
        self._chunks = tokens[: self.n_chunks * n_ctx].reshape(self.n_chunks, n_ctx)
        self._lanes = [_Lane(model, n_ctx, share, shape) for share in _shares(n_threads, shape.n_side)]
        self._free: SimpleQueue[_Lane] = SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._pool = ThreadPoolExecutor(len(self._lanes))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for lane in self._lanes:
            lane.close()

    def __enter__(self) -> ChunkScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _score(self, chunk: int, watcher: LogitsWatcher | None) -> NllArray:
        lane = self._free.get()
        try:
            return lane.nll(chunk, self._chunks[chunk], watcher)
        finally:
            self._free.put(lane)

    def run(
        self, chunks: Sequence[int], keep: Callable[[int, NllArray], None], stop: Callable[[int], bool] | None = None,
        watcher: LogitsWatcher | None = None,
    ) -> Iterator[tuple[int, float]]:  # fmt: skip
        """Score chunks, handing each to `keep` in the order given.

        Args:
            keep: called with the chunk's number and its (n_scored,) NLL in nats.
            stop: asked after each chunk whether to leave the rest; what was begun of it is dropped.
        Yields: chunks done so far, and seconds since the start.
        Raises:
            LabError: the model gives no probabilities, or `watcher` or llama.cpp refuse.
        """
        begun = time.perf_counter()
        score = functools.partial(self._score, watcher=watcher)
        # One more than is computed at once, so that no context waits for this thread.
        with contextlib.closing(in_order(self._pool, score, chunks, len(self._lanes) + 1)) as results:
            for done, (chunk, values) in enumerate(results, 1):
                keep(chunk, values)
                if watcher is not None:
                    watcher.keep(chunk)
                yield done, time.perf_counter() - begun
                if stop is not None and stop(chunk):
                    return


def in_order(
    pool: Executor, work: Callable[[int], NllArray], items: Sequence[int], n_ahead: int
) -> Generator[tuple[int, NllArray]]:  # fmt: skip
    """Each item with its result, in the order of the items, while up to n_ahead of them are at work.

    Closing it drops what is ahead, and waits for what cannot be stopped.
    """
    todo = iter(items)
    ahead = deque((item, pool.submit(work, item)) for item in itertools.islice(todo, n_ahead))
    try:
        while ahead:
            item, future = ahead.popleft()
            result = future.result()
            ahead.extend((later, pool.submit(work, later)) for later in itertools.islice(todo, 1))
            yield item, result
    finally:
        wait([future for _, future in ahead if not future.cancel()])


class _Lane:
    """One context, for one chunk at a time.

    The first half of a chunk is read in large slices without logits, the second in small ones, so that few rows of
    logits are in memory at once.
    """

    def __init__(self, model: Model, n_ctx: int, n_threads: int, shape: BatchShape) -> None:
        self._model = model
        self._half = n_ctx // 2
        self._n_scored = n_ctx - 1 - self._half  # one less than has logits: the last predicts the next chunk's first
        self._slices = [*_slices(0, self._half, shape.n_ubatch), *_slices(self._half, n_ctx, shape.n_outputs)]
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_ubatch=max(stop - start for start, stop in self._slices),
            n_batch=max(stop - start for start, stop in self._slices),
            n_outputs=max(stop - start for start, stop in self._slices if start >= self._half),
        )

    def close(self) -> None:
        self._context.close()

    def nll(self, chunk: int, tokens: IntArray, watcher: LogitsWatcher | None) -> NllArray:
        """NLL of one chunk's scored positions, (n_scored,) float64 nats.

        Args:
            tokens: (n_ctx,) of the chunk.
        """
        read = tokens.copy()
        if self._model.adds_bos:
            read[0] = self._model.bos
        targets = tokens[self._half + 1 :]
        values = np.empty(self._n_scored)
        self._context.clear()
        for start, stop in self._slices:
            self._context.read_on(read[start:stop], start, all_logits=start >= self._half)
            if start >= self._half:
                scored = slice(start - self._half, min(stop - self._half, self._n_scored))
                logits = self._context.logits(stop - start)[: scored.stop - scored.start]
                values[scored] = chunk_nll(logits, targets[scored])
                if watcher is not None:
                    watcher.see(chunk, scored.start, logits)
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


def _shares(n_threads: int, n_side: int) -> list[int]:
    """Threads of each of n_side contexts; fewer contexts where there are not enough threads."""
    n_side = max(1, min(n_side, n_threads))
    return [n_threads // n_side + (i < n_threads % n_side) for i in range(n_side)]


def _slices(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Cut [start, stop) into slices of about `size`, one longer slice rather than a small rest.

    llama.cpp computes a few tokens by other kernels, slower and with other digits. For the same reason all lengths but
    the last are multiples of four.
    """
    length = stop - start
    count = max(1, length // size)
    edges = [*(start + length * i // count // 4 * 4 for i in range(count)), stop]
    return list(itertools.pairwise(edges))
