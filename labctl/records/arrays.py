"""Per-token NLL on disk, chunk by chunk, so that a killed run loses at most the chunks it was computing.

While a file is measured its chunks go to an append-only journal, each row with its own checksum; a torn last row is
dropped at the next opening. `finish` folds the journal into the .npy file that everything else reads.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import tokenize
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labctl.records.disk import write_bytes, writing

_ROW = struct.Struct("<III")  # chunk number, number of values, crc32 of chunk number and values
_SYNC_EVERY = 16  # rows; a power cut costs at most these, a kill costs none

NllArray = NDArray[np.float64]


class NllStore:
    """NLL of one file on one text: (n_chunks, n_scored) float64 in nats, NaN rows where nothing is measured.

    Args:
        path: the .npy file; the journal stands beside it under a hidden name.
    """

    def __init__(self, path: Path, n_chunks: int, n_scored: int) -> None:
        self.path = path
        self._journal_path = path.with_name(f".journal-{path.stem}")
        self._journal: io.RawIOBase | None = None
        self._rows_since_sync = 0
        self.values: NllArray = np.full((n_chunks, n_scored), np.nan)
        if (finished := load_nll(path)) is not None and finished.shape == self.values.shape:
            self.values[:] = finished
        self._replay()

    def _replay(self) -> None:
        """Take over the journal's whole rows and cut off what a kill left torn."""
        try:
            data = self._journal_path.read_bytes()
        except FileNotFoundError:
            return
        n_scored = self.values.shape[1]
        size = _ROW.size + 8 * n_scored
        good = 0
        while good + size <= len(data):
            chunk, count, checksum = _ROW.unpack_from(data, good)
            payload = data[good + _ROW.size : good + size]
            if count != n_scored or chunk >= len(self.values) or _checksum(chunk, payload) != checksum:
                break
            self.values[chunk] = np.frombuffer(payload, dtype="<f8")
            good += size
        if good < len(data):
            with writing(self._journal_path), self._journal_path.open("r+b") as stream:
                stream.truncate(good)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(n_chunks,) which chunks are there."""
        return ~np.isnan(self.values[:, 0])

    def missing(self, chunks: Iterable[int]) -> list[int]:
        """Those of `chunks` that are not measured yet, in the order given."""
        done = self.measured
        return [chunk for chunk in chunks if not done[chunk]]

    def add(self, chunk: int, nll: NllArray) -> None:
        """Keep one chunk's NLL, (n_scored,) nats.

        Raises:
            LabError: the disk is full or not writable; chunks kept before stay.
        """
        payload = np.ascontiguousarray(nll, dtype="<f8").tobytes()
        with writing(self._journal_path):
            if self._journal is None:
                self._journal_path.parent.mkdir(parents=True, exist_ok=True)
                # Unbuffered: a row that a full disk refused must not be tried again by close().
                self._journal = self._journal_path.open("ab", buffering=0)
            row = _ROW.pack(chunk, len(nll), _checksum(chunk, payload)) + payload
            if self._journal.write(row) != len(row):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._rows_since_sync += 1
            if self._rows_since_sync >= _SYNC_EVERY:
                os.fsync(self._journal.fileno())
                self._rows_since_sync = 0
        self.values[chunk] = nll

    def finish(self) -> None:
        """Write the .npy file and drop the journal; a kill between the two loses nothing."""
        self.close()
        if self._journal_path.exists() or not self.path.exists():
            buffer = io.BytesIO()
            np.save(buffer, self.values)
            write_bytes(self.path, buffer.getvalue())
            self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def _checksum(chunk: int, payload: bytes) -> int:
    return zlib.crc32(payload, chunk)


def load_nll(path: Path) -> NllArray | None:
    """Read a finished .npy of NLL; None where there is none or it is damaged (its chunks are then measured again)."""
    values = map_array(path)
    return np.array(values) if values is not None and values.ndim == 2 and values.dtype == np.float64 else None


def map_array(path: Path) -> NDArray[Any] | None:
    """Map a .npy file, whoever wrote it; None where there is none, or none that numpy can read."""
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header may lie about size
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        return None
    except tokenize.TokenError:  # numpy reads a header as Python's literals
        return None
    return values if isinstance(values, np.ndarray) else None


def to_ranges(chunks: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ascending [start, stop) ranges that cover exactly these chunk numbers."""
    ranges: list[tuple[int, int]] = []
    for chunk in sorted(set(chunks)):
        if ranges and ranges[-1][1] == chunk:
            ranges[-1] = (ranges[-1][0], chunk + 1)
        else:
            ranges.append((chunk, chunk + 1))
    return tuple(ranges)
