"""A task for a child process, and what the child says back: one JSON line each way."""

from __future__ import annotations

import importlib
import sys
import typing
from dataclasses import dataclass
from typing import ClassVar, Protocol

import msgspec


class Report(Protocol):
    """What a task's work says on the way.

    Attributes:
        warnings: the engine's warnings in its own words, to be added to.
    """

    warnings: list[str]

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """So much is done of so much; `note` is a short word for the display (a perplexity, a speed)."""


N_UBATCH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What of a model's size decides how much memory a task needs besides weights and cache.

    Attributes:
        largest_tensor: weights of the largest tensor.
        widest_row: length of the longest dimension of any tensor.
    """

    largest_tensor: int
    widest_row: int
    n_vocab: int


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is asked to do; each kind of task adds what its work needs to know.

    Attributes:
        name: the task's word in messages.
        work: "module:function" that the child calls with the task and a Report; what it returns is the result.
        model_path: the model file; empty for a task that opens none.
        format: the label it goes by in messages.
    """

    name: ClassVar[str]
    work: ClassVar[str]

    model_path: str
    format: str
    n_threads: int

    def n_ctx_open(self) -> int:
        """Tokens of context that the work opens at once."""
        return N_UBATCH

    def work_bytes(self, size: ModelSize) -> int:
        """Buffers besides weights and cache that grow with the model."""
        return 4 * N_UBATCH * size.widest_row * 8

    def line(self) -> bytes:
        """The line that a child reads."""
        return msgspec.json.encode(Order(work=self.work, task=msgspec.Raw(msgspec.json.encode(self)))) + b"\n"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A task on its way to a child: the function to call, and the task, still encoded."""

    work: str
    task: msgspec.Raw


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """How far a task is. `note` is a short word for the display: a perplexity, a speed."""

    done: int
    total: int
    note: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="result"):
    """The task's record, still encoded, and what llama.cpp warned of meanwhile."""

    record: msgspec.Raw
    warnings: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="failure"):
    """A LabError in the child."""

    message: str
    hint: str = ""
    for_all: bool = False


AnyEvent = Progress | Result | Failure


def call(work: str, encoded: msgspec.Raw, *others: object) -> object:
    """Call what "module:function" names, its first argument decoded as the type that the function declares for it."""
    module, _, name = work.partition(":")
    function = getattr(importlib.import_module(module), name)
    declared = next(iter(typing.get_type_hints(function).values()))
    return function(msgspec.json.decode(encoded, type=declared), *others)


def log_line(line: str) -> None:
    """Write a line of a library's log to stderr, without control characters: texts of a stranger's file come along."""
    sys.stderr.write("".join(c if c.isprintable() or c == "\t" else "�" for c in line) + "\n")
