"""Rows of numbers on disk, kept one by one, so that a killed run loses at most what it was computing.

While a file is measured its rows go to an append-only journal, each with its own checksum; a torn last row is dropped
at the next opening. `finish` folds the journal into the .npy file that everything else reads.
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

_ROW = struct.Struct("<III")  # row number, number of values, crc32 of row number and values
_SYNC_EVERY = 16  # rows; a power cut costs at most these, a kill costs none

FloatArray = NDArray[np.float64]


class ArrayJournal:
    """An array of float64, (n_rows, n_values), of which some rows are measured.

    Args:
        path: the .npy file, in which a row that is not measured is NaN; the journal stands beside it.
        n_values: of each row.
    Attributes:
        rows: row number -> its values, (n_values,).
    """

    def __init__(self, path: Path, n_values: int) -> None:
        self._path = path
        self._journal_path = journal_path(path)
        self._journal: io.RawIOBase | None = None
        self._rows_since_sync = 0
        self._n_values = n_values
        self.rows: dict[int, FloatArray] = {}
        if (finished := load_rows(path)) is not None and finished.shape[1] == n_values:
            self.rows = {int(number): finished[number] for number in np.flatnonzero(~np.isnan(finished[:, 0]))}
        self._replay()

    def _replay(self) -> None:
        """Take over the journal's whole rows and cut off what a kill left torn."""
        try:
            data = self._journal_path.read_bytes()
        except FileNotFoundError:
            return
        size = _ROW.size + 8 * self._n_values
        good = 0
        while good + size <= len(data):
            number, count, checksum = _ROW.unpack_from(data, good)
            payload = data[good + _ROW.size : good + size]
            if count != self._n_values or _checksum(number, payload) != checksum:
                break
            self.rows[number] = np.frombuffer(payload, dtype="<f8")
            good += size
        if good < len(data):
            with writing(self._journal_path), self._journal_path.open("r+b") as stream:
                stream.truncate(good)

    def add(self, number: int, values: bytes) -> None:
        """Keep one row, little-endian float64.

        Raises:
            LabError: the disk is full or not writable; rows kept before stay.
        """
        row = _ROW.pack(number, len(values) // 8, _checksum(number, values)) + values
        with writing(self._journal_path):
            if self._journal is None:
                self._journal_path.parent.mkdir(parents=True, exist_ok=True)
                # Unbuffered: a row that a full disk refused must not be tried again by close().
                self._journal = self._journal_path.open("ab", buffering=0)
            end = self._journal.tell()
            if self._journal.write(row) != len(row):
                self._journal.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._rows_since_sync += 1
            if self._rows_since_sync >= _SYNC_EVERY:
                os.fsync(self._journal.fileno())
                self._rows_since_sync = 0
        self.rows[number] = np.frombuffer(values, dtype="<f8")

    def finish(self, n_rows: int) -> None:
        """Write the .npy file of n_rows and drop the journal; a kill between the two loses nothing."""
        self.close()
        if self._journal_path.exists() or not self._path.exists():
            array = np.full((n_rows, self._n_values), np.nan)
            for number, values in self.rows.items():
                if number < n_rows:
                    array[number] = values
            buffer = io.BytesIO()
            np.save(buffer, array)
            write_bytes(self._path, buffer.getvalue())
            self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def journal_path(path: Path) -> Path:
    """Where the journal of a .npy file is."""
    return path.with_name(f".journal-{path.stem}")


def _checksum(number: int, payload: bytes) -> int:
    return zlib.crc32(payload, number)


def load_rows(path: Path) -> FloatArray | None:
    """Read a finished .npy of rows; None where there is none or it is damaged (its rows are then measured again)."""
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


def from_ranges(ranges: Iterable[tuple[int, int]]) -> set[int]:
    """The numbers in [start, stop) ranges."""
    return {number for start, stop in ranges for number in range(start, stop)}


def to_ranges(chunks: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ascending [start, stop) ranges that cover exactly these chunk numbers."""
    ranges: list[tuple[int, int]] = []
    for chunk in sorted(set(chunks)):
        if ranges and ranges[-1][1] == chunk:
            ranges[-1] = (ranges[-1][0], chunk + 1)
        else:
            ranges.append((chunk, chunk + 1))
    return tuple(ranges)
