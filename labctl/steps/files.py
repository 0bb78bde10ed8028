"""The file that a format's measurements need: its key, and whether it is there and unchanged."""

from __future__ import annotations

from labctl.engines import formats
from labctl.engines.base import Imatrix
from labctl.errors import LabError
from labctl.lab.lab import Lab, key_of
from labctl.records.digests import model_sha256
from labctl.records.files import GgufFile
from labctl.steps.base import stored


def quantize_key(lab: Lab, label: str) -> str:
    """Digest of what a format's file depends on; of a ready-made one, of its bytes.

    Raises:
        LabError: a ready-made file cannot be read.
    """
    if label in lab.candidates:
        paths = lab.engine.parts(lab.gguf_path(label))
        return key_of("candidate", lab, source=lab.model.sha256, file=model_sha256(paths, lab.digests.sha256))
    imatrix = imatrix_of(lab, label)
    parts = {} if imatrix is None else {"imatrix": imatrix.key}
    return key_of("quantize", lab, source=lab.model.sha256, format=label, requantize=lab.model.quantized, **parts)


def imatrix_of(lab: Lab, label: str) -> Imatrix | None:
    """The importance matrix that a format is made with: the lab's, if the format can use one."""
    made_here = label != lab.model.baseline and label not in lab.candidates
    return lab.imatrix if made_here and formats()[label].uses_imatrix else None


def fresh_file(lab: Lab, label: str) -> GgufFile | None:
    """The record of a format's file, if the file is there and unchanged since."""
    try:
        record = stored(lab, "quantize", label, GgufFile, quantize_key(lab, label))
    except LabError:  # a ready-made file that is damaged, or gone
        return None
    if record is None:
        return None
    path = lab.gguf_path(label)
    paths = lab.source.files if label == lab.model.baseline else (path,)
    if label in lab.candidates:
        paths = lab.engine.parts(path)
    if not all(path.is_file() for path in paths) or sum(path.stat().st_size for path in paths) != record.size_bytes:
        return None
    return record if model_sha256(paths, lab.digests.sha256) == record.sha256 else None


def need_file(lab: Lab, label: str) -> GgufFile:
    """The file that a measurement needs.

    Raises:
        LabError: it was not made.
    """
    record = fresh_file(lab, label)
    if record is None:
        raise LabError(f"There is no {label} file of {lab.model.name}.", f"Make it first: {lab.command('quantize')}")
    return record
