"""A person's own prompts: a text file with a paragraph each, or JSON lines with chat messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from labctl.errors import LabError
from labctl.records.encodings import read_settings
from labctl.records.places import typed

MAX_PROMPTS = 100
MAX_CHARACTERS = 20_000
_MAX_BYTES = 16 << 20
_HINT = (
    f"Give at most {MAX_PROMPTS} prompts of {MAX_CHARACTERS:,} characters: paragraphs between empty lines in a .txt"
    ' file, or in a .jsonl file a line such as {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}.'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrompt:
    """A prompt of a person's own; the last message is the user's."""

    messages: tuple[Message, ...]

    @property
    def text(self) -> str:
        """As plain text: what the messages say, with an empty line between two."""
        return "\n\n".join(message.content for message in self.messages)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    prompt: str | None = None
    messages: tuple[Message, ...] = ()


def read_prompts(file: str) -> tuple[OwnPrompt, ...]:
    """The prompts of a file, in its order.

    Args:
        file: as it was typed; one that ends in .jsonl holds JSON lines, any other one paragraphs.
    Raises:
        LabError: it cannot be read, or a prompt is none; the message names the line.
    """
    path = typed(file)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES >> 20} MiB")
        text = read_settings(path).replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise LabError(f"Cannot read the prompts in {path.name}: {said}.", _HINT) from error
    is_lines = path.suffix.lower() == ".jsonl"
    found = []
    for number, part in _lines(text) if is_lines else _paragraphs(text):
        try:
            found.append(_checked(_of_line(part) if is_lines else _user(part)))
        except ValueError as error:  # msgspec's, too
            raise LabError(f"{path.name}, line {number}: {' '.join(str(error).split())}.", _HINT) from error
        if len(found) > MAX_PROMPTS:
            raise LabError(f"{path.name}, line {number}: these are more than {MAX_PROMPTS} prompts.", _HINT)
    if not found:
        raise LabError(f"{path.name} holds no prompt.", _HINT)
    return tuple(found)


def _lines(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _paragraphs(text: str) -> list[tuple[int, str]]:
    """Line number -> paragraph."""
    found: list[tuple[int, list[str]]] = []
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            inside = False
        elif inside:
            found[-1][1].append(line)
        else:
            found.append((number, [line]))
            inside = True
    return [(number, "\n".join(lines).strip()) for number, lines in found]


def _user(text: str) -> OwnPrompt:
    return OwnPrompt(messages=(Message(role="user", content=text),))


def _of_line(line: str) -> OwnPrompt:
    try:
        found = msgspec.json.decode(line.encode(), type=_Line)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(re.sub(r"`", "", str(error)) or "this is no JSON") from error
    if (found.prompt is None) == (not found.messages):
        raise ValueError("a line needs either a prompt or messages")
    if found.prompt is not None:
        return _user(found.prompt)
    if found.messages[-1].role != "user":
        raise ValueError("the last message must be the user's")
    return OwnPrompt(messages=found.messages)


def _checked(prompt: OwnPrompt) -> OwnPrompt:
    if any(not message.content.strip() for message in prompt.messages):
        raise ValueError("a prompt is empty")
    if len(prompt.text) > MAX_CHARACTERS:
        raise ValueError(f"a prompt has {len(prompt.text):,} characters, more than {MAX_CHARACTERS:,}")
    if "\0" in prompt.text:
        raise ValueError("a prompt has a zero byte in it")
    prompt.text.encode()  # a lone surrogate is no text
    return prompt


def check_prompts(file: str | None) -> None:
    """See that a file of prompts can be used, before anything is measured.

    Raises:
        LabError: as read_prompts.
    """
    if file is not None:
        read_prompts(file)
