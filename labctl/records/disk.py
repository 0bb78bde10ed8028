"""Writing without half-written files, and what a disk refuses in words."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabError
from labctl.records.units import size_text

PARTIAL = ".partial-"
SCRATCH = ".scratch"  # in the model's folder


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
            f"The disk is full: cannot write {path.name} in {place.parent if place.name == SCRATCH else place}.",
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


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not be there yet."""
    import shutil  # and with it the compressors: not in children that measure memory

    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def require_space(
    folder: Path, needed_bytes: int, what: str, elsewhere: str = "choose another disk with --outputs"
) -> None:
    """Check that a folder's disk has room, before anything is written.

    Args:
        elsewhere: what to do if no space can be made.
    Raises:
        LabError: it has not.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise LabError(
            f"Not enough disk for {what}: {size_text(needed_bytes)} needed, {size_text(free)} free in {folder}.",
            f"Free some space, or {elsewhere}.",
        )
