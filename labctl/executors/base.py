"""What a child process can be asked to do, and what it says back: one JSON line each way."""

from __future__ import annotations

import msgspec


class Task(msgspec.Struct, frozen=True, kw_only=True, tag_field="task"):
    """Common to all: the model file, and the label it goes by in messages."""

    model_path: str
    format: str
    n_threads: int


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
