"""The executor of this computer: a fresh child process for each task, and a name for what went wrong when it dies."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from labctl.errors import LabError
from labctl.executors.base import (
    AnyEvent,
    ChildError,
    Failure,
    OnProgress,
    OnRows,
    OnWarnings,
    Progress,
    Result,
    Rows,
    Task,
)
from labctl.executors.reasons import Death, Deaths, log_tail
from labctl.machine.surroundings import child_environment
from labctl.records.disk import writing
from labctl.records.units import size_text

RecordT = TypeVar("RecordT")

# Not `-m`: that puts the current folder first, and a student's random.py there would be imported.
# It looks for modules where its parent does (__main__), and its labctl is the parent's, wherever that was found.
_CHILD = """
import sys
sys.path[:] = sys.argv[4:]
import importlib.util
spec = importlib.util.spec_from_file_location("labctl", sys.argv[3])
sys.modules["labctl"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["labctl"])
from labctl.executors.child import leave
leave()
"""
_SIGNALS = {
    "SIGBUS": "the file vanished or shrank while it was being read",
    "SIGKILL": "it was killed, most likely because memory ran out",
    "SIGTERM": "it was ended from outside",
}
_HINTS = {"SIGKILL": "Close other programs, or leave the largest format out with --formats."}


def run_task(
    task: Task,
    record_type: type[RecordT],
    *,
    log_path: Path,
    hang_s: float,
    on_progress: OnProgress | None = None,
    on_rows: OnRows | None = None,
    on_warnings: OnWarnings | None = None,
    limit_bytes: int = 0,
    deaths: Deaths = lambda signal, log: Death(),
) -> RecordT:
    """Run one task in a fresh process and wait for its record: see `Executor`.

    Args:
        hang_s: seconds without any event after which the child is killed.
        limit_bytes: most address space of the child; 0 for no limit.
        deaths: what the engine makes of a child's end.
    """
    place = task.place
    with writing(log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log = log_path.open("wb")
    with log, _started(log, limit_bytes) as child:
        failure: Failure | None = None
        result: msgspec.Raw | None = None
        warnings: tuple[str, ...] = ()
        wanted, shown = on_rows, on_progress
        _tell(child, task.line())
        for line in _lines(child, hang_s):
            if line is None:
                child.kill()
                child.wait()
                raise ChildError(
                    f"{place}: no sign of life for {hang_s:,.0f} s, so it was given up.",
                    "Run again, or allow more time with hang_s in lab.toml.",
                    log_path,
                )
            try:
                event = msgspec.json.decode(line, type=AnyEvent)
            except msgspec.MsgspecError:  # torn by the child's death, which its exit status tells
                break
            match event:
                case Progress():
                    if shown is not None:
                        shown(event)
                case Rows() if wanted is not None:
                    try:
                        last = wanted(event)
                    except LabError as error:
                        raise ChildError(f"{place}: {error.message}", error.hint, log_path) from error
                    if last:
                        wanted = shown = None  # what comes now was computed before the order arrived
                        _tell(child, b"stop\n")
                case Result():
                    result, warnings = event.record, event.warnings
                case Failure():
                    failure = event
        status = child.wait()
    name = _signal_name(status)
    failed = status != 0 or result is None
    death = deaths(name, (*log_tail(log_path, 100), *([failure.message] if failure else []))) if failed else Death()
    if limit_bytes and death.out_of_memory:
        raise ChildError(
            f"{place}: out of memory: it asked for more than the {size_text(limit_bytes)} that labctl allows it.",
            "Use a smaller --ctx or a shorter text; if the model does need more, set memory_limit_bytes in lab.toml (0:"
            " no limit).",
            log_path,
        )
    if failure is not None:
        message = failure.message if failure.for_all else f"{place}: {failure.message}"
        raise ChildError(message, failure.hint, log_path, for_all=failure.for_all)
    if status != 0 or result is None:
        message, hint = _in_words(status, name, death)
        raise ChildError(f"{place}: {message}.", hint, log_path)
    if on_warnings is not None:
        on_warnings(warnings)
    return msgspec.json.decode(result, type=record_type)


@contextlib.contextmanager
def _started(log: IO[bytes], limit_bytes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, so that Ctrl-C reaches labctl only; killed if labctl leaves early."""
    package = Path(__file__).resolve().parents[1] / "__init__.py"
    places = [str(Path(place).absolute()) for place in sys.path if place]
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, "task", str(limit_bytes), str(package), *places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=child_environment(),
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _tell(child: subprocess.Popen[bytes], line: bytes) -> None:
    """Send a line, if anybody is left to read it."""
    assert child.stdin is not None
    with contextlib.suppress(OSError):
        child.stdin.write(line)
        child.stdin.flush()


def _lines(child: subprocess.Popen[bytes], hang_s: float) -> Iterator[bytes | None]:
    """The child's events as they come; None once when it has been silent for too long."""
    inbox: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        assert child.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in child.stdout:
                inbox.put(line)
        inbox.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = inbox.get(timeout=hang_s)
        except queue.Empty:
            yield None
            return
        if not line:
            return
        yield line


def _signal_name(status: int) -> str:
    """The signal that ended a child, by its exit status; empty if it was none."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-status).name
    # Windows reports a crash as an NTSTATUS in the exit code.
    return {0xC0000005: "SIGSEGV", 0xC000001D: "SIGILL"}.get(status & 0xFFFFFFFF, "")


def _in_words(status: int, name: str, death: Death) -> tuple[str, str]:
    """What a child's end means, and what to do."""
    reason = death.reason or _SIGNALS.get(name, f"its process ended with status {status}")
    reason = f"{reason} ({name})" if name else reason
    hint = death.hint or _HINTS.get(name, "The step's log says more; run again.")
    return f"{reason}: {death.said.rstrip('.')}" if death.said else reason, hint
