"""Digests: of settings, and of files, which are remembered while a file does not change."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labctl.errors import LabError
from labctl.records.disk import write_text


def digest(value: Mapping[str, object]) -> str:
    """sha256 of a mapping of plain values, independent of key order."""
    import hashlib

    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read in blocks."""
    import hashlib  # 3.5 MB of OpenSSL, which would count as memory of the children that measure

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(stream)


def _sha256(stream: Any) -> str:
    """hashlib.file_digest for Python 3.10."""
    import hashlib

    state = hashlib.sha256()
    while block := stream.read(1 << 20):
        state.update(block)
    return state.hexdigest()


class DigestCache:
    """sha256 of files, remembered while nothing about a file changes: a 14 GB model is hashed once.

    The time of change (ctime) tells of a file that was written over and given its old time back.
    """

    def __init__(self, path: Path, *, keep: bool = True) -> None:
        self._path = path
        self._keep = keep
        self._known: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            loaded = json.loads(path.read_text("utf-8"))
            if isinstance(loaded, dict):
                self._known = loaded

    def sha256(self, path: Path) -> str:
        """Digest of a file as it is now.

        Raises:
            LabError: the file cannot be read.
        """
        try:
            status = path.stat()
            entry = self._known.get(str(path.resolve()))
            if isinstance(entry, list) and entry[:-1] == _stamp(status):
                return str(entry[-1])
            value = file_sha256(path)
        except OSError as error:
            raise LabError(f"Cannot read {path}: {error.strerror}.", "Check the path and its permissions.") from error
        self.remember(path, value)
        return value

    def remember(self, path: Path, value: str) -> None:
        """Note the digest of a file just written; one that is gone again is left out."""
        try:
            status = path.stat()
        except OSError:
            return
        self._known[str(path.resolve())] = [*_stamp(status), value]
        if not self._keep:
            return
        with contextlib.suppress(LabError):  # a cache that cannot be kept costs time, not truth
            write_text(self._path, json.dumps(self._known, indent=1, sort_keys=True) + "\n")


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def model_sha256(paths: Sequence[Path], sha256_of: Callable[[Path], str] = file_sha256) -> str:
    """Digest of a model: of its one file, or of the digests of all its parts in order."""
    hashes = [sha256_of(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else digest({"parts": hashes})
