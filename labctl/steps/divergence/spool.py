"""KL divergence from the baseline and top-token agreement, taken while perplexity has the logits at hand anyway.

The baseline's log-probabilities go to a temporary spool, a row a chunk; every other format compares with its row. The
spool is float32, so that nothing is clamped: llama.cpp's own 16-bit file moves its base perplexity by 0.2 %.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.engines.model import FloatArray
from labctl.errors import LabError
from labctl.records.disk import writing
from labctl.steps.divergence.kl import KlSummary, log_softmax_rows, summarise
from labctl.steps.divergence.record import list_path, remove_spool

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
        self._running: dict[int, int] = {}  # row -> crc32 of what was written or read of it so far

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
        return {int(part[0]): int(part[1]) for part in parts if len(part) == 2 and all(word.isdigit() for word in part)}

    def begin(self) -> None:
        """Make ready to write. Rows that are not what was written go: a power cut can keep the list and lose the data.

        Raises:
            LabError: the file cannot be written.
        """
        with writing(self.path):
            self.path.parent.mkdir(exist_ok=True)
            self.path.touch()
        for row in self.rows:
            if not self._is_whole(row, self._load(row)):
                del self._checksums[row]

    def write(self, row: int, start: int, logits: FloatArray) -> None:
        """Write log-probabilities of some of a chunk's positions; it counts once `close_row` is called.

        Args:
            start: the first position; a chunk's positions come in order.
            logits: (n, n_vocab).
        Raises:
            LabError: the disk is full, or labctl took the file away to make room.
        """
        data = log_softmax_rows(logits).ravel().view(np.uint8).data
        with writing(self.path), self.path.open("r+b") as stream:
            stream.seek(self._offset(row, start))
            stream.write(data)
        self._running[row] = zlib.crc32(data, self._running[row] if start else 0)

    def close_row(self, row: int) -> None:
        """Count a chunk as written: all its positions are there."""
        self._checksums[row] = self._running.pop(row)
        with writing(self._list), self._list.open("a", encoding="ascii") as names:
            names.write(f"\n{row} {self._checksums[row]}\n")  # on a line of its own, also after a torn one

    def read(self, row: int, start: int, count: int) -> FloatArray:
        """Log-probabilities of some of a chunk's positions, to be checked by `check_row` after the last of them.

        Args:
            start: the first position; a chunk's positions are read in order.
        Returns: (count, n_vocab) float32.
        Raises:
            LabError: the spool is of another vocabulary, cut off, or gone.
        """
        n_vocab = self._shape[1]
        with writing(self.path):
            values = np.fromfile(self.path, dtype=np.float32, count=count * n_vocab, offset=self._offset(row, start))
        if values.size != count * n_vocab:
            raise _does_not_fit()
        self._running[row] = zlib.crc32(values.view(np.uint8).data, self._running[row] if start else 0)
        return values.reshape(count, n_vocab)

    def check_row(self, row: int) -> None:
        """Raise unless what was read of a chunk is what was written."""
        if self._running.pop(row) != self._checksums[row]:
            raise _does_not_fit()

    def _offset(self, row: int, start: int) -> int:
        n_scored, n_vocab = self._shape
        return 4 * n_vocab * (row * n_scored + start)

    def _load(self, row: int) -> FloatArray:
        count = self._shape[0] * self._shape[1]
        return np.fromfile(self.path, dtype=np.float32, count=count, offset=4 * count * row)

    def _is_whole(self, row: int, values: FloatArray) -> bool:
        whole = values.size == self._shape[0] * self._shape[1]
        return whole and zlib.crc32(values.ravel().view(np.uint8).data) == self._checksums[row]

    def remove(self) -> None:
        """Take it from the disk; no row counts any more."""
        self._checksums.clear()
        remove_spool(self.path)


def summary(values: Floats) -> KlSummary:
    """Figures over the chunks measured.

    Args:
        values: (n_chunks, 2 n_scored): divergences, then 1 or 0 for the same top token.
    """
    n_scored = values.shape[1] // 2
    return summarise(values[:, :n_scored], values[:, n_scored:] > 0.5)


def _does_not_fit() -> LabError:
    return LabError("The baseline's probabilities do not fit this file's vocabulary.", "Run the step again.")
