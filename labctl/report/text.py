"""Figures and foreign strings as words: rounding, units, and Markdown that a model's output cannot break."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from labctl.records.units import signed
from labctl.steps.bench.ratios import Ratio, times

NOT_MEASURED = "not measured"

# Marks that reorder the line around them; a model or a prompt has no business moving our words.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_MARKDOWN = re.compile(r"@(?=\w)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|[\\`*\[\]<>#|~$]|&(?=#?\w+;)")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}
_UNIT = re.compile(r"(\d) (%|[kMG]i?B\b)")
_CODE = re.compile(r"`([^`|\n]+)`")


ValueT = TypeVar("ValueT")


def cell(value: ValueT | None, write: Callable[[ValueT], str]) -> str:
    """A figure as words, if there is one."""
    return NOT_MEASURED if value is None else write(value)


def faint(text: str) -> str:
    """A cell of a table that is not worth more than a glance: small print, and grey on the page."""
    return f"<sub>{text}</sub>"


def interval(low: float, high: float, digits: int = 2) -> str:
    """An interval of changes in percent: +1.90 to +2.26 %; one without an upper end says so."""
    if not math.isfinite(high):
        return "open"
    return f"{signed(low, digits)} to {signed(high, digits)} %"


def counted(n: float, noun: str, many: str = "") -> str:
    """1 chunk, 32 chunks, 4,080 tokens."""
    return f"{n:,.0f} {noun if n == 1 else many or f'{noun}s'}"


def speedup_words(speedup: Ratio) -> str:
    """1.55 (1.29 to 1.65) times; the baseline's name follows."""
    return f"{times(speedup.ratio, speedup.low, speedup.high)} times"


def stars(ends: tuple[int, int]) -> str:
    """One to five stars, the missing ones hollow; the fewest and the most where an interval leaves it open."""
    if ends == (1, 5):
        return "not settled"
    low, high = ends
    return "★" * low + "☆" * (5 - low) if low == high else f"{'★' * low} to {'★' * high}"


def words(names: Iterable[str], last: str = "and") -> str:
    """a, b and c."""
    items = list(names)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def printable(text: str, newline: str = " ") -> str:
    """Text without control characters, lone surrogates and marks that reorder a line; line ends become `newline`."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n").split("\n")
    kept = (
        "".join(
            character if character != "\t" else " "
            for character in line
            if character == "\t"
            or (unicodedata.category(character) not in ("Cc", "Cs") and character not in _REORDERING)
        )
        for line in lines
    )
    return newline.join(kept)


def csv_cell(text: str) -> str:
    """A foreign string for a CSV file: on one line, and nothing that a spreadsheet would compute."""
    plain = printable(text)
    return f"'{plain}" if plain.lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") else plain


def escape(text: str, newline: str = " ") -> str:
    """Text that Markdown shows as it is, in a table cell or in a sentence.

    An address stays an address: where a viewer makes a link of it, the link goes where it says, and nothing is loaded.
    """
    marked = _MARKDOWN.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), printable(text, newline="\n"))
    return marked.replace("\n", newline)


def prose(text: str) -> str:
    """A sentence of ours for Markdown: what stands between two backquotes is code, all else shows as it is."""
    parts = _CODE.split(text)  # every other part was between two backquotes
    return "".join(f"`{printable(part)}`" if place % 2 else escape(part) for place, part in enumerate(parts))


def plain(text: str) -> str:
    """The same sentence where there is no Markdown."""
    return _CODE.sub(r"\1", text)


def with_units(text: str) -> str:
    """A text whose numbers stay on one line with their units."""
    return _UNIT.sub("\\1\u00a0\\2", text)


def quote(text: str) -> str:
    """A short piece of text in double quotes for a sentence or cell, escaped; line ends are shown as ⏎."""
    return f'"{escape(text, newline=" ⏎ ")}"'


def shortened(text: str, limit: int) -> str:
    """The beginning of a text, with ... where it was cut."""
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A Markdown table; the columns numbered in `left` are left-aligned, the others right-aligned."""
    rule = ["---" if column in left else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [list(header), rule, *map(list, rows)])
