"""Choosing among files: looked at, then measured one by one, each downloaded, or made, and deleted again in turn."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl import engines
from labctl.engines.base import kin_difference
from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.lab.listener import Listener
from labctl.lab.sources import hub
from labctl.lab.sources.offers import Offer, fetched, is_original
from labctl.machine import cpu
from labctl.machine.fingerprint import fingerprint
from labctl.pipeline.aside import Aside
from labctl.pipeline.opening import find_text, open_lab
from labctl.pipeline.run import run
from labctl.records.base import SCHEMA_VERSION
from labctl.records.digests import DigestCache, digest, model_sha256
from labctl.records.lock import lock
from labctl.records.sources import SourceModel
from labctl.records.store import read_record, write_record
from labctl.report.choice import Limits, Outcome, Prospect, left, pick_of
from labctl.report.figures import figures_of
from labctl.report.fit import fit_file, fit_table, judge_context, need_of_file
from labctl.report.order import Orders
from labctl.steps.base import AnyStep, Case
from labctl.steps.bench.arithmetic import token_bytes
from labctl.steps.bench.pace import Pace, predicted_tps
from labctl.steps.bench.ratios import visits_speed
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

FOLDER = ".choose"
"""In the outputs folder: the labs of files that are chosen among, apart from the labs that a person made."""
STEPS: tuple[AnyStep, ...] = (QUANTIZE, PERPLEXITY, MEMORY, BENCH)
BUDGET_S = 300.0
"""Most time for the perplexity of a file, if nobody set one: a loss close to the limit is left undecided."""
_ROUNDS = 4
"""Of the speed of a file, beside the reference's: it is held against a limit, not known to 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The files to choose from, looked at.

    Attributes:
        offers: the largest first.
        reference: the file that losses are counted from.
        prospects: what is known of each, in the order of `offers`.
    """

    offers: tuple[Offer, ...]
    reference: Offer
    prospects: tuple[Prospect, ...]

    @property
    def is_original(self) -> bool:
        """Whether the reference is unquantized."""
        return is_original(self.reference)

    def offer(self, label: str) -> Offer:
        """The file of this label."""
        return next(offer for offer in self.offers if offer.label == label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What was done with the files of one reference; kept, so that an interrupted choice goes on.

    Attributes:
        done: keys of all that the measurements of a file depend on; what they found is in its lab's records.
        ours: names in the Hub client's cache that were downloaded for measuring only.
        labs: digest of a reference -> name of its lab's folder.
    """

    done: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    labs: dict[str, str] = dataclasses.field(default_factory=dict)


def field_of(offers: Sequence[Offer], reference: Offer, limits: Limits, pace: Pace | None) -> Field:
    """What is known of each file before anything is measured.

    Args:
        pace: of this machine, to predict speeds with; None if it was not timed.
    """
    prospects = tuple(_prospect(offer, reference, limits, pace) for offer in offers)
    return Field(offers=tuple(offers), reference=reference, prospects=prospects)


def to_make(config: LabConfig, display: Listener) -> tuple[Offer, ...]:
    """A model that nobody has quantized yet: itself, and the usual formats, to be made here one by one.

    Raises:
        LabError: there is no such model, or it is quantized.
    """
    lab = open_lab(config.having({"text": "demo"}), display, notices=False, keep=False)
    path = Path(lab.model.path)
    source = Offer(
        label=lab.model.baseline, name=path.name, size_bytes=lab.model.size_bytes, path=path, holds=lab.source
    )
    made = [
        Offer(
            label=name,
            name=f"{lab.model.name}-{name}{lab.engine.suffix}",
            size_bytes=QUANTIZE.writes(lab, Case(name)),
            format=name,
            n_params=lab.source.n_params,
        )
        for name in lab.engine.usual_formats
    ]
    return (source, *sorted(made, key=lambda offer: -offer.size_bytes))


def _prospect(offer: Offer, reference: Offer, limits: Limits, pace: Pace | None) -> Prospect:
    holds = offer.holds
    if offer.format and reference.holds is not None:
        more = offer.size_bytes - sum(share.size_bytes for share in reference.holds.types)
        need = need_of_file(reference.holds, limits.n_ctx) + more
        fit = judge_context(need, limits.ram_gib, limits.n_ctx, reference.holds.n_trained)
        return Prospect(label=offer.label, size_bytes=offer.size_bytes, bpw=offer.bpw, fit=fit, need_bytes=need)
    if holds is None:
        return Prospect(label=offer.label, size_bytes=offer.size_bytes, fault=offer.fault)
    fault = "" if reference.holds is None else kin_difference(holds.kin, reference.holds.kin)
    row = fit_file(offer.label, holds, limits.ram_gib, limits.n_ctx)
    tps = None
    if pace is not None:
        n_bytes = token_bytes(holds.tensors, n_expert=holds.n_expert, n_expert_used=holds.n_expert_used)
        tps = predicted_tps(pace, n_bytes, holds.shape.n_layer)
    return Prospect(
        label=offer.label,
        size_bytes=offer.size_bytes,
        bpw=holds.bpw,
        fit=row.verdict,
        need_bytes=row.need_bytes,
        tps=tps,
        fault=fault,
    )


def to_measure(field: Field, limits: Limits) -> list[Prospect]:
    """The files that come into question, before anything is measured; the reference is not among them."""
    return [
        one
        for one in left([one for one in field.prospects if not one.fault], (), limits)
        if one.label != field.reference.label
    ]


def download_bytes(field: Field, limits: Limits) -> tuple[int, int]:
    """Bytes that may be downloaded in all, and most of them on the disk at one time: the reference and one more."""
    wanted = [field.offer(one.label) for one in to_measure(field, limits)]
    sizes = sorted((offer.size_bytes for offer in wanted if not offer.is_here), reverse=True)
    first = 0 if field.reference.is_here else field.reference.size_bytes
    return first + sum(sizes), first + sum(sizes[:1])


class Chooser:
    """Measures one file after the other until the limits decide."""

    def __init__(self, config: LabConfig, field: Field, limits: Limits, display: Listener, *, keep: bool) -> None:
        self.field, self.limits, self.display, self.keep = field, limits, display, keep
        self.folder = Path(config.outputs) / FOLDER
        self.digests = DigestCache(Path(config.outputs) / ".digests.json")
        self.n_threads = config.threads or cpu.performance_cores()
        self.text = find_text(config, display)
        if self.text.notice:
            display.notice(self.text.notice)
        is_open = config.is_auto and config.budget_s is None and not config.settle
        self.config = config.having(
            {
                "outputs": str(self.folder),
                "budget_s": BUDGET_S if is_open else config.budget_s,
                "formats": (),
                "allow_quantized_source": True,
                "limit": limits.max_loss,
                "bench_rounds": _ROUNDS,
                "bench_max_rounds": _ROUNDS,
            }
        )
        self.outcomes: list[Outcome] = []
        self._aside = Aside(display)
        self._ledger = Ledger()
        self._lab: Lab | None = None

    def measured(self) -> Iterator[Outcome]:
        """Every file that comes into question, measured one by one, the reference first.

        Yields: what was found of each, as soon as it is known.
        Raises:
            LabError: a download fails, the reference cannot be used, or another labctl is at it.
        """
        with lock(self.folder, say=self.display.note):
            self._ledger = read_record(self._ledger_path, Ledger) or Ledger()
            prospects = [one for one in self.field.prospects if not one.fault]
            label: str | None = self.field.reference.label
            while label is not None:
                offer = self.field.offer(label)
                self.outcomes.append(self._outcome(offer))
                for other in self.outcomes:
                    if other.label != self.field.reference.label:
                        self._drop(self.field.offer(other.label))
                yield self.outcomes[-1]
                label = next((one.label for one in left(prospects, self.outcomes, self.limits)), None)
            self._drop(self.field.reference)

    def apart(self, one: str, other: str) -> bool:
        """Whether the perplexities of two measured files are told apart."""
        return self._orders.ppl.apart(self._in_lab(one), self._in_lab(other))

    def path_of(self, label: str) -> Path | None:
        """Where a file lies on this disk; None for one of the Hub."""
        offer = self.field.offer(label)
        return self._made_path(offer) if offer.format else offer.path

    def _made_path(self, offer: Offer) -> Path:
        """Where the file of a format lies that is made here."""
        return self.folder / self._model.name / f"{self._model.name}-{offer.format}{Path(offer.name).suffix}"

    def _pick(self) -> str:
        """The answer so far; empty for none."""
        pick = pick_of(self.outcomes, self.limits)
        return "" if pick is None else pick.label

    # -- what was found

    @functools.cached_property
    def _orders(self) -> Orders:
        records = self._records([one.label for one in self.outcomes if not one.fault])
        return Orders(records, figures_of(records, self.limits.max_loss))

    @property
    def _ledger_path(self) -> Path:
        return self.folder / "ledger.json"

    @property
    def _model(self) -> SourceModel:
        """The reference as the lab's model; its file may be gone."""
        if self._lab is not None:
            return self._lab.model
        name = self._ledger.labs.get(self._digest(self.field.reference), "")
        known = read_record(RunFolder(self.folder / name).record_path("source"), SourceModel) if name else None
        return known or self._opened().model

    def _opened(self) -> Lab:
        """The lab of the reference, which is downloaded if need be."""
        if self._lab is None:
            config = self.config.having({"model": str(self._path(self.field.reference))})
            self._lab = open_lab(config, self._aside, notices=False, text=self.text)
            name = self._lab.folder.root.name
            labs = {**self._ledger.labs, self._digest(self.field.reference): name}
            self._note(dataclasses.replace(self._ledger, labs=labs))
        return self._lab

    def _note(self, ledger: Ledger) -> None:
        self._ledger = ledger
        write_record(self._ledger_path, ledger)

    def _outcome(self, offer: Offer) -> Outcome:
        """What was found of a file, now or in an earlier run."""
        key = self._key(offer)
        if key not in self._ledger.done:
            lab = self._opened()
            if offer.format:
                lab = dataclasses.replace(lab, config=dataclasses.replace(lab.config, formats=(offer.format,)))
            elif offer != self.field.reference:
                files = (f"{self._in_lab(offer.label)}={self._path(offer)}",)
                lab = dataclasses.replace(lab, config=dataclasses.replace(lab.config, candidates=files))
            self.display.note(f"Measuring {offer.label} ...")
            ran = run(lab, self._aside, names=STEPS, report=False)
            failure = next((one for one in ran.failures if one.format == self._in_lab(offer.label)), None)
            if failure is not None and offer == self.field.reference:
                raise LabError(failure.message, failure.hint)
            if failure is not None:
                return Outcome(label=offer.label, size_bytes=offer.size_bytes, bpw=offer.bpw, fault=failure.message)
            self._note(dataclasses.replace(self._ledger, done=(*self._ledger.done, key)))
        return self._found(offer)

    def _found(self, offer: Offer) -> Outcome:
        """What the records say of a file; the file itself may be gone."""
        name, records = self._in_lab(offer.label), self._records([offer.label])
        row = figures_of(records, self.limits.max_loss)[name]
        made = records.of(BENCH).get(name)
        speed = None if made is None else visits_speed(made.visits, "tg", made.n_prompt)
        is_known = speed is not None and math.isfinite(speed.high)
        fit = next(one for one in fit_table(records, self.limits.ram_gib, self.limits.n_ctx) if one.format == name)
        increase, verdict = row.increase, None if row.perplexity is None else row.perplexity.verdict
        return Outcome(
            label=offer.label,
            size_bytes=offer.size_bytes,
            bpw=offer.bpw,
            fit=fit.verdict,
            need_bytes=fit.need_bytes,
            loss="pass" if verdict == "baseline" else verdict,
            loss_pct=0.0 if increase is None else increase.pct,
            low_pct=0.0 if increase is None else increase.text_low_pct,
            high_pct=0.0 if increase is None else increase.text_high_pct,
            tps=None if speed is None else speed.tps,
            low_tps=speed.low if speed is not None and is_known else None,
            high_tps=speed.high if speed is not None and is_known else None,
        )

    def _records(self, labels: Sequence[str]) -> Measured:
        """The records of the reference and of these files, as they lie there."""
        model = self._model
        folder = RunFolder(self.folder / model.name)
        names = tuple(dict.fromkeys((model.baseline, *map(self._in_lab, labels))))
        made = Measured(folder=str(folder.root), model=model, text=self.text, formats=names)
        for step in STEPS:
            for name in names:
                case = step.case(made, name)
                if (record := step.read(folder, case)) is not None:
                    made[step][case] = record
        return made

    def _in_lab(self, label: str) -> str:
        """A file's label in the lab: the reference's is what it holds."""
        baseline = self._model.baseline
        if label == self.field.reference.label:
            return baseline
        return f"{label}-ready" if label == baseline else label

    # -- files

    def _digest(self, offer: Offer) -> str:
        """Digest of a file, without the file where the Hub tells it, or of what it is made as."""
        if offer.format:
            return f"{self._digest(self.field.reference)} {offer.format}"
        if offer.digest:
            return offer.digest
        path = self._path(offer)
        return model_sha256(engines.for_file(path).parts(path), self.digests.sha256)

    def _key(self, offer: Offer) -> str:
        """Digest of all that a file's measurements depend on."""
        engine = engines.for_file(Path(offer.name))
        return digest(
            {
                "schema": SCHEMA_VERSION,
                "engine": engine.identity(self.folder.parent, self.n_threads),
                "machine": fingerprint().machine_id,
                "n_threads": self.n_threads,
                "reference": self._digest(self.field.reference),
                "file": self._digest(offer),
                "label": offer.label,
                "text": self.text.sha256,
                **{name: getattr(self.config, name) for name in ("ctx", "limit", "chunks", "budget_s", "settle")},
            }
        )

    def _path(self, offer: Offer) -> Path:
        """The file, downloaded if need be; of what is downloaded it is noted before that it goes again."""
        new = tuple(name for name, file in self._names(offer) if not hub.is_cached(_repo(offer), file))
        if new:
            ours = tuple(dict.fromkeys((*self._ledger.ours, *new)))
            self._note(dataclasses.replace(self._ledger, ours=ours))
        try:
            return fetched(offer, self.digests, self.display.dialogue(True))
        finally:
            self.display.end()

    def _drop(self, offer: Offer) -> None:
        """Delete what was made or downloaded of a file for measuring only, unless it is to be kept."""
        if offer.format and not self.keep and offer.label != self._pick():
            self._made_path(offer).unlink(missing_ok=True)
        mine = [(name, file) for name, file in self._names(offer) if name in self._ledger.ours]
        if not mine:
            return
        for _, file in mine if not self.keep else ():
            hub.drop(_repo(offer), file)
        gone = {name for name, _ in mine}
        ours = tuple(name for name in self._ledger.ours if name not in gone)
        self._note(dataclasses.replace(self._ledger, ours=ours))

    @staticmethod
    def _names(offer: Offer) -> list[tuple[str, hub.HubFile]]:
        return [(f"{_repo(offer).repo_id}@{_repo(offer).commit}:{file.name}", file) for file in offer.files]


def _repo(offer: Offer) -> hub.HubRepo:
    assert offer.repo is not None
    return offer.repo
