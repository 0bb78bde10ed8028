"""One run at a time in a folder; the lock goes with its process."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from labctl.errors import LabError
from labctl.records.disk import writing


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
