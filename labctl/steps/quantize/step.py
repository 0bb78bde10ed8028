"""Quantize step: what a format's file depends on, and how it is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.engines.llama_cpp.tasks import LoadTask
from labctl.executors.child import ChildError, OnProgress
from labctl.lab import heard
from labctl.records.base import Provenance
from labctl.records.files import GgufFile
from labctl.records.store import write_record
from labctl.steps.quantize.record import QuantizeTask

if TYPE_CHECKING:
    from labctl.engines.llama_cpp.imatrix import Imatrix
from labctl.lab.lab import Lab
from labctl.steps.base import Step
from labctl.steps.files import _quantize_key, fresh_file, imatrix_of


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
        raise ChildError(error.message, hint, error.log_path, error.log_tail, for_all=True) from error
    return lab.with_notices()


def quantize_task(lab: Lab, label: str, *, provenance: Provenance, **options: Any) -> QuantizeTask:
    """The task that makes a format's file, or with dry_run says how large it would be."""
    path = lab.gguf_path(label)
    return QuantizeTask(
        model_path=lab.model.path,
        format=label,
        n_threads=lab.n_threads,
        target_path=str(path),
        shown_path=path.name,
        allow_requantize=lab.model.quantized,
        provenance=provenance,
        **options,
    )


def _make_file(lab: Lab, label: str, on_progress: OnProgress | None) -> GgufFile:
    provenance = lab.provenance(
        "quantize",
        _quantize_key(lab, label),
        {"model": lab.model.sha256},
        {"format": label, "n_threads": lab.n_threads, "allow_requantize": lab.model.quantized},
    )
    path = lab.gguf_path(label)
    imatrix = imatrix_of(lab, label)
    if label == lab.model.baseline:
        from labctl.steps.quantize.audit import audit

        record = audit(path, label, provenance, shown_path=lab.model.path, sha256=lab.model.sha256)
    else:
        task = quantize_task(
            lab,
            label,
            imatrix_path="" if imatrix is None else str(_need_imatrix(lab, imatrix)),
            imatrix_shown="" if imatrix is None else imatrix.shown,
            provenance=provenance,
        )
        record = lab.run(task, GgufFile, "quantize", label, on_progress)
        lab.digests.remember(path, record.sha256)
    write_record(lab.folder.record_path("quantize", label), record)
    return record


def _need_imatrix(lab: Lab, imatrix: Imatrix) -> Path:
    from labctl.engines.llama_cpp.imatrix import ensure_imatrix

    return ensure_imatrix(imatrix, lab.model, lab.n_threads, lab.folder.log_path("imatrix"))


def quantize_step(label: str) -> Step:
    return Step("quantize", label, lambda lab: fresh_file(lab, label), lambda lab, on: _make_file(lab, label, on))
