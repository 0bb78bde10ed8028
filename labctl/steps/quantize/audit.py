"""The audit of a model's file: what it really holds, from its own header."""

from __future__ import annotations

from pathlib import Path

from labctl.engines.base import Engine
from labctl.records.base import Provenance
from labctl.records.digests import file_sha256
from labctl.records.files import GgufFile, TensorFallback


def audit(
    engine: Engine,
    path: Path,
    label: str,
    provenance: Provenance,
    *,
    shown_path: str = "",
    sha256: str = "",
    fallbacks: tuple[TensorFallback, ...] = (),
    quantize_s: float | None = None,
    imatrix: str = "",
) -> GgufFile:
    """Describe a model's file from its own header: types, sizes, shape.

    Args:
        shown_path: what the record says; the path itself unless set.
        sha256: of the file's bytes if known; computed otherwise.
        imatrix: what tables call the importance matrix it was made with, if any.
    Raises:
        LabError: the file is damaged.
    """
    holds = engine.inspect(path)
    return GgufFile(
        format=label,
        path=shown_path or str(path),
        size_bytes=holds.size_bytes,
        sha256=sha256 or file_sha256(path),
        n_params=holds.n_params,
        n_tensors=len(holds.tensors),
        tensor_bytes=sum(share.size_bytes for share in holds.types),
        types=holds.types,
        shape=holds.shape,
        fallbacks=fallbacks,
        quantize_s=quantize_s,
        imatrix=imatrix,
        provenance=provenance,
    )
