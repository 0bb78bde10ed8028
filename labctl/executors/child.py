"""Running one task in a fresh child process, and naming what went wrong when it dies."""

from __future__ import annotations

import contextlib
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from labctl.errors import LabError
from labctl.executors.base import AnyEvent, Failure, Progress, Result, Task
from labctl.executors.reasons import last_words, log_tail
from labctl.machine.surroundings import child_environment
from labctl.records.disk import writing

RecordT = TypeVar("RecordT")
OnProgress = Callable[[Progress], None]
OnWarnings = Callable[[tuple[str, ...]], None]

# Not `-m`: that puts the current folder first, and a student's random.py there would be imported.
# It looks for modules where its parent does (__main__), and for labctl where the parent's is.
_CHILD = "import sys; sys.path[:] = sys.argv[3:]; from labctl.executors.worker import leave; leave()"
_ASSERTION = re.compile(r"GGML_ASSERT\(.*|(?<=what\(\):  ).*")
# How llama.cpp, C++ and numpy say that memory was refused.
_NO_MEMORY = re.compile(
    r"failed to allocate|unable to allocate|cannot allocate memory|insufficient memory|out of memory|bad_alloc"
    r"|resource temporarily unavailable|failed to map segment|address space and process count|alloc.*failed",
    re.IGNORECASE,
)
_SIGNALS = {
    "SIGABRT": "llama.cpp stopped itself (a failed assertion)",
    "SIGSEGV": "llama.cpp crashed (segmentation fault)",
    "SIGBUS": "the file vanished or shrank while it was being read",
    "SIGILL": "this build of llama.cpp uses instructions that this CPU does not have",
    "SIGFPE": "llama.cpp crashed (arithmetic fault)",
    "SIGKILL": "it was killed, most likely because memory ran out",
    "SIGTERM": "it was ended from outside",
}
_HINTS = {
    "SIGILL": "Rebuild it for this machine: make clean-venv lab (README, Troubleshooting).",
    "SIGSEGV": "Rebuild llama.cpp for this machine if it happens again: make clean-venv lab (README, Troubleshooting).",
    "SIGKILL": "Close other programs, or leave the largest format out with --formats.",
}


class ChildError(LabError):
    """A task that failed in its child, with the last lines of its log."""

    def __init__(
        self, message: str, hint: str, log_path: Path | None, log_tail: tuple[str, ...], *, for_all: bool = False
    ) -> None:  # fmt: skip
        super().__init__(message, hint, for_all=for_all)
        self.log_path = log_path
        self.log_tail = log_tail


def run_task(
    task: Task, record_type: type[RecordT], *, log_path: Path, hang_s: float,
    on_progress: OnProgress | None = None, on_warnings: OnWarnings | None = None, limit_bytes: int = 0,
) -> RecordT:  # fmt: skip
    """Run one task in a fresh process and wait for its record.

    Args:
        log_path: llama.cpp's log of this task; replaced.
        hang_s: seconds without any event after which the child is killed.
        on_progress: called for each step the child reports.
        on_warnings: called with llama.cpp's warnings, in its own words, once the task is done.
        limit_bytes: most address space of the child; 0 for no limit.
    Raises:
        ChildError: the task failed, crashed, ran out of memory or hung.
    """
    place = f"{task.name} {task.format}".strip()
    with writing(log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log = log_path.open("wb")
    with log, _started(log, limit_bytes) as child:
        failure: Failure | None = None
        result: msgspec.Raw | None = None
        warnings: tuple[str, ...] = ()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(task.line())
            child.stdin.flush()
        for line in _lines(child, hang_s):
            if line is None:
                child.kill()
                child.wait()
                raise ChildError(
                    f"{place}: no sign of life for {hang_s:,.0f} s, so it was given up.",
                    "Run again, or allow more time with hang_s in lab.toml.",
                    log_path,
                    log_tail(log_path),
                )
            try:
                event = msgspec.json.decode(line, type=AnyEvent)
            except msgspec.MsgspecError:  # torn by the child's death, which its exit status tells
                break
            match event:
                case Progress():
                    if on_progress is not None:
                        on_progress(event)
                case Result():
                    result, warnings = event.record, event.warnings
                case Failure():
                    failure = event
        status = child.wait()
    if (status != 0 or result is None) and limit_bytes and _refused_memory(failure, log_path):
        raise ChildError(
            f"{place}: out of memory: it asked for more than the {limit_bytes / 1e9:.1f} GB that labctl allows it.",
            "Use a smaller --ctx or a shorter text; if the model does need more, set memory_limit_bytes in lab.toml (0:"
            " no limit).",
            log_path,
            log_tail(log_path),
        )
    if failure is not None:
        message = failure.message if failure.for_all else f"{place}: {failure.message}"
        raise ChildError(message, failure.hint, log_path, log_tail(log_path), for_all=failure.for_all)
    if status != 0 or result is None:
        message, hint = _death(status, log_tail(log_path))
        raise ChildError(f"{place}: {message}.", hint, log_path, log_tail(log_path))
    if on_warnings is not None:
        on_warnings(warnings)
    return msgspec.json.decode(result, type=record_type)


def _refused_memory(failure: Failure | None, log_path: Path) -> bool:
    """Whether a child that failed was refused memory, by its own words or the last ones of its log."""
    said = (failure.message,) if failure is not None else ()
    return any(_NO_MEMORY.search(line) for line in (*said, *log_tail(log_path, 100)))


@contextlib.contextmanager
def _started(log: IO[bytes], limit_bytes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, so that Ctrl-C reaches labctl only; killed if labctl leaves early."""
    places = [*(str(Path(one).absolute()) for one in sys.path if one), str(Path(__file__).resolve().parents[2])]
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, "task", str(limit_bytes), *places],
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


def _death(status: int, tail: tuple[str, ...]) -> tuple[str, str]:
    """What a child's exit status and the end of its log say, and what to do."""
    name = ""
    if status < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
    # Windows reports a crash as an NTSTATUS in the exit code.
    name = name or {0xC0000005: "SIGSEGV", 0xC000001D: "SIGILL"}.get(status & 0xFFFFFFFF, "")
    reason = _SIGNALS.get(name, f"its process ended with status {status}")
    said = next((found[0] for line in reversed(tail) if (found := _ASSERTION.search(line))), "")
    reason = f"{reason} ({name})" if name else reason
    if status > 0 and not name:
        said = last_words(tail, "")
    return f"{reason}: {said.rstrip('.')}" if said else reason, _HINTS.get(name, "The step's log says more; run again.")
