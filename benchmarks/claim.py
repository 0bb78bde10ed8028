"""What a comparison shows beside its target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.records import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One target and what came out.

    Attributes:
        value: what the target is about: a ratio, seconds, or a share of formats (1 is all).
        result: the same in words and figures.
    """

    section: str
    what: str
    target: str
    value: float
    result: str
    met: bool


def by_round(samples: Iterable[Sample], side: str, label: str, step: str, figure: str) -> list[float]:
    """One figure of one side's processes, in the order of the rounds."""
    found = sorted(
        (one.round, getattr(one, figure)) for one in samples if (one.side, one.format, one.step) == (side, label, step)
    )
    return [value for _, value in found]
