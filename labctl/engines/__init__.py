"""One folder an engine: what can open, quantize and run a model. TABLE names them; nothing above looks inside one."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from labctl.errors import LabError

if TYPE_CHECKING:  # every child loads this module, and what it loads counts in the memory that is measured
    from labctl.engines.base import Engine, Format
    from labctl.executors.base import Task

TaskT = TypeVar("TaskT", bound="Task")

TABLE = {"llama_cpp": "labctl.engines.llama_cpp.engine:ENGINE"}
"""Name -> "module:object" of every engine; the first one's formats come first, and are the usual ones."""


@functools.cache
def _at(place: str) -> Engine:
    module, _, name = place.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)
    return engine


def named(name: str) -> Engine:
    """The engine of this name.

    Raises:
        LabError: there is none, or it is not installed.
    """
    if name not in TABLE:
        raise LabError(f"There is no engine {name!r}.", f"Engines: {', '.join(TABLE)}.")
    return _at(TABLE[name])


def assigned(task: TaskT, name: str) -> TaskT:
    """The task, to be done by the engine of that name."""
    import msgspec

    return msgspec.structs.replace(task, engine=TABLE[name])


def of_task(task: Task) -> Engine:
    """The engine that does a task, in its child."""
    return _at(task.engine or next(iter(TABLE.values())))


def for_file(path: Path) -> Engine:
    """The engine that runs this file; the first one where none knows it, which then says what is wrong with it."""
    return next((engine for engine in every() if engine.takes(path)), every()[0])


def every() -> tuple[Engine, ...]:
    """All engines, in TABLE's order."""
    return tuple(_at(place) for place in TABLE.values())


def formats() -> dict[str, Format]:
    """The formats of all engines by name, in the worksheet's order; a name belongs to the first engine that has it."""
    by_name: dict[str, Format] = {}
    for engine in every():
        for name, format_ in engine.formats.items():
            by_name.setdefault(name, format_)
    return by_name


def usual_formats() -> tuple[str, ...]:
    """The formats that a lab measures unless it is asked for others."""
    return every()[0].usual_formats


def parse_format(name: str) -> Format:
    """The format of this name, in any case, or of this alias: Q4_K means Q4_K_M, as for llama-quantize.

    Raises:
        LabError: no such format; the hint names the nearest ones.
    """
    wanted = name.strip().upper().replace("-", "_")
    known = formats()
    by_alias = {alias: format_ for format_ in known.values() for alias in format_.aliases}
    if (format_ := known.get(wanted) or by_alias.get(wanted)) is not None:
        return format_
    import difflib

    nearest = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(nearest)}?" if nearest else f"Formats: {', '.join(usual_formats())}."
    raise LabError(f"Unknown format {name!r}.", hint)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """These names, formats in the worksheet's order first, then labels of ready-made files."""
    wanted, known = set(names), formats()
    return (*(name for name in known if name in wanted), *sorted(wanted - known.keys()))


def parse_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """The formats of several names, each once, in the worksheet's order."""
    wanted = {parse_format(name).name for name in names if name.strip()}
    return tuple(formats()[name] for name in in_order(wanted))
