"""The only module that writes: run folders, atomic files, digests, records, locks."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import re
import shlex
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from labctl.errors import LabError
from labctl.records_base import SCHEMA_VERSION

RecordT = TypeVar("RecordT")
PARTIAL = ".partial-"


class _Envelope(msgspec.Struct):
    """What every record file holds around its record."""

    schema_version: int
    kind: str
    record: msgspec.Raw


@dataclass(frozen=True, slots=True)
class RunFolder:
    """outputs/<model>/: where one model's files, records and logs live."""

    root: Path

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def nll(self) -> Path:
        return self.root / "nll"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def record_path(self, step: str, format_name: str = "") -> Path:
        """records/<step>-<format>.json, or records/<step>.json for a step of the whole model."""
        return self.records / (f"{step}-{format_name}.json" if format_name else f"{step}.json")

    def log_path(self, step: str, format_name: str = "") -> Path:
        return self.logs / (f"{step}-{format_name}.log" if format_name else f"{step}.log")

    def make(self) -> RunFolder:
        """Create the folders.

        Raises:
            LabError: the place is not writable.
        """
        with writing(self.root):
            for folder in (self.root, self.records, self.nll, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        return self


_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(text: str) -> str:
    """A file name made of letters, digits, dot, dash and underscore, that cannot leave its folder.

    Nor is it a device of Windows, which takes CON, nul.txt or COM1.gguf for one in every folder.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:80].rstrip("-._") or "model"
    return f"model-{name}"[:80] if _DEVICE.fullmatch(name) else name


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into one line that says which folder and why.

    Raises:
        LabError: no permission, read-only, disk full, over quota, no such folder.
    """
    try:
        yield
    except OSError as error:
        if (explained := refusal(error, path)) is not None:
            raise explained from error
        raise


def refusal(error: OSError, path: Path) -> LabError | None:
    """In plain words why the system refused to write a file; None where it is not about writing."""
    place = path.parent
    with contextlib.suppress(OSError):  # the name itself may be what the system refuses
        place = path if path.is_dir() else path.parent
    shown = f"{str(path)[:80]}..." if len(str(path)) > 200 else str(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LabError(
            f"The disk is full: cannot write {path.name} in {place}.",
            "Free some space and run the same command again: what is finished is kept.",
        )
    if error.errno == errno.EFBIG:
        return LabError(
            f"Cannot write {shown}: the disk or this account allows no file of that size (ulimit -f).",
            "Raise the limit, or choose another disk with --outputs and --reports.",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LabError(
            f"Cannot write to {place}: {os.strerror(error.errno).lower()}.",
            "Choose another folder with --outputs and --reports, or change its permissions.",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO):
        return LabError(f"Cannot write {shown}: {os.strerror(error.errno).lower()}.", "Check the folder.")
    return None


def partial_path(path: Path) -> Path:
    """A name in the same folder for a file that is not finished yet."""
    return path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:12]}-{path.name}"[:200])


def publish(partial: Path, path: Path) -> None:
    """Give a finished file its real name: on disk first, then renamed, then the folder on disk."""
    with writing(path):
        descriptor = os.open(partial, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Windows has no handle on folders and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or not there.

    Raises:
        LabError: disk full, read-only, no permission; an older file of that name is untouched.
    """
    partial = partial_path(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
        publish(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with \\n line ends, whole or not at all. An unchanged file is left alone."""
    data = text.encode("utf-8")
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    write_bytes(path, data)


def remove_partials(folder: Path, pattern: str = "*") -> None:
    """Delete what a killed run left unfinished."""
    if folder.is_dir():
        for leftover in folder.glob(f"{PARTIAL}{pattern}"):
            with contextlib.suppress(OSError):
                leftover.unlink()


# -- records ----------------------------------------------------------------------------------------------------------


def write_record(path: Path, record: object) -> None:
    """Write a record as JSON with its kind and schema version."""
    envelope = {"schema_version": SCHEMA_VERSION, "kind": type(record).__name__, "record": record}
    write_bytes(path, msgspec.json.format(msgspec.json.encode(envelope), indent=1) + b"\n")


def read_record(path: Path, kind: type[RecordT]) -> RecordT | None:
    """Read a record back.

    Returns: None where there is none, or one that is unreadable or of an older schema (the step is then redone).
    Raises:
        LabError: the record was written by a newer labctl.
    """
    try:
        envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
        if envelope.schema_version > SCHEMA_VERSION:
            raise LabError(
                f"{path} was written by a newer labctl (schema {envelope.schema_version}, this one reads"
                f" {SCHEMA_VERSION}).",
                "Update labctl, or move the outputs folder away and run again.",
            )
        if envelope.schema_version < SCHEMA_VERSION or envelope.kind != kind.__name__:
            return None
        return msgspec.json.decode(envelope.record, type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def refuse_newer(folder: Path) -> None:
    """Stop before records of a newer labctl are taken for missing and written over.

    Raises:
        LabError: there is one in the folder.
    """
    for path in sorted(folder.glob("*.json")):
        read_record(path, type(None))


def set_aside_damaged(folder: Path, kinds: Mapping[str, type[Any]]) -> list[Path]:
    """Rename records that cannot be read, so that their steps are redone and nothing is lost without a word.

    Records of an older schema are no damage, and newer ones are `read_record`'s to refuse.

    Args:
        kinds: name of a kind of record -> its class.
    Returns: the new names, each with .damaged behind the old one.
    """
    moved = []
    for path in sorted(folder.glob("*.json")):
        try:
            envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
            if envelope.schema_version == SCHEMA_VERSION and envelope.kind in kinds:
                msgspec.json.decode(envelope.record, type=kinds[envelope.kind])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            with contextlib.suppress(OSError):
                moved.append(path.replace(path.with_name(path.name + ".damaged")))
        except OSError:
            continue
    return moved


# -- digests ----------------------------------------------------------------------------------------------------------


def digest(value: Mapping[str, Any]) -> str:
    """sha256 of a mapping of plain values, independent of key order."""
    import hashlib

    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, read in blocks."""
    import hashlib  # 3.5 MB of OpenSSL, which would count as memory of the children that measure

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(stream)


def model_sha256(paths: Sequence[Path], sha256_of: Callable[[Path], str] = file_sha256) -> str:
    """Digest of a model: of its one file, or of the digests of all its parts in order."""
    hashes = [sha256_of(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else digest({"parts": hashes})


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


# -- locks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(folder: Path, wait: bool = False, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let one labctl at a time work on a model.

    The operating system drops the lock with the process that holds it, so a killed run never blocks the next, whatever
    process has its number by now.

    Args:
        wait: queue behind another process instead of leaving.
        say: told once whom the waiting is for.
    Raises:
        LabError: another process holds it and `wait` is false.
    """
    import filelock

    path = folder / ".lock"
    holder = folder / ".lock-holder"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    guard = filelock.FileLock(path)
    try:
        with writing(path):
            guard.acquire(timeout=0)
    except filelock.Timeout as error:
        if not wait:
            raise LabError(
                f"Another labctl is working on {folder.name}{_held_by(holder)}.",
                "Wait for it to end, or add --wait to queue behind it.",
            ) from error
        if say is not None:
            say(f"Waiting for another labctl that is working on {folder.name}{_held_by(holder)} ...")
        with writing(path):
            guard.acquire(timeout=-1)
    try:
        with contextlib.suppress(OSError):
            since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
            note = {"pid": os.getpid(), "since": since, "command": shlex.join(["labctl", *sys.argv[1:]])}
            holder.write_text(json.dumps(note) + "\n", "utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        guard.release()


def _held_by(holder: Path) -> str:
    """Who holds a lock: process, since when, command; empty where its note is not there (yet)."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        note = json.loads(holder.read_text("utf-8"))
        pid, since, command = int(note["pid"]), str(note["since"]), str(note["command"])
        return f" (process {pid}, since {since}: {command[:120]}{'...' if len(command) > 120 else ''})"
    return ""
