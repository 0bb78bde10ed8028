"""A child process: one task in on stdin, events and the result out on stdout, the engine's log on stderr.

llama.cpp aborts its process on a failed assertion and holds Ctrl-C back while it computes. So it lives here, and labctl
itself survives it. The child ends when its parent does: stdin closes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import BinaryIO, NoReturn

import msgspec

from labctl.errors import LabError
from labctl.executors.base import AnyEvent, Failure, Order, Progress, Result, Rows, call
from labctl.machine.surroundings import fault

# A crash of llama.cpp is reported by the parent; its own backtrace would start a debugger.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# numpy's matrix library starts a thread for every processor, which would spin beside llama.cpp's for a while.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class Channel:
    """Where events go: the stdout this process was started with. A Report for the task's work."""

    def __init__(self, stream: BinaryIO) -> None:
        self.warnings: list[str] = []
        self.stopped = False
        self._stream = stream
        self._last = 0.0

    def send(self, event: AnyEvent) -> None:
        self._stream.write(msgspec.json.encode(event) + b"\n")
        self._stream.flush()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report at most ten times a second, and always the end."""
        now = time.monotonic()
        if done >= total or now - self._last >= 0.1:
            self._last = now
            self.send(Progress(done=done, total=total, note=note))

    def rows(self, to: str, number: int, values: bytes) -> None:
        """Send a row on at once: a kill of this process loses none that was sent."""
        self.send(Rows(to=to, number=number, values=values))


def main() -> int:
    """Take the task from stdin's first line, do it, report."""
    _limit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    channel = _claim_stdout()
    line = _read_line()
    try:
        order = msgspec.json.decode(line, type=Order)
        threading.Thread(target=_listen, args=(channel,), daemon=True).start()
        record = call(order.work, order.task, channel)
        said = tuple(dict.fromkeys(channel.warnings))
        channel.send(Result(record=msgspec.Raw(msgspec.json.encode(record)), warnings=said))
    except LabError as error:
        channel.send(Failure(message=error.message, hint=error.hint, for_all=error.for_all))
        return 1
    except Exception as error:
        known = fault(error)
        if known is None:
            raise
        channel.send(Failure(message=known.message, hint=known.hint, for_all=not isinstance(error, MemoryError)))
        return 1
    return 0


def _limit(address_space_bytes: int) -> None:
    """Limit this process's address space (0: not at all), and write no core file if it crashes."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if address_space_bytes <= 0:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = address_space_bytes if hard == resource.RLIM_INFINITY else min(address_space_bytes, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _read_line() -> bytes:
    """The first line of stdin; the pipe stays open behind it."""
    data = bytearray()
    while not data.endswith(b"\n") and (block := os.read(0, 1 << 16)):
        data += block
    return bytes(data)


def _claim_stdout() -> Channel:
    """Keep stdout for events only; whatever a library prints goes to the log on stderr."""
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return Channel(events)


def _listen(channel: Channel) -> None:
    """Stop when the parent says so, and end at once when it is gone, however it went: nobody would read the result."""
    while os.read(0, 1 << 10):  # not sys.stdin: its lock, held here, would abort Python's shutdown
        channel.stopped = True
    os._exit(3)


def leave() -> NoReturn:
    """Do the task and end at once: Python's own tidying up would only take time."""
    status = main()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave()
