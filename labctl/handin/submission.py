"""What is handed in, as a zip: its manifest, the same bytes for the same work, and reading it without trust."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from labctl import steps
from labctl.engines import in_order
from labctl.errors import LabError
from labctl.lab.folder import RunFolder
from labctl.records.base import Machine
from labctl.records.disk import write_bytes
from labctl.records.sources import SourceModel, TextSource
from labctl.records.store import read_record
from labctl.steps.base import Case
from labctl.steps.measured import Failures, Measured
from labctl.steps.quantize.step import formats_made

MANIFEST = "manifest.json"
KIND = "labctl-submission"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest date: the day of packing is no part of the work
_MOST_FILES = 5_000
_MOST_BYTES = 1 << 28  # ten times what a whole WikiText-2 leaves for seven formats
_NAME = re.compile(r"[A-Za-z0-9._ -]{1,120}")
_FORMAT = re.compile(r"[A-Za-z0-9_]{1,40}")
_NO_ZIP = "Take the file that `labctl submit` wrote."


class FileEntry(msgspec.Struct, frozen=True):
    """A file of a submission."""

    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a submission says about itself.

    Attributes:
        formats: the lab's formats, the baseline first.
        settings: what the report was rendered with: weights, limit, blank, q13_limits.
        gguf_sha256: format -> digest of the file that was measured.
        record_keys: "<step>-<format>" -> key of the record.
        warnings: what the run itself warned of.
        missing, drafts: deliverables that are not there, questions whose answer is still labctl's draft.
        files: path in the zip -> digest and size of every other file.
    """

    kind: str
    version: int
    labctl: str
    model: SourceModel
    text: TextSource | None
    formats: tuple[str, ...]
    machines: tuple[Machine, ...]
    versions: dict[str, str]
    newest_record: str
    settings: dict[str, object]
    gguf_sha256: dict[str, str]
    record_keys: dict[str, str]
    warnings: tuple[str, ...]
    missing: tuple[str, ...]
    drafts: tuple[int, ...]
    files: dict[str, FileEntry]


def write_zip(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a submission; the same contents give the same bytes.

    Raises:
        LabError: the folder cannot be written.
    """
    stream = io.BytesIO()
    content = {MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n", **files}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content[name])
    write_bytes(path, stream.getvalue())


def read_zip(path: Path) -> dict[str, bytes]:
    """Contents of a zip from somebody else: no path that leaves its folder, no bomb, no name twice.

    Returns: path in the zip -> bytes.
    Raises:
        LabError: not a zip, damaged, or not of a submission's kind.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise LabError(f"{path} is not a file.", _NO_ZIP)
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            names = [entry.filename for entry in entries]
            if len(entries) > _MOST_FILES or len(set(names)) != len(names):
                raise LabError(f"{path.name} holds too many files, or one of them twice.", _NO_ZIP)
            found, left = {}, _MOST_BYTES
            for entry in entries:
                _check_name(path, entry)
                with archive.open(entry) as stream:
                    data = stream.read(left + 1)  # what the header says of the size is only a claim
                left -= len(data)
                if left < 0:
                    raise LabError(f"{path.name} unpacks to more than {_MOST_BYTES >> 20} MiB.", _NO_ZIP)
                found[entry.filename] = data
            return found
    except FileNotFoundError as error:
        raise LabError(f"There is no file {path}.", _NO_ZIP) from error
    except OSError as error:
        raise LabError(f"Cannot read {path}: {error.strerror or error}.", "Check its permissions.") from error
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError),
        *(OverflowError, MemoryError, LookupError, TypeError),  # of zipfile itself, for impossible fields
    ) as error:
        raise LabError(f"{path.name} is not a sound zip file: {str(error)[:200]!r}.", _NO_ZIP) from error


def _check_name(path: Path, entry: zipfile.ZipInfo) -> None:
    parts = entry.filename.split("/")
    sound = all(_NAME.fullmatch(part) and part.strip(". ") for part in parts) and len(parts) <= 6
    mode = entry.external_attr >> 16
    packed = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may claim gigabytes of memory
    if not sound or not packed or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)) or entry.flag_bits & 1:
        raise LabError(f"{path.name} holds a file that a submission cannot hold: {entry.filename[:80]!r}.", _NO_ZIP)


def read_manifest(path: Path, files: Mapping[str, bytes]) -> Manifest:
    """The manifest of a submission.

    Raises:
        LabError: there is none, or it is of another kind or a newer version.
    """
    if MANIFEST not in files:
        raise LabError(f"{path.name} has no {MANIFEST}, so it is no submission.", _NO_ZIP)
    try:
        manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LabError(f"The manifest of {path.name} cannot be read: {error}.", _NO_ZIP) from error
    if manifest.kind != KIND or manifest.version != 1:
        raise LabError(
            f"{path.name} is of another kind, or from a newer labctl.", "Update labctl, or take another file."
        )
    if not manifest.formats or not all(_FORMAT.fullmatch(name) for name in manifest.formats):
        raise LabError(f"The manifest of {path.name} names no formats, or impossible ones.", _NO_ZIP)
    return manifest


def changed_files(manifest: Manifest, files: Mapping[str, bytes]) -> list[str]:
    """What does not agree with the manifest: files changed, gone, or added."""
    found = []
    for name in sorted({*manifest.files, *files} - {MANIFEST}):
        if name not in files:
            found.append(f"{name} is gone")
        elif name not in manifest.files:
            found.append(f"{name} was added")
        elif hashlib.sha256(files[name]).hexdigest() != manifest.files[name].sha256:
            found.append(f"{name} was changed")
    return found


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of `read_zip` below a folder."""
    for name, data in files.items():
        write_bytes(folder.joinpath(*name.split("/")), data)


def without_paths(data: bytes) -> bytes:
    """A record's JSON with file names in place of absolute paths: a home folder's name is nobody's business."""

    def cleaned(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: cleaned(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [cleaned(one, key) for one in value]
        if isinstance(value, str) and key in ("path", "spec", "log_path") and re.match(r"[/\\~]|[A-Za-z]:[/\\]", value):
            return re.split(r"[/\\]", value)[-1]
        return value

    return json.dumps(cleaned(json.loads(data)), indent=1, ensure_ascii=False).encode() + b"\n"


def stays_inside(name: str) -> bool:
    """Whether a file's name leads no way out of its folder: those of a stranger may point anywhere."""
    return not (Path(name).is_absolute() or ".." in Path(name).parts)


def load_folder(folder: Path, formats: tuple[str, ...] = (), warnings: tuple[str, ...] = ()) -> Measured:
    """All records of an outputs/<model> folder as they are, whether or not the model's files are still there.

    Args:
        formats: the lab's formats; those of the records if not given.
    Raises:
        LabError: the folder holds no run.
    """
    run = RunFolder(folder)
    model = read_record(run.record_path("source"), SourceModel)
    if model is None or not _FORMAT.fullmatch(model.baseline):
        raise LabError(f"{folder} holds no run of labctl.", "Name an outputs/<model> folder, or a submission's zip.")
    if not formats:
        formats = (model.baseline, *in_order(formats_made(run) - {model.baseline}))

    failures = read_record(run.record_path("failures"), Failures)
    records: dict[str, dict[Case, Any]] = {}
    beside: dict[str, Any] = {}
    for step in steps.every():
        records[step.name] = step.there(run, formats)
        beside |= {name: read_record(run.record_path(name), kind) for name, kind in step.beside.items()}
    measured = Measured(
        folder=str(folder),
        model=model,
        text=read_record(run.record_path("text"), TextSource),
        formats=formats,
        records=records,
        failures=() if failures is None else failures.failures,
        warnings=warnings,
        **beside,
    )
    return measured.only(lambda kept: all(stays_inside(name) for name in kept.step.raw(kept.record)))
