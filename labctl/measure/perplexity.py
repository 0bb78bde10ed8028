"""Perplexity by llama-perplexity's protocol, with every token's NLL kept."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import LabError
from labctl.journal import map_array
from labctl.measure.llama import Context, FloatArray, IntArray, Llama, Model
from labctl.measure.memory import give_back_memory
from labctl.records import BatchShape
from labctl.store import write_bytes

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
        LabError: fewer tokens than two chunks, or a vocabulary that appends EOS.
    """
    tokens = _load_tokens(Path(kept_path)) if kept_path else None
    if tokens is None:
        with Model(llama, model_path, vocab_only=True) as model:
            if model.adds_eos:
                raise LabError(
                    "This vocabulary ends every text with EOS, for which perplexity by chunks is not defined.",
                    "Use a decoder-only language model.",
                    for_all=True,
                )
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
    from labctl.measure.sequence import shuffled_chunks

    return [int(chunk) for chunk in shuffled_chunks(n_chunks, order_seed)]


class ChunkScorer:
    """Scores chunks of a text with one context: fixed batch layout, logits read as a view, scoring in threads.

    Args:
        tokens: (n_tokens,) of the whole text.
        n_ctx: tokens a chunk.
    """

    def __init__(self, model: Model, tokens: IntArray, *, n_ctx: int, n_threads: int, shape: BatchShape) -> None:
        self.n_chunks = len(tokens) // n_ctx
        self.n_scored = n_ctx - 1 - n_ctx // 2
        self.n_vocab = model.n_vocab
        self._model = model
        self._n_ctx = n_ctx
        self._n_rows = n_ctx - n_ctx // 2  # one more than is scored: the last one predicts the next chunk's first token
        self._n_seq = shape.n_seq
        self._chunks = tokens[: self.n_chunks * n_ctx].reshape(self.n_chunks, n_ctx)
        self._context = Context(
            model,
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_seq=shape.n_seq,
            n_ubatch=shape.n_ubatch,
            n_outputs=shape.n_seq * self._n_rows,
        )
        position = np.arange(n_ctx, dtype=np.int32)
        wanted = position >= n_ctx // 2
        self._context.lay_out(
            np.tile(position, shape.n_seq),
            np.repeat(np.arange(shape.n_seq, dtype=np.int32), n_ctx),
            np.tile(wanted, shape.n_seq),
        )
        self._n_workers = max(1, n_threads)
        self._pool = ThreadPoolExecutor(self._n_workers)

    def close(self) -> None:
        self._pool.shutdown()
        self._context.close()

    def __enter__(self) -> ChunkScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def targets(self, chunk: int) -> IntArray:
        """(n_scored,) the tokens that the scored positions have to predict."""
        return self._chunks[chunk, self._n_ctx // 2 + 1 :]

    def logits(self, chunks: Sequence[int]) -> FloatArray:
        """Logits at the scored positions of up to n_seq chunks.

        Returns: (n_chunks, n_scored, n_vocab) float32, a view that is valid until the next call.
        """
        tokens = self._chunks[list(chunks)]
        if self._model.adds_bos:
            tokens[:, 0] = self._model.bos
        self._context.clear()
        self._context.decode(tokens.ravel())
        self._context.synchronize()
        rows = self._context.logits(len(chunks) * self._n_rows).reshape(len(chunks), self._n_rows, -1)
        return rows[:, : self.n_scored]

    def nll(self, chunks: Sequence[int], observe: Callable[[int, FloatArray], None] | None = None) -> NllArray:
        """NLL of up to n_seq chunks side by side, (n_chunks, n_scored) float64 nats.

        Args:
            observe: called with each chunk's number and its (n_scored, n_vocab) logits while they are there.
        """
        logits = self.logits(chunks)
        if observe is not None:
            for row, chunk in enumerate(chunks):
                observe(chunk, logits[row])
        values = np.empty((len(chunks), self.n_scored))
        step = -(-self.n_scored // self._n_workers)
        parts = [(row, start) for row in range(len(chunks)) for start in range(0, self.n_scored, step)]

        def score(part: tuple[int, int]) -> None:
            row, start = part
            span = slice(start, start + step)
            values[row, span] = chunk_nll(logits[row, span], self.targets(chunks[row])[span])

        list(self._pool.map(score, parts))
        if not np.isfinite(values).all():
            raise LabError(
                f"The model gives no probabilities (NaN) in chunk {chunks[0]}.",
                "The file is damaged or its weights overflow; make it again from the original.",
            )
        return values

    def run(
        self, chunks: Sequence[int], keep: Callable[[int, NllArray], None], stop: Callable[[int], bool] | None = None,
        observe: Callable[[int, FloatArray], None] | None = None,
    ) -> Iterator[tuple[int, float]]:  # fmt: skip
        """Score chunks in the order given, handing each to `keep`.

        Args:
            keep: called with the chunk's number and its (n_scored,) NLL.
            stop: asked after each chunk whether to leave the rest.
            observe: as for `nll`.
        Yields: chunks done so far, and seconds spent so far in decoding and scoring.
        """
        spent = 0.0
        done = 0
        for start in range(0, len(chunks), self._n_seq):
            group = chunks[start : start + self._n_seq]
            begun = time.perf_counter()
            values = self.nll(group, observe)
            spent += time.perf_counter() - begun
            for chunk, row in zip(group, values, strict=True):
                keep(chunk, row)
                done += 1
            yield done, spent
            if stop is not None and stop(group[-1]):
                return
