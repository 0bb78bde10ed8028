"""The one error that people see: what went wrong, and what to type next."""

from __future__ import annotations


class LabError(Exception):
    """An expected failure, shown as one line and one hint, without a traceback.

    Args:
        message: what went wrong with which file, in one line.
        hint: what to do or type next; may be empty.
        for_all: it would be the same for every format, so that a run ends with it instead of trying the next.
    """

    def __init__(self, message: str, hint: str = "", *, for_all: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.for_all = for_all
