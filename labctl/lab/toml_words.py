"""TOML files that people write by hand: read, and each mistake told with its line and its cure."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from labctl.errors import LabError
from labctl.records.encodings import read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SHOWN = 70
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)")
_CURLY = re.compile(r"[“”„‟‘’‚«»]")
_INSIDE = 'put the text between single quotes (\'...\'), or between three double quotes ("""...""")'


def read_toml(path: Path, *, what: str, max_bytes: int) -> dict[str, object]:
    """A TOML file's content; empty if there is no such file.

    Args:
        what: what the file holds, as the message about one that is too large says it.
    Raises:
        LabError: too large, not readable, or not TOML; the message names the line and the hint its cure.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise LabError(f"{path} is larger than {what} can be.", "Keep only that in it.")
        text = read_settings(path)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        hint = "Save it again as UTF-8 (in an editor: Save as, Encoding: UTF-8)."
        raise LabError(f"Cannot read {path}: it is not valid TOML: {error}.", hint) from error
    except OSError as error:
        raise LabError(
            f"Cannot read {path}: {error.strerror}.", "Check that it is a file, and its permissions."
        ) from error
    try:
        loaded: dict[str, object] = tomllib.loads(text)
        return loaded
    except (ValueError, RecursionError) as error:  # ValueError: not TOML, or an endless number
        raise _explained(path, text, error) from error


def _explained(path: Path, text: str, error: ValueError | RecursionError) -> LabError:
    said = re.sub(_PLACE, "", str(error)).rstrip(".")
    lines = text.split("\n")
    found = _PLACE.search(str(error))
    number = int(found[1]) if found and found[1] else _last_line(lines, said)
    line = lines[number - 1].strip() if number <= len(lines) else ""
    cause, cure = _cause(line, said)
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
    place = f"line {number} ({shown})" if shown else f"line {number}"
    if found is None:  # no mistake of writing: a number without end, or brackets without end
        place = "a value is too large"
    return LabError(f"Cannot read {path}: it is not valid TOML. {place[0].upper()}{place[1:]}: {cause}.", cure)


def _last_line(lines: list[str], said: str) -> int:
    """Where a mistake that shows only at the end of the file begins."""
    filled = [number for number, line in enumerate(lines, 1) if line.strip()] or [1]
    for opened in ('"""', "'''"):
        within = [number for number in filled if lines[number - 1].count(opened) % 2]
        if len(within) % 2:
            return within[-1]
    if "array" in said:
        return next(
            (n for n in reversed(filled) if "[" in lines[n - 1] and not lines[n - 1].lstrip().startswith("[")), 1
        )
    return filled[-1]


def _cause(line: str, said: str) -> tuple[str, str]:
    """What is probably wrong with a line, and what to write instead."""
    name, equals, value = line.partition("=")
    name, value = name.strip(), value.strip()
    example = f'{name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else "Q6"} = "..."'
    quote = value[:1]
    if said.startswith("Cannot overwrite"):
        return f"{name} is set twice", "Keep one of the two lines."
    if not equals or not re.fullmatch(r"""[A-Za-z0-9_.\s"'-]+""", name):
        if line.startswith("["):
            return "a heading in brackets is not closed", "Write it as [name]."
        if meant := re.fullmatch(r"""([\w-]+)\s*[:\s]\s*([\d.]+|true|false|"[^"]*"|'[^']*')""", line.strip(), re.ASCII):
            example = f"{meant[1]} = {meant[2]}"
        return "there is no = between a name and its value", f"Write: {example}"
    if not value:
        return "there is no value after the =", f"Write: {example}"
    if quote and _CURLY.match(quote):
        return "curly quotes, which an editor puts in by itself", f"Use straight quotes: {example}"
    if quote == '"' and ("\\" in value) and ("hex" in said or "\\" in said):
        return (
            "a backslash inside double quotes",
            r"Put the text between single quotes ('C:\folder'), or write each backslash twice.",
        )
    if value.startswith(('"""', "'''")):
        return "three quotes open a text that is not closed", f"End it with {value[:3]}."
    if quote in ('"', "'"):
        inner = re.sub(r"\\.", "", value).count(quote)
        if inner == 1:
            return "the closing quote is missing", f"End the text with {quote}; for several lines use three quotes."
        return "there is a quote inside quotes", f"{_INSIDE[0].upper()}{_INSIDE[1:]}."
    if quote == "[" or "array" in said:
        return "the list is not closed, or lacks a comma", 'Write: name = ["one", "two"]'
    if value in ("True", "False"):
        return f"{value} has a capital letter", f"Write: {name} = {value.lower()}"
    if re.match(r"[^\W\d_]", value):
        return "text without quotes", f'Put it in quotes: {name} = "{value[:20]}{"..." if len(value) > 20 else ""}"'
    return said[:1].lower() + said[
        1:
    ], f"Write text in quotes ({example}), and numbers plainly with a digit before the point."
