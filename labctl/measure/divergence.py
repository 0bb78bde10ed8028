"""KL divergence from the baseline and top-token agreement, through a spool of the baseline's log-probabilities."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from labctl.errors import LabError
from labctl.measure.klmath import KlSummary, kl_rows, log_softmax_rows, same_top, summarise
from labctl.measure.perplexity import ChunkScorer
from labctl.store import write_bytes, writing

OnChunk = Callable[[int, int, str], None]


def spool(scorer: ChunkScorer, chunks: Sequence[int], path: Path, limit_bytes: int, on_chunk: OnChunk) -> int:
    """Write the baseline's log-probabilities at the scored positions: float32, so that nothing is clamped.

    Args:
        chunks: in the order to visit; as many as fit are taken.
        path: a temporary file, (n_chunks, n_scored, n_vocab) float32 without a header.
        limit_bytes: the file stays under this size; the first chunk is written whatever its size.
    Returns: number of chunks written.
    Raises:
        LabError: the disk is full.
    """
    row_bytes = 4 * scorer.n_scored * scorer.n_vocab
    count = min(len(chunks), max(1, limit_bytes // row_bytes))
    with writing(path), path.open("wb") as stream:
        for done, chunk in enumerate(chunks[:count], 1):
            stream.write(log_softmax_rows(scorer.logits([chunk])[0]).tobytes())
            on_chunk(done, count, "")
    return count


def compare(
    scorer: ChunkScorer, chunks: Sequence[int], spool_path: Path, values_path: Path, on_chunk: OnChunk
) -> tuple[KlSummary, int]:
    """KL divergence of this model from the spooled baseline, token by token.

    Args:
        chunks: as they were spooled.
        values_path: .npz that keeps kl (n_chunks, n_scored) in nats and same_top.
    Returns: the summary, and how many chunks the spool held.
    Raises:
        LabError: the spool is of another vocabulary or size.
    """
    row = scorer.n_scored * scorer.n_vocab
    n_chunks, rest = divmod(spool_path.stat().st_size, 4 * row)
    if rest or not 1 <= n_chunks <= len(chunks):
        raise LabError("The baseline's probabilities do not fit this file's vocabulary.", "Run the step again.")
    base = np.memmap(spool_path, dtype=np.float32, mode="r", shape=(n_chunks, scorer.n_scored, scorer.n_vocab))
    kl = np.empty((n_chunks, scorer.n_scored))
    top = np.empty((n_chunks, scorer.n_scored), dtype=bool)
    for index, chunk in enumerate(chunks[:n_chunks]):
        logits = scorer.logits([chunk])[0]
        kl[index] = kl_rows(base[index], logits)
        top[index] = same_top(base[index], logits)
        on_chunk(index + 1, n_chunks, f"KL {kl[: index + 1].mean():.4f}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, kl=kl, same_top=top, chunks=np.array(chunks[:n_chunks]))
    write_bytes(values_path, buffer.getvalue())
    return summarise(kl, top), n_chunks
