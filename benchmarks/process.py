"""Running one process after the other, each timed from its start to its end, with its peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.records import Sample
from benchmarks.screen import Screen
from labctl.errors import LabError
from labctl.executors.base import AnyEvent, OnRows, Progress, Result, Rows, Task

RecordT = TypeVar("RecordT")

_POLL_S = 0.05
_TAIL = 64_000_000
_LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A process that ended well: its figures, and what it printed."""

    sample: Sample
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Runner:
    """Starts processes one at a time.

    Attributes:
        folder: for their output and for the launcher's notes.
    """

    folder: Path
    screen: Screen

    def run(
        self,
        argv: Sequence[str],
        *,
        side: str,
        format_name: str = "",
        round_number: int = 0,
        step: str = "",
        stdin: str = "",
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
        share: Callable[[str], float | None] | None = None,
    ) -> Finished:
        """Run a program to its end.

        Args:
            stdin: kept open behind this text if there is any, else empty.
            share: how much is done, from what stdout holds so far.
        Raises:
            LabError: it did not end with status 0; its log stays in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        what = " ".join(part for part in (side, step, format_name) if part)
        if round_number:
            what += f", round {round_number}"
        out, err = self.folder / "stdout.log", self.folder / "stderr.log"
        job, note = self.folder / "job.json", self.folder / "figures.json"
        for old in (out, err, note):
            old.unlink(missing_ok=True)
        job.write_text(
            json.dumps(
                {
                    "argv": [str(one) for one in argv],
                    "stdin": stdin,
                    "stdout": str(out),
                    "stderr": str(err),
                    "env": {**os.environ, **(environment or {})},
                    "cwd": str(cwd or self.folder),
                }
            ),
            "utf-8",
        )
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCHER), str(job), str(note)], stdin=subprocess.DEVNULL
        )
        try:
            while launcher.poll() is None:
                time.sleep(_POLL_S)
                self._show(what, out, share)
        except BaseException:
            launcher.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(10)
            raise
        stdout, stderr = _read(out), _read(err)
        if not note.exists():
            raise LabError(f"{what} could not be started: {argv[0]}.", f"Its log: {err}")
        figures = json.loads(note.read_text("utf-8"))
        status = figures.pop("status")
        sample = Sample(side=side, format=format_name, round=round_number, step=step, **figures)
        if status != 0:
            kept = self.folder / "failed.log"
            kept.write_text(f"{' '.join(map(str, argv))}\n{stderr}\n{stdout}", "utf-8")
            raise LabError(f"{what} ended with status {status}.", f"Its log: {kept}")
        return Finished(sample=sample, stdout=stdout, stderr=stderr)

    def _show(self, what: str, out: Path, share: Callable[[str], float | None] | None) -> None:
        if self.screen.due():
            self.screen.tick(what, share(_read(out)) if share is not None else None)

    def run_task(
        self,
        task: Task,
        kind: type[RecordT],
        *,
        format_name: str,
        round_number: int = 0,
        step: str = "",
        on_rows: OnRows | None = None,
    ) -> tuple[RecordT, Sample]:
        """Give labctl's child process one task, as labctl does, and read its rows and its record.

        Raises:
            LabError: the task failed.
        """
        from benchmarks.records import OURS

        finished = self.run(
            [sys.executable, "-m", "labctl.executors.child"],
            side=OURS,
            format_name=format_name,
            round_number=round_number,
            step=step,
            stdin=task.line().decode(),
            environment={"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            share=task_share,
        )
        events = [msgspec.json.decode(line, type=AnyEvent) for line in finished.stdout.splitlines()]
        for event in events:
            if isinstance(event, Rows) and on_rows is not None:
                on_rows(event)
        if not isinstance(event, Result):
            raise LabError(f"labctl's {step} of {format_name} gave no record.", f"Its log: {self.folder}")
        return msgspec.json.decode(event.record, type=kind), finished.sample


def task_share(stdout: str) -> float | None:
    """How much of a task is done, from the newest whole event that says so."""
    for line in reversed(stdout.splitlines()):
        with contextlib.suppress(msgspec.MsgspecError):
            event = msgspec.json.decode(line, type=AnyEvent)
            if isinstance(event, Progress) and event.total:
                return event.done / event.total
    return None


def warm(path: Path) -> None:
    """Read a file once, so that the disk plays no part in what follows."""
    with path.open("rb") as stream:
        while stream.read(1 << 22):
            pass


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[-_TAIL:].decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
