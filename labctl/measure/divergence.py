"""KL divergence from the baseline and top-token agreement, taken while perplexity has the logits at hand anyway.

The baseline's log-probabilities go to a temporary spool, a row a chunk; every other format compares with its row. The
spool is float32, so that nothing is clamped: llama.cpp's own 16-bit file moves its base perplexity by 0.2 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import LabError
from labctl.measure.klmath import KlSummary, kl_rows, log_softmax_rows, same_top, summarise
from labctl.measure.llama import FloatArray
from labctl.store import writing

Floats = NDArray[np.float64]


class Spool:
    """The baseline's log-probabilities of some chunks on disk, and the list of those written.

    Args:
        path: (n_rows, n_scored, n_vocab) float32 without a header; the list stands beside it.
    """

    def __init__(self, path: Path, n_scored: int, n_vocab: int) -> None:
        self.path = path
        self._shape = (n_scored, n_vocab)
        self._list = path.with_name(path.name + ".rows")
        self.rows = self._read_list()

    def _read_list(self) -> set[int]:
        try:
            return {int(line) for line in self._list.read_text("ascii").splitlines()}
        except FileNotFoundError:
            return set()

    def write(self, row: int, logits: FloatArray) -> None:
        """Keep one chunk's log-probabilities, (n_scored, n_vocab).

        Raises:
            LabError: the disk is full.
        """
        data = log_softmax_rows(logits).tobytes()
        with writing(self.path):
            with self.path.open("r+b" if self.path.exists() else "wb") as stream:
                stream.seek(row * len(data))
                stream.write(data)
            with self._list.open("a", encoding="ascii") as names:
                names.write(f"{row}\n")
        self.rows.add(row)

    def read(self, row: int) -> FloatArray:
        """One chunk's log-probabilities, (n_scored, n_vocab) float32.

        Raises:
            LabError: the spool is of another vocabulary.
        """
        count = self._shape[0] * self._shape[1]
        values = np.fromfile(self.path, dtype=np.float32, count=count, offset=4 * count * row)
        if values.size != count:
            raise LabError("The baseline's probabilities do not fit this file's vocabulary.", "Run the step again.")
        return values.reshape(self._shape)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._list.unlink(missing_ok=True)


def compare(base: FloatArray, logits: FloatArray) -> Floats:
    """One chunk's divergence from the baseline.

    Args:
        base: (n_scored, n_vocab) float32 log-probabilities of the baseline.
        logits: (n_scored, n_vocab) float32 of the file.
    Returns: (2 n_scored,): KL divergence of each token in nats, then 1 where both have the same top token, else 0.
    """
    return np.concatenate([kl_rows(base, logits), same_top(base, logits).astype(np.float64)])


def summary(values: Floats) -> KlSummary:
    """Figures over the chunks measured.

    Args:
        values: (n_chunks, 2 n_scored) as `compare` gives them.
    """
    n_scored = values.shape[1] // 2
    return summarise(values[:, :n_scored], values[:, n_scored:] > 0.5)
