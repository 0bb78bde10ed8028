"""The groups of records of a lab, one row each: what reads, packs, checks or lists records goes over this table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from labctl.lab.folder import RunFolder
from labctl.lab.heard import EngineNotices
from labctl.records.base import Provenance
from labctl.records.files import GgufFile
from labctl.records.sources import SourceModel, TextSource
from labctl.records.store import read_record
from labctl.steps.divergence.record import DivergenceRun
from labctl.steps.generate.record import GenerationRun, prompt_file
from labctl.steps.measured import LabRecords, StepFailure
from labctl.steps.memory.record import MemoryRun
from labctl.steps.perplexity.record import PerplexityRun
from labctl.steps.speed.record import BatchRun, BenchConditions, SpeedRun, ThreadSweep

AnyRun = GgufFile | PerplexityRun | DivergenceRun | GenerationRun | SpeedRun | MemoryRun | BatchRun | ThreadSweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What went wrong in the last run of each step; kept beside the records."""

    failures: tuple[StepFailure, ...] = ()


def _none(record: Any) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One record a format.

    Attributes:
        field: of LabRecords.
        step: as in the record's file name, records/<step>-<format>.json, and in its provenance.
        raw: files with the record's raw samples, relative to the model's outputs folder.
        of_baseline: the baseline has such a record, too.
        on_request: without it nothing is missing.
    """

    field: str
    step: str
    kind: type[AnyRun]
    raw: Callable[[Any], tuple[str, ...]] = _none
    of_baseline: bool = True
    on_request: bool = False


def _prompts(record: GenerationRun) -> tuple[str, ...]:
    return tuple(prompt_file(record.format, one.prompt_number, one.decoding) for one in record.generations)


GROUPS = (
    Group(field="files", step="quantize", kind=GgufFile),
    Group(field="perplexity", step="perplexity", kind=PerplexityRun, raw=lambda run: (run.nll_path,)),
    Group(
        field="divergence",
        step="divergence",
        kind=DivergenceRun,
        raw=lambda run: (run.values_path,),
        of_baseline=False,
    ),
    Group(field="speed", step="bench", kind=SpeedRun),
    Group(field="memory", step="memory", kind=MemoryRun),
    Group(field="generation", step="generate", kind=GenerationRun, raw=_prompts),
    Group(field="batch", step="batch", kind=BatchRun, on_request=True),
    Group(field="threads", step="threads", kind=ThreadSweep, on_request=True),
)
"""In the order of the worksheet."""

KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (SourceModel, TextSource, BenchConditions, EngineNotices, Failures, *(group.kind for group in GROUPS))
}
"""What a lab's record files hold, by the name of the kind that each file states."""


class Kept(NamedTuple):
    """A record with its place in the table."""

    group: Group
    label: str
    record: AnyRun
    provenance: Provenance


def of_group(records: LabRecords, group: Group) -> dict[str, AnyRun]:
    """Format -> record of one group."""
    found: dict[str, AnyRun] = getattr(records, group.field)
    return found


def runs(records: LabRecords) -> Iterator[Kept]:
    """Every record of a lab, in the table's order."""
    for group in GROUPS:
        for label, record in of_group(records, group).items():
            if record.provenance is not None:
                yield Kept(group, label, record, record.provenance)


def record_keys(records: LabRecords) -> dict[str, str]:
    """<step>-<format> -> key of each record."""
    return {f"{one.group.step}-{one.label}": one.provenance.key for one in runs(records)}


def only(records: LabRecords, keep: Callable[[Kept], bool]) -> LabRecords:
    """The same lab with those of its records that `keep` says yes to."""
    kept: dict[str, dict[str, AnyRun]] = {group.field: {} for group in GROUPS}
    for one in runs(records):
        if keep(one):
            kept[one.group.field][one.label] = one.record
    return dataclasses.replace(records, **kept)  # type: ignore[arg-type]


def read_all(folder: RunFolder, formats: tuple[str, ...]) -> dict[str, dict[str, AnyRun]]:
    """The records that lie in a folder as they are: field of LabRecords -> format -> record."""
    return {
        group.field: {
            name: record
            for name in formats
            if (record := read_record(folder.record_path(group.step, name), group.kind)) is not None
        }
        for group in GROUPS
    }
