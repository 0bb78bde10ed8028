"""What a process is started with: standard streams that may be closed or unable to show a letter, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType


def make_usable() -> None:
    """Make sure of three standard streams that take any text.

    A closed one becomes the null device: its number would otherwise go to the next file opened, and a library's
    message into that file. A letter that the terminal's encoding lacks is shown as a question mark.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


_presses: list[int] = []


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed: in a library's callback its exception can turn into another one."""
    return bool(_presses)


def interrupt_once() -> None:
    """Let the first Ctrl-C end the work and the next ones not disturb the tidying up; "ignored" stays as it was."""

    def interrupted(number: int, _frame: FrameType | None) -> None:
        _presses.append(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)


def flush() -> None:
    """Hand over what is written, while its failure can still be told.

    Raises:
        OSError: the disk behind stdout is full, or the reader of a pipe is gone.
    """
    sys.stdout.flush()


def give_up_stdout() -> None:
    """Send stdout nowhere: Python would try again at exit to write what could not be written, and complain."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
