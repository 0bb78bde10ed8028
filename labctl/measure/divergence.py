"""KL divergence from the baseline and top-token agreement, taken while perplexity has the logits at hand anyway.

The baseline's log-probabilities go to a temporary spool, a row a chunk; every other format compares with its row. The
spool is float32, so that nothing is clamped: llama.cpp's own 16-bit file moves its base perplexity by 0.2 %.
"""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
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

    It outlives a kill: a row counts once it is in the list, which holds its checksum, too.

    Args:
        path: (n_rows, n_scored, n_vocab) float32 without a header; the list stands beside it.
    """

    def __init__(self, path: Path, n_scored: int, n_vocab: int) -> None:
        self.path = path
        self._shape = (n_scored, n_vocab)
        self._list = list_path(path)
        self._checksums = self._read_list()

    @property
    def rows(self) -> set[int]:
        """The rows written."""
        return set(self._checksums)

    def _read_list(self) -> dict[int, int]:
        """Row -> crc32, of the list's whole lines."""
        try:
            lines = self._list.read_text("ascii", errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        parts = [line.split() for line in lines if line.endswith("\n")]
        return {int(part[0]): int(part[1]) for part in parts if len(part) == 2 and all(one.isdigit() for one in part)}

    def drop_damaged(self) -> None:
        """Take rows out that are not what was written: a power cut can keep the list and lose the data."""
        for row in self.rows:
            if not self._is_whole(row, self._load(row)):
                del self._checksums[row]

    def write(self, row: int, logits: FloatArray) -> None:
        """Keep one chunk's log-probabilities, (n_scored, n_vocab).

        Raises:
            LabError: the disk is full.
        """
        data = log_softmax_rows(logits).ravel().view(np.uint8).data
        with writing(self.path):
            with self.path.open("r+b" if self.path.exists() else "wb") as stream:
                stream.seek(row * len(data))
                stream.write(data)
            self._checksums[row] = zlib.crc32(data)
            with self._list.open("a", encoding="ascii") as names:
                names.write(f"\n{row} {self._checksums[row]}\n")  # on a line of its own, also after a torn one

    def read(self, row: int) -> FloatArray:
        """One chunk's log-probabilities, (n_scored, n_vocab) float32.

        Raises:
            LabError: the spool is of another vocabulary, or damaged.
        """
        values = self._load(row)
        if not self._is_whole(row, values):
            raise LabError("The baseline's probabilities do not fit this file's vocabulary.", "Run the step again.")
        return values.reshape(self._shape)

    def _load(self, row: int) -> FloatArray:
        count = self._shape[0] * self._shape[1]
        return np.fromfile(self.path, dtype=np.float32, count=count, offset=4 * count * row)

    def _is_whole(self, row: int, values: FloatArray) -> bool:
        whole = values.size == self._shape[0] * self._shape[1]
        return whole and zlib.crc32(values.ravel().view(np.uint8).data) == self._checksums[row]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._list.unlink(missing_ok=True)


def list_path(spool: Path) -> Path:
    """Where the list of a spool's rows is."""
    return spool.with_name(spool.name + ".rows")


def compare(base: FloatArray, logits: FloatArray, n_threads: int = 1) -> Floats:
    """One chunk's divergence from the baseline.

    Args:
        base: (n_scored, n_vocab) float32 log-probabilities of the baseline.
        logits: (n_scored, n_vocab) float32 of the file.
        n_threads: to share the rows among.
    Returns: (2 n_scored,): KL divergence of each token in nats, then 1 where both have the same top token, else 0.
    """
    kl, same = np.empty(len(base)), np.empty(len(base))

    def rows(part: slice) -> None:
        kl[part] = kl_rows(base[part], logits[part])
        same[part] = same_top(base[part], logits[part])

    step = max(1, -(-len(base) // n_threads))
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(rows, (slice(start, start + step) for start in range(0, len(base), step))))
    return np.concatenate([kl, same])


def summary(values: Floats) -> KlSummary:
    """Figures over the chunks measured.

    Args:
        values: (n_chunks, 2 n_scored) as `compare` gives them.
    """
    n_scored = values.shape[1] // 2
    return summarise(values[:, :n_scored], values[:, n_scored:] > 0.5)
