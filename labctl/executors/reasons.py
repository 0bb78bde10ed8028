"""Why a program failed: what its log says, and what an engine makes of that."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from labctl.records.printable import printable

TAIL_LINES = 12
LEVEL = re.compile(r"(?:ERROR|error)(?::[\w.-]+)?: *")
SAYS_NOTHING = re.compile(r"(?:exiting\W*|Traceback.*:)\W*$")
"""Lines that say that something failed and not why: another one is better, if there is any."""
_IS_ERROR = re.compile(r"\W*([\w.]+: *)?(ERROR|error|([\w.]*)(Error|Exception))\b")
_SOUNDS_BAD = re.compile(r"error|exception|fail|invalid|unknown|unsupported|missing|need|cannot|assert|disabled", re.I)


class Death(NamedTuple):
    """What an engine makes of a child that ended without a result.

    Attributes:
        reason: what the signal means; empty if it means nothing special.
        said: what the log says of it; empty if it says nothing.
        hint: what to do; empty if there is nothing special to do.
        out_of_memory: the log says that memory was refused.
    """

    reason: str = ""
    said: str = ""
    hint: str = ""
    out_of_memory: bool = False


Deaths = Callable[[str, Sequence[str]], Death]
"""(name of the signal or "", last lines of the log and what was said of the failure) -> what to make of it."""


def error_line(log: str | Iterable[str], otherwise: str, vague: re.Pattern[str] = SAYS_NOTHING) -> str:
    """The newest line that says what went wrong.

    Args:
        log: a text, or its lines.
        otherwise: what to return where no line sounds like an error.
        vague: lines to take only where there is no better one.
    """
    lines = [line.strip() for line in (log.splitlines() if isinstance(log, str) else log)]
    bad = [line for line in lines if _IS_ERROR.match(line)] or [line for line in lines if _SOUNDS_BAD.search(line)]
    return next((line for line in reversed(bad) if not vague.search(line)), (bad or [otherwise])[-1])


def last_words(log: str | Iterable[str], otherwise: str) -> str:
    """error_line without its level of severity and its full stop."""
    line = error_line(log, otherwise)
    return (LEVEL.sub("", line, count=1) if LEVEL.match(line) else line).rstrip(". ")[:300] or line


def log_tail(path: Path, n_lines: int = TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log, without control characters."""
    try:
        text = path.read_bytes()[-16_384:].decode("utf-8", "replace")
    except OSError:
        return ()
    lines = map(printable, text.splitlines())
    return tuple(line[:300] for line in lines if line.strip())[-n_lines:]
