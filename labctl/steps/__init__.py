"""Measurement steps, one folder each, and the table of them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labctl.steps.base import AnyStep

TABLE = {
    "quantize": "labctl.steps.quantize.step:QUANTIZE",
    "perplexity": "labctl.steps.perplexity.step:PERPLEXITY",
    "divergence": "labctl.steps.divergence.step:DIVERGENCE",
    "noise": "labctl.steps.noise.step:NOISE",
    "generate": "labctl.steps.generate.step:GENERATE",
    "memory": "labctl.steps.memory.step:MEMORY",
    "bench": "labctl.steps.bench.step:BENCH",
    "batch": "labctl.steps.batch.step:BATCH",
    "threads": "labctl.steps.threads.step:THREADS",
}
"""Every step in the order it runs, by its name; loaded when asked. Speed comes last, when nothing else is due."""


def command_help(name: str) -> str:
    """What a step's folder says of itself; with an example it is the help of a command of that name."""
    return importlib.import_module(f"{__name__}.{name}").__doc__ or ""


COMMANDS = tuple(name for name in TABLE if "Example: " in command_help(name))
"""Steps with a command; the others are asked for by options of another command."""


@functools.cache
def named(name: str) -> AnyStep:
    """The step of that name."""
    module, _, attribute = TABLE[name].partition(":")
    step: AnyStep = getattr(importlib.import_module(module), attribute)
    return step


def every(names: Iterable[str | AnyStep] = TABLE) -> tuple[AnyStep, ...]:
    """The steps of these names, or these steps, in the table's order."""
    given = {one if isinstance(one, str) else one.name: one for one in names}
    found = (given.get(name) for name in TABLE)
    return tuple(named(one) if isinstance(one, str) else one for one in found if one is not None)


def kinds() -> dict[str, type[Any]]:
    """The kinds of record that steps keep, by the name that each file states."""
    found = [kind for step in every() for kind in (step.record, *step.beside.values())]
    return {kind.__name__: kind for kind in found}
