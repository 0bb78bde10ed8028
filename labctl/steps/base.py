"""The lab's steps, one format each: what a step depends on, whether its record is fresh, how it is made anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from labctl.executors.child import OnProgress
from labctl.lab.lab import Lab
from labctl.records.store import read_record

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, slots=True)
class Step:
    """One step for one format.

    Attributes:
        fresh: the record if it is there and still true, else None.
        make: makes and stores it anew. Raises LabError.
    """

    name: str
    label: str
    fresh: Callable[[Lab], object | None]
    make: Callable[[Lab, OnProgress | None], object]


def stored(lab: Lab, step: str, label: str, kind: type[RecordT], key: str) -> RecordT | None:
    """A step's record if it was made under this very key."""
    record = read_record(lab.folder.record_path(step, label), kind)
    provenance = getattr(record, "provenance", None)
    return record if provenance is not None and provenance.key == key else None
