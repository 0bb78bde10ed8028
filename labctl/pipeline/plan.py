"""What a run would do: the steps whose record is missing or no longer true, with bytes and a rough time."""

from __future__ import annotations

from collections.abc import Sequence

from labctl import steps
from labctl.lab.lab import Lab
from labctl.pipeline import preflight
from labctl.steps.base import AnyStep, Planned

STEPS = tuple(step.name for step in steps.every() if not step.on_request)
"""The steps of a whole run, in their order."""


def plan(
    lab: Lab, names: Sequence[str | AnyStep] = STEPS, *, force: Sequence[str] = (), probe: preflight.Probe | None = None
) -> list[Planned]:
    """What a run would do, with the bytes that it would write and a rough time.

    Args:
        probe: how fast the baseline is, if that was timed and not kept.
    """
    rates = preflight.rates(lab, probe)
    return [
        row
        for step in steps.every(names)
        if not step.lacking(lab) and (stale := step.stale(lab, force=step.name in force))
        for row in step.planned(lab, stale, rates)
    ]
