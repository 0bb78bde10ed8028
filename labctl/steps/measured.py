"""All that is known of one lab: the records of every step, typed by the step, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple

from labctl import steps
from labctl.lab.folder import RunFolder
from labctl.records.sources import SourceModel, TextSource
from labctl.steps.base import AnyStep, Case, Record, RecordT, Step
from labctl.steps.bench.record import BenchConditions


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailure:
    """A step that did not succeed; the worksheet shows the gap with this reason."""

    step: str
    format: str
    message: str
    hint: str = ""
    log_path: str = ""
    log_tail: tuple[str, ...] = ()
    text: str = ""

    @property
    def case(self) -> Case:
        return Case(self.format, self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What went wrong in the last run of each step; kept beside the records."""

    failures: tuple[StepFailure, ...] = ()


class OfText(MutableMapping[str, RecordT], Generic[RecordT]):
    """A step's records on one text, by format: a view of the lab's records, not a copy."""

    def __init__(self, records: dict[Case, RecordT], text: str) -> None:
        self._records = records
        self._text = text

    def __getitem__(self, name: str) -> RecordT:
        try:
            return self._records[Case(name, self._text)]
        except KeyError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, record: RecordT) -> None:
        self._records[Case(name, self._text)] = record

    def __delitem__(self, name: str) -> None:
        del self._records[Case(name, self._text)]

    def __iter__(self) -> Iterator[str]:
        return iter([case.format for case in self._records if case.text == self._text])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


class Kept(NamedTuple):
    """A record with its step and what it is about."""

    step: AnyStep
    case: Case
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All records of one model's lab: what the report is made from.

    `measured[PERPLEXITY]` are the records of that step, by case; `measured.of(PERPLEXITY)` those on the text in view,
    by format.

    Attributes:
        folder: the model's outputs folder.
        text: the text in view.
        formats: the lab's formats in the worksheet's order, the baseline first.
        records: step -> case -> record.
    """

    folder: str
    model: SourceModel
    text: TextSource | None
    formats: tuple[str, ...]
    records: dict[str, dict[Case, Any]] = field(default_factory=dict)
    failures: tuple[StepFailure, ...] = ()
    warnings: tuple[str, ...] = ()
    conditions: BenchConditions | None = None

    def __getitem__(self, step: Step[RecordT]) -> dict[Case, RecordT]:
        return self.records.setdefault(step.name, {})

    def of(self, step: Step[RecordT]) -> OfText[RecordT]:
        """Format -> record, on the text in view where the step reads one."""
        return OfText(self[step], step.case(self, "").text)

    def having(self, step: Step[RecordT], records: Mapping[str, RecordT]) -> Measured:
        """The same lab with other records of one step."""
        made = {step.case(self, name): record for name, record in records.items()}
        return replace(self, records={**self.records, step.name: made})

    def only(self, keep: Callable[[Kept], bool]) -> Measured:
        """The same lab with those of its records that `keep` says yes to."""
        records: dict[str, dict[Case, Any]] = {}
        for kept in self:
            if keep(kept):
                records.setdefault(kept.step.name, {})[kept.case] = kept.record
        return replace(self, records=records)

    @property
    def keys(self) -> dict[str, str]:
        """Name of each record's file -> its key."""
        return {self.name_of(kept): kept.record.provenance.key for kept in self}

    def name_of(self, kept: Kept) -> str:
        """The name of a record's file, without .json."""
        return kept.step.path(RunFolder(Path(self.folder)), kept.case).stem

    def __iter__(self) -> Iterator[Kept]:
        """Every record, in the table's order."""
        for step in steps.every():
            for case, record in self[step].items():
                yield Kept(step, case, record)
