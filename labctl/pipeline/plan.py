"""What a run would do: the steps whose record is missing or no longer true, with bytes and a rough time."""

from __future__ import annotations

from collections.abc import Sequence

from labctl import steps
from labctl.lab.lab import Lab
from labctl.pipeline import preflight
from labctl.steps.base import AnyStep, Planned

STEPS = tuple(step.name for step in steps.every() if not step.on_request)
"""The steps of a whole run, in their order."""


def prompt_rate(lab: Lab) -> float:
    """Prompt tokens a second of the baseline: as probed on this machine, else by arithmetic."""
    return preflight.tokens_per_s(lab, lab.source.n_params)


def plan(lab: Lab, names: Sequence[str | AnyStep] = STEPS, *, force: Sequence[str] = ()) -> list[Planned]:
    """What a run would do, with the bytes that it would write and a rough time."""
    tokens_per_s = prompt_rate(lab)
    return [
        row
        for step in steps.every(names)
        if not step.lacking(lab) and (stale := step.stale(lab, force=step.name in force))
        for row in step.planned(lab, stale, tokens_per_s)
    ]
