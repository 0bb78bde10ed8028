"""How getting a model ready talks with the person: what it asks, what it says, how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labctl.errors import LabError

LARGE_BYTES = 10_000_000_000
"""Downloads and writes above this are asked about first."""


def refuse(question: str) -> None:
    """Nobody is there to ask.

    Raises:
        LabError: always.
    """
    raise LabError(question, "Add --yes to agree.")


def ignore(_text: str) -> None:
    """Nobody is there to tell."""


def no_progress(_name: str, _done: int, _total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """The person's side.

    Attributes:
        ask: returns if the person agrees to what the text says will be done; raises LabError if not.
        say: shows one line.
        progress: told a file's name, how many bytes are done, and how many there are.
    """

    ask: Callable[[str], None] = refuse
    say: Callable[[str], None] = ignore
    progress: Callable[[str, int, int], None] = no_progress
