"""Quantize step: what a format's file depends on, and how it is made."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from labctl.engines.base import Imatrix
from labctl.errors import LabError
from labctl.executors.base import ChildError, OnProgress
from labctl.lab import heard
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.records.base import Provenance
from labctl.records.digests import model_sha256
from labctl.records.files import GgufFile
from labctl.records.store import write_record
from labctl.records.units import size_text
from labctl.steps.base import Case, Step
from labctl.steps.files import fresh_file, imatrix_of, quantize_key
from labctl.steps.quantize import keep
from labctl.steps.quantize.audit import audit
from labctl.steps.quantize.record import LoadTask, Made, QuantizeTask
from labctl.steps.rates import Rates

_SEARCHED_S, _ROUNDED_S = 84e-9, 19e-9
"""Seconds of one core for a weight: in blocks whose scales are searched for, and rounded to 8 bits."""


def load_source(lab: Lab) -> Lab:
    """Open the source once before anything is made of it: what is wrong with it is wrong with every format.

    Returns: the lab, with what llama.cpp warned of among the model's notices.
    Raises:
        LabError: its weights are not numbers, or llama.cpp does not take it; for all formats.
    """
    label = lab.model.baseline
    task = LoadTask(model_path=lab.model.path, format=label, n_threads=lab.n_threads)
    try:
        lab.run(task, bool, heard.LOAD, label, None)
    except ChildError as error:
        hint = f"{error.hint} llama.cpp's log: {error.log_path}."
        raise ChildError(error.message, hint, error.log_path, for_all=True) from error
    return lab.with_notices()


def quantize_task(lab: Lab, label: str, *, imatrix: Path | None = None, dry_run: bool = False) -> QuantizeTask:
    """The task that makes a format's file, or with dry_run says how large it would be."""
    return QuantizeTask(
        model_path=lab.model.path,
        format=label,
        n_threads=lab.n_threads,
        target_path=str(lab.folder.scratch / lab.gguf_path(label).name),
        allow_requantize=lab.model.quantized,
        imatrix_path="" if imatrix is None else str(imatrix),
        dry_run=dry_run,
    )


def _make_file(lab: Lab, label: str, on_progress: OnProgress | None) -> GgufFile:
    provenance = lab.provenance(
        "quantize",
        quantize_key(lab, label),
        {"model": lab.model.sha256},
        {"format": label, "n_threads": lab.n_threads, "allow_requantize": lab.model.quantized},
    )
    path = lab.gguf_path(label)
    imatrix = imatrix_of(lab, label)
    if label in lab.candidates:
        record = _look_at(lab, label, provenance)
    elif label == lab.model.baseline:
        record = audit(lab.engine, path, label, provenance, shown_path=lab.model.path, sha256=lab.model.sha256)
    else:
        task = quantize_task(lab, label, imatrix=None if imatrix is None else _need_imatrix(lab, imatrix))
        run = functools.partial(lab.run, step="quantize", label=label, on_progress=on_progress)
        record = keep.make(lab.engine, run, task, path, provenance, imatrix="" if imatrix is None else imatrix.shown)
        lab.digests.remember(path, record.sha256)
    write_record(lab.folder.record_path("quantize", label), record)
    return record


def _look_at(lab: Lab, label: str, provenance: Provenance) -> GgufFile:
    """The record of a ready-made file, which stays where it is.

    Raises:
        LabError: it is damaged, or holds another model than the source.
    """
    path = lab.gguf_path(label)
    lab.engine.check_source(path, allow_missing_pre=lab.config.allow_missing_pre_tokenizer)
    why = lab.engine.difference(path, Path(lab.model.path))
    if why:
        raise LabError(
            f"{label}: {path.name} cannot be compared with {lab.model.name}, because {why}.",
            "Leave it out, or measure it against the file that it was made from.",
        )
    making = dataclasses.replace(lab.engine.inspect(path).making, file=path.name)
    sha256 = model_sha256(lab.engine.parts(path), lab.digests.sha256)
    record = audit(lab.engine, path, label, provenance, shown_path=str(path.absolute()), sha256=sha256)
    return dataclasses.replace(record, ready_made=making, imatrix=making.imatrix)


def _dry_run(lab: Lab, label: str) -> int:
    """Bytes of a format's tensors, by llama.cpp's dry run; its log goes with it."""
    return lab.ask(quantize_task(lab, label, dry_run=True), Made).tensor_bytes


def _need_imatrix(lab: Lab, imatrix: Imatrix) -> Path:
    return lab.engine.ensure_imatrix(imatrix, lab.model, lab.n_threads, lab.folder.log_path("imatrix"))


class Quantize(Step[GgufFile]):
    """The file of each format; that of the baseline is the source."""

    name = "quantize"
    words = "file"
    record = GgufFile
    after = ()
    settings = ("imatrix", "candidates")
    unit = "tensor"

    def key(self, lab: Lab, case: Case) -> str:
        return quantize_key(lab, case.format)

    def fresh(self, lab: Lab, case: Case) -> GgufFile | None:
        return fresh_file(lab, case.format)

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        if case.format in (lab.model.baseline, *lab.candidates):
            return 0.0
        weight_s = _SEARCHED_S if rates.bits < 8 else _ROUNDED_S
        return rates.process_s() + rates.n_params * weight_s / lab.n_threads

    def writes(self, lab: Lab, case: Case) -> int:
        return 0 if case.format in (lab.model.baseline, *lab.candidates) else _dry_run(lab, case.format)

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None) -> GgufFile:
        return _make_file(lab, case.format, on_progress)

    def outcome(self, record: GgufFile) -> str:
        return size_text(record.size_bytes)


QUANTIZE = Quantize()


def formats_made(folder: RunFolder) -> set[str]:
    """Formats whose file has a record, the baseline among them."""
    return {path.stem.partition("-")[2] for path in folder.records.glob(f"{QUANTIZE.name}-*.json")}
