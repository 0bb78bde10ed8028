"""Text of a stranger's file, a log or a model, made fit to be shown."""

from __future__ import annotations


def printable(text: str, instead: str = "") -> str:
    """A text without control characters, which a terminal acts on.

    Args:
        instead: what stands in their place.
    """
    return "".join(letter if letter.isprintable() else instead for letter in text)
