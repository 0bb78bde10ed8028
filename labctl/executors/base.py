"""A task, what comes back while it runs, and what may run it. Tasks and events are a JSON line each."""

from __future__ import annotations

import contextlib
import importlib
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import msgspec

from labctl.errors import LabError
from labctl.executors.reasons import Death, Deaths, log_tail
from labctl.records.printable import printable

RecordT = TypeVar("RecordT")


class Report(Protocol):
    """What a task's work says on the way, and hears.

    Attributes:
        warnings: the engine's warnings in its own words, to be added to.
        stopped: no more rows are wanted: the work ends with what it has.
    """

    warnings: list[str]
    stopped: bool

    def __call__(self, done: int, total: int, note: str = "", /) -> None:
        """So much is done of so much; `note` is a short word for the display (a perplexity, a speed)."""

    def rows(self, to: str, number: int, values: bytes, /) -> None:
        """Numbers to be kept, little-endian: row `number` of the array that the task calls `to`."""


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

    @property
    def quantizing_bytes(self) -> int:
        """Buffers of a quantizer: a tensor as it was read, as float32, and quantized."""
        return 12 * self.largest_tensor


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is asked to do; each kind of task adds what its work needs to know.

    Attributes:
        name: the task's word in messages.
        work: "module:function" that the child calls with the task and a Report; what it returns is the result.
        model_path: the model file; empty for a task that opens none.
        format: the label it goes by in messages.
        engine: what does it, as "module:object"; the first engine of the table if it names none.
    """

    name: ClassVar[str]
    work: ClassVar[str]

    model_path: str
    format: str
    n_threads: int
    engine: str = ""

    @property
    def place(self) -> str:
        """What it is called in messages: step and format."""
        return f"{self.name} {self.format}".strip()

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Put what it is called before the message of an error that ends this task alone."""
        try:
            yield
        except LabError as error:
            if error.for_all:
                raise
            raise LabError(f"{self.place}: {error.message}", error.hint) from error

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


class Rows(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="rows"):
    """Numbers that a task measured, bit for bit and little-endian: row `number` of its array `to`."""

    to: str
    number: int
    values: bytes


class Result(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="result"):
    """The task's record, still encoded, and what llama.cpp warned of meanwhile."""

    record: msgspec.Raw
    warnings: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="failure"):
    """A LabError in the child."""

    message: str
    hint: str = ""
    for_all: bool = False


AnyEvent = Progress | Rows | Result | Failure


OnProgress = Callable[[Progress], None]
OnWarnings = Callable[[tuple[str, ...]], None]
OnRows = Callable[[Rows], bool]
"""Keeps a row, and says whether that was the last one wanted."""


class ChildError(LabError):
    """A task that failed in its child, with the last lines of its log."""

    def __init__(self, message: str, hint: str, log_path: Path, *, for_all: bool = False) -> None:
        super().__init__(message, hint, for_all=for_all)
        self.log_path = log_path
        self.log_tail = log_tail(log_path)


class Executor(Protocol):
    """Where a task runs. What crosses is the task's line, its events, and the order to stop."""

    def __call__(
        self,
        task: Task,
        record_type: type[RecordT],
        *,
        log_path: Path,
        hang_s: float,
        on_progress: OnProgress | None = None,
        on_rows: OnRows | None = None,
        on_warnings: OnWarnings | None = None,
        limit_bytes: int = 0,
        deaths: Deaths = lambda signal, log: Death(),
    ) -> RecordT:
        """Run a task to its end.

        Args:
            log_path: the engine's log of this task; replaced.
            hang_s: seconds without any event after which the task is given up.
            on_rows: called for each row of numbers. Once it says that this was the last one wanted, the task is told to
                stop, and rows and progress that it sent meanwhile are dropped: what is kept does not depend on who was
                faster.
            on_warnings: called with the engine's warnings, in its own words, once the task is done.
            limit_bytes: most address space of the task; 0 for no limit.
            deaths: what the engine makes of an end without a result.
        Returns: what the task's work returned.
        Raises:
            ChildError: the task failed, crashed, ran out of memory or hung, or its rows could not be kept.
        """


def call(work: str, encoded: msgspec.Raw, *others: object) -> object:
    """Call what "module:function" names, its first argument decoded as the type that the function declares for it."""
    module, _, name = work.partition(":")
    function = getattr(importlib.import_module(module), name)
    declared = next(iter(typing.get_type_hints(function).values()))
    return function(msgspec.json.decode(encoded, type=declared), *others)


def log_line(line: str) -> None:
    """Write a line of a library's log to stderr, without control characters: texts of a stranger's file come along."""
    sys.stderr.write(printable(line.expandtabs(), "�") + "\n")
