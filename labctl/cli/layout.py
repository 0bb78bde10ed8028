"""Tables and sentences laid out for a terminal's width: no figure, name or word is ever broken in two."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import combining, east_asian_width

GAP = 2
_PROSE_WIDTH = 24
"""A cell that is longer and has spaces is a sentence: it may be wrapped at words, into no less than this."""
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMG]B|GiB|GB/s|t/s|s|min|h)\b|%)")
STYLES = {
    **dict.fromkeys(("ok", "fits", "pass", "passes"), "green"),
    **dict.fromkeys(("warning", "tight", "undecided"), "yellow"),
    **dict.fromkeys(("problem", "wrong", "fail", "fails", "does not fit", "cannot be made"), "bold red"),
}
"""What a verdict is coloured with; the words say the same without colour."""

Line = list[tuple[str, str]]
"""Pieces of text, each with its style."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    title: str
    cells: tuple[str, ...]
    is_figure: bool
    least: int
    most: int

    @property
    def is_empty(self) -> bool:
        return all(cell in ("", "-") for cell in self.cells)

    @property
    def is_prose(self) -> bool:
        return self.least < max(map(text_width, self.cells), default=0)


def text_width(text: str) -> int:
    """Columns of a terminal that a text takes: letters of East Asia take two, accents none."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(text: str, width: int) -> list[str]:
    """A text's lines, broken between words only; a word that is too long stands on a line of its own."""
    glued = _BEFORE_UNIT.sub("\xa0", text)
    lines = (
        textwrap.wrap(line, max(width, 1), break_long_words=False, break_on_hyphens=False) for line in glued.split("\n")
    )
    return [line.replace("\xa0", " ") for group in lines for line in group or [""]]


def table_lines(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, keys: int = 1) -> list[Line]:
    """A table in at most this width, as far as its words allow.

    It loses its empty columns first. Where figures are still too wide, it is printed in several parts one below the
    other, each with the key columns; where sentences are, as one block a row.

    Args:
        keys: how many columns at the left name a row.
    """
    columns = [_column(title, [row[place] for row in rows]) for place, title in enumerate(titles)]
    if _needed(columns) > width:
        columns = [one for place, one in enumerate(columns) if place < keys or not one.is_empty]
    if _needed(columns) <= width:
        return _table(columns, width)
    named, others = columns[:keys], columns[keys:]
    too_wide = any(_needed([*named, one]) > width for one in others) or not others
    if too_wide or any(one.is_prose for one in columns):
        return list(_blocks(columns, keys, width))
    lines: list[Line] = []
    while others:
        count = next((n for n in range(len(others), 1, -1) if _needed([*named, *others[:n]]) <= width), 1)
        lines += [*([[]] if lines else []), *_table([*named, *others[:count]], width)]
        others = others[count:]
    return lines


def _column(title: str, cells: Sequence[str]) -> _Column:
    natural = max(map(text_width, cells), default=0)
    is_figure = bool(cells) and all(cell[:1].isdigit() or cell[:1] in ("+", "-", "") for cell in cells)
    has_prose = not is_figure and any(" " in cell and text_width(cell) > _PROSE_WIDTH for cell in cells)
    word = max((text_width(word) for text in (*cells, title) for word in text.split()), default=0)
    title_word = max(map(text_width, title.split()), default=0)
    return _Column(
        title=title,
        cells=tuple(cells),
        is_figure=is_figure,
        least=max(word, _PROSE_WIDTH) if has_prose else max(natural, title_word),
        most=max(natural, text_width(title)),
    )


def _needed(columns: Sequence[_Column]) -> int:
    return sum(one.least for one in columns) + GAP * (len(columns) - 1)


def _table(columns: Sequence[_Column], width: int) -> list[Line]:
    spare = width - _needed(columns)
    widths = [one.least for one in columns]
    # Titles on one line first, then sentences as wide as there is room.
    for place in sorted(range(len(columns)), key=lambda place: columns[place].is_prose):
        waiting = sum(one.is_prose for one in columns[place:]) if columns[place].is_prose else 1
        widths[place] += min(columns[place].most - widths[place], spare // max(1, waiting))
        spare = width - sum(widths) - GAP * (len(columns) - 1)
    head = _cells([one.title for one in columns], columns, widths, "bold")
    rule: Line = [("-" * (sum(widths) + GAP * (len(columns) - 1)), "dim")]
    body = [
        line
        for cells in zip(*(one.cells for one in columns), strict=True)
        for line in _cells(cells, columns, widths, "")
    ]
    return [*head, rule, *body]


def _cells(cells: Sequence[str], columns: Sequence[_Column], widths: Sequence[int], style: str) -> list[Line]:
    """One row, over as many lines as its longest cell needs."""
    parts = [wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines: list[Line] = []
    for number in range(max(map(len, parts), default=0)):
        line: Line = []
        for place, (part, width) in enumerate(zip(parts, widths, strict=True)):
            text = part[number] if number < len(part) else ""
            room = " " * max(0, width - text_width(text))
            right = columns[place].is_figure and place > 0
            shown = f"{room}{text}" if right else text if place == len(parts) - 1 else f"{text}{room}"
            line.append(((" " * GAP if place else "") + shown, style or STYLES.get(cells[place], "")))
        while line and not line[-1][0].strip():
            line.pop()
        if line:
            line[-1] = (line[-1][0].rstrip(), line[-1][1])
        lines.append(line)
    return lines


def _blocks(columns: Sequence[_Column], keys: int, width: int) -> Iterator[Line]:
    """One block a row: what names it, then a line for each figure that it has."""
    indent = 2 + max((text_width(one.title) for one in columns[keys:]), default=0) + GAP
    hanging = min(indent, width // 2)
    for number in range(len(columns[0].cells)):
        yield [(" ".join(one.cells[number] for one in columns[:keys]), "bold")]
        for one in columns[keys:]:
            cell = one.cells[number]
            if cell in ("", "-"):
                continue
            first, *others = wrapped(cell, width - hanging)
            yield [(f"  {one.title}".ljust(hanging - 1) + " ", ""), (first, STYLES.get(cell, ""))]
            yield from ([(" " * hanging + other, "")] for other in others)
