"""A quantized file, from the scratch folder to its real name: made by a task, checked and described here."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from labctl.engines.base import Engine
from labctl.errors import LabError
from labctl.records.base import Provenance
from labctl.records.disk import publish, writing
from labctl.records.files import GgufFile
from labctl.steps.quantize.audit import audit
from labctl.steps.quantize.record import Made, QuantizeTask


class Run(Protocol):
    """Runs a task."""

    def __call__(self, task: QuantizeTask, kind: type[Made], /) -> Made: ...


def make(
    engine: Engine, run: Run, task: QuantizeTask, target: Path, provenance: Provenance, *, imatrix: str = ""
) -> GgufFile:
    """Make one quantized file, whole or not at all.

    Args:
        task: writes to its own target_path, on the same disk as `target`.
        imatrix: what tables call the importance matrix it is made with, if any.
    Raises:
        LabError: the task failed, or the result is not what its dry run announced; an earlier file is untouched.
    """
    source, scratch = Path(task.model_path), Path(task.target_path)
    with task.naming():
        refuse_same_file(source, target)
        with writing(scratch):
            scratch.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = run(task, Made)
        with task.naming():
            _require_whole(engine, task, made)
            record = audit(
                engine,
                scratch,
                task.format,
                provenance,
                shown_path=target.name,
                fallbacks=made.fallbacks,
                quantize_s=made.quantize_s,
                imatrix=imatrix,
            )
            publish(scratch, target)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return record


def _require_whole(engine: Engine, task: QuantizeTask, made: Made) -> None:
    """Raise unless the file is what the dry run announced."""
    source, result = (engine.inspect(Path(path)) for path in (task.model_path, task.target_path))
    tensor_bytes = sum(share.size_bytes for share in result.types)
    if len(result.tensors) != len(source.tensors) or tensor_bytes != made.tensor_bytes:
        raise LabError(
            f"{task.format} came out wrong: {len(result.tensors)} tensors of {len(source.tensors)}, "
            f"{tensor_bytes} bytes of {made.tensor_bytes}.",
            "The disk may be full or failing; run the same command again.",
        )


def refuse_same_file(source: Path, target: Path) -> None:
    """Keep a result from replacing the file that it is made from, links included.

    Raises:
        LabError: both names are one file.
    """
    same = source.resolve() == target.resolve()
    if target.exists() and source.exists():
        same = same or source.samefile(target)
    if same:
        raise LabError(
            f"Input and output are the same file: {source}.",
            "Choose another --outputs folder: quantizing over the source would destroy it.",
        )
