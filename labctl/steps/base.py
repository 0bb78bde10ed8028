"""A measurement step: what it measures, what its records depend on, when they hold, and how they are made."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from labctl import engines
from labctl.engines.base import Ability
from labctl.errors import LabError
from labctl.executors.base import OnProgress
from labctl.lab.lab import Lab
from labctl.lab.listener import Listener
from labctl.records.base import Provenance
from labctl.records.sources import SourceModel, TextSource
from labctl.records.store import read_record, write_record
from labctl.steps.rates import Rates

if TYPE_CHECKING:
    from labctl.lab.folder import RunFolder
    from labctl.steps.measured import Measured


class Record(Protocol):
    """What every step's record says."""

    @property
    def format(self) -> str: ...
    @property
    def provenance(self) -> Provenance: ...


RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """What one record is about.

    Attributes:
        text: short name of the text; empty for the lab's own text, and for steps that read none.
    """

    format: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.format}-{self.text}" if self.text else self.format


class Scope(Protocol):
    """What a lab, or its records, is about: enough to say which cases a step has."""

    @property
    def formats(self) -> tuple[str, ...]: ...
    @property
    def model(self) -> SourceModel: ...
    @property
    def text(self) -> TextSource | None: ...


ALL = "all formats"
"""Stands for the format in the plan of a step that takes all of them together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A part of a step that a run would do.

    Attributes:
        temporary_bytes: of those that it writes, a file that goes again; without room for it all else goes on.
    """

    step: str
    label: str
    write_bytes: int
    temporary_bytes: int = 0
    estimate_s: float


_RECORDED = {"n_ctx": "ctx", "n_threads": "threads", "n_tokens": "new_tokens"}


def bits_of(lab: Lab, label: str, baseline: Rates) -> float:
    """Bits a weight takes in a format's file, about."""
    if label == lab.model.baseline:
        return baseline.bits
    if label in lab.candidates:
        with contextlib.suppress(LabError):  # the step itself says what is wrong with it
            return 8 * lab.engine.inspect(lab.candidates[label]).size_bytes / baseline.n_params
        return baseline.bits
    return lab.engine.formats[label].bits


class Running(Protocol):
    """A run at work, as a step sees it."""

    @property
    def lab(self) -> Lab: ...
    @property
    def display(self) -> Listener: ...
    @property
    def rates(self) -> Rates:
        """Of the baseline."""

    def cases(self, step: AnyStep) -> tuple[Case, ...]:
        """What a step can measure now: nothing that it comes after has failed for that format."""

    def attempt(self, step: str, case: Case, expected_s: float, work: Callable[[OnProgress], object]) -> bool:
        """Do a part of a step: a failure is reported and kept, and the run goes on.

        Args:
            expected_s: about how long it takes, for the progress display.
        Returns: whether it succeeded.
        """


class Step(Generic[RecordT]):
    """One measurement, of every case of a lab. A step of its own overrides what differs.

    Attributes:
        name: one word for the command, the record's file, the log and the key.
        words: what a reader's table calls it; empty for its name.
        record: the kind of its records.
        asks: what it needs of an engine beside files.
        after: steps whose failure for a format leaves nothing to measure.
        rides: the step whose tasks this one's work is a part of, where both are due.
        on_request: without it nothing is missing.
        unit: what its progress counts.
        figure: what its `outcome` is, in a word or two; empty where that needs none.
        claim: what `verify` checks of its records by `doubts`, in words; without it `doubts` is not asked.
        beside: name -> kind of records that it keeps of all formats together; fields of Measured.
        settings: names of LabConfig that its records depend on.
    """

    name: str
    words: str = ""
    record: type[RecordT]
    after: tuple[str, ...] = ("quantize",)
    asks: Ability | None = None
    rides: str = ""
    on_request: bool = False
    settings: tuple[str, ...] = ()
    unit: str = ""
    figure: str = ""
    claim: str = ""
    beside: ClassVar[Mapping[str, type[object]]] = {}

    def case(self, scope: Scope, label: str) -> Case:
        """A format, on the text in view where this step reads one."""
        return Case(label, scope.text.slug if scope.text is not None and "text" in self.settings else "")

    def cases(self, scope: Scope) -> tuple[Case, ...]:
        """What is to be measured in a lab."""
        return tuple(self.case(scope, label) for label in scope.formats)

    def lacking(self, scope: Scope) -> str:
        """Why the model's engine cannot do this, as a sentence; empty if it can."""
        return "" if self.asks is None else engines.named(scope.model.engine).lacks(self.asks)

    def key(self, lab: Lab, case: Case) -> str:
        """Digest of everything that a record's figures depend on.

        Raises:
            LabError: the file that it measures is not there.
        """
        raise NotImplementedError

    def fresh(self, lab: Lab, case: Case) -> RecordT | None:
        """The record, if it is there with its raw samples and still true.

        Raises:
            LabError: the file that it measures is not there.
        """
        record = self.read(lab.folder, case)
        if record is None or record.provenance.key != self.key(lab, case):
            return None
        return record if all((lab.folder.root / name).is_file() for name in self.raw(record)) else None

    def path(self, folder: RunFolder, case: Case) -> Path:
        """Where a record lies: each text had the place of the lab's own text before a lab held several."""
        path = folder.record_path(self.name, str(case))
        if case.text and not path.exists():
            old = folder.record_path(self.name, case.format)
            record = read_record(old, self.record)
            return old if record is not None and _text_of(record) == case.text else path
        return path

    def read(self, folder: RunFolder, case: Case) -> RecordT | None:
        """The record as it lies in a folder, true or not."""
        return read_record(self.path(folder, case), self.record)

    def write(self, folder: RunFolder, case: Case, record: RecordT) -> None:
        """Keep a record; another text's that has its place is moved to its own."""
        path = folder.record_path(self.name, str(case))
        old = None if case.text else read_record(path, self.record)
        if old is not None and (text := _text_of(old)):
            own = folder.record_path(self.name, str(Case(case.format, text)))
            if not own.exists():
                path.rename(own)
        write_record(path, record)

    def there(self, folder: RunFolder, labels: Collection[str]) -> dict[Case, RecordT]:
        """All records of these formats as they lie in a folder, on whatever text, true or not."""
        found: dict[Case, RecordT] = {}
        for label in labels:
            for path in (
                folder.record_path(self.name, label),
                *sorted(folder.records.glob(f"{self.name}-{label}-*.json")),
            ):
                record = read_record(path, self.record)
                if record is not None and record.format == label:  # a label may begin with another one
                    found[Case(label, _text_of(record))] = record
        return found

    def others(self, lab: Lab) -> dict[Case, RecordT]:
        """Records on other texts than the one last asked for that still hold, with the settings they were made with."""
        if "text" not in self.settings:
            return {}
        asked = read_record(lab.folder.record_path("text"), TextSource) or lab.text
        found = {}
        for case, record in self.there(lab.folder, lab.formats).items():
            text = getattr(record, "text", None)
            if isinstance(text, TextSource) and case.text != asked.slug:
                view = lab.having(self.asked_of(record), text)
                with contextlib.suppress(LabError):  # the file that was measured is not there
                    if self.fresh(view, case) is not None:
                        found[case] = record
        return found

    def load(self, lab: Lab) -> dict[Case, RecordT]:
        """All records that are still true."""
        found = {}
        for case in self.cases(lab):
            try:
                record = self.fresh(lab, case)
            except LabError:  # the file that it measures is not there
                record = None
            if record is not None:
                found[case] = record
        return found

    def stale(self, lab: Lab, *, force: bool = False) -> tuple[Case, ...]:
        """What is to be measured now; with force all there is."""
        there = {} if force else self.load(lab)
        return tuple(case for case in self.cases(lab) if case not in there)

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        """About how long a case takes.

        Args:
            rates: of the case's format.
        """
        raise NotImplementedError

    def expected_s(self, lab: Lab, case: Case, baseline: Rates) -> float:
        """About how long a case takes, by the baseline's rates."""
        return self.seconds(lab, case, baseline.at(bits_of(lab, case.format, baseline)))

    def total_s(self, lab: Lab, stale: Sequence[Case], baseline: Rates) -> float:
        """About how long all that is stale takes."""
        return sum(self.expected_s(lab, case, baseline) for case in stale)

    def writes(self, lab: Lab, case: Case) -> int:
        """Bytes that a case leaves on the disk, where they are many."""
        return 0

    def planned(self, lab: Lab, stale: Sequence[Case], baseline: Rates) -> list[Planned]:
        """What measuring all that is stale means for this machine."""
        return [
            Planned(
                step=self.name,
                label=case.format,
                write_bytes=self.writes(lab, case),
                estimate_s=self.expected_s(lab, case, baseline),
            )
            for case in stale
        ]

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None) -> RecordT:
        """Measure a case and keep the record.

        Raises:
            LabError: it could not be measured.
        """
        raise NotImplementedError

    def run(self, running: Running, stale: Sequence[Case], riders: Sequence[AnyStep] = ()) -> None:
        """Measure what is stale, case by case; riders are steps that ride on this one and are due."""
        lab = running.lab
        for case in stale:
            expected_s = self.expected_s(lab, case, running.rates)
            running.attempt(self.name, case, expected_s, functools.partial(self.make, lab, case))

    def forget(self, lab: Lab, case: Case) -> None:
        """Drop what is kept of single measurements beside the record, so that all is measured again."""

    def kept_scratch(self, lab: Lab) -> str:
        """The start of the names of files in the scratch folder that a next run goes on with; empty for none."""
        return ""

    def sweep(self, lab: Lab) -> None:
        """Remove what a killed run left half-written."""

    def asked_of(self, record: RecordT) -> dict[str, object]:
        """The settings that a record was made with, by their names in LabConfig, as far as it tells."""
        made = {_RECORDED.get(name, name): value for name, value in record.provenance.settings.items()}
        return {name: made[name] for name in self.settings if name in made}

    def load_beside(self, lab: Lab) -> dict[str, object]:
        """The records of all formats together that are still true, by their name."""
        return {}

    def warnings(self, lab: Lab, records: Mapping[str, RecordT]) -> tuple[str, ...]:
        """What a reader must know about the figures of these records (format -> record)."""
        return ()

    def outcome(self, record: RecordT) -> str:
        """A record's main figure, for the line that ends the step; empty where it has none."""
        return ""

    def outcomes(self, records: Measured, limit: float) -> str:
        """What the step found, format by format, in a line; empty where it found nothing.

        Args:
            limit: largest acceptable increase of perplexity, as a fraction.
        """
        found = records.of(self)
        texts = {name: self.outcome(found[name]) for name in records.formats if name in found}
        listed = ", ".join(f"{name} {text}" for name, text in texts.items() if text)
        return f"{self.figure}: {listed}" if self.figure and listed else listed

    def unusable(self, records: Mapping[str, RecordT], folder: Path) -> Mapping[str, str]:
        """Format -> why its record gives no figures all the same, as a sentence."""
        return {}

    def raw(self, record: RecordT) -> tuple[str, ...]:
        """Files with the record's raw samples, relative to the model's outputs folder."""
        return ()

    def doubts(self, record: RecordT, folder: Path) -> Iterator[str]:
        """What a record says that does not follow from its samples; both may be a stranger's. `verify` names the case.

        Args:
            folder: the model's outputs folder.
        """
        return iter(())


AnyStep: TypeAlias = "Step[Any]"
"""A step whose kind of record does not matter."""


def _text_of(record: object) -> str:
    """Short name of the text that a record is about; empty for the lab's own, or none."""
    text = getattr(record, "text", None)
    return text.slug if isinstance(text, TextSource) else ""


def stored(lab: Lab, step: str, label: str, kind: type[RecordT], key: str) -> RecordT | None:
    """A step's record if it was made under this very key."""
    record = read_record(lab.folder.record_path(step, label), kind)
    return record if record is not None and record.provenance.key == key else None
