"""The audit of a GGUF file: what it really holds, from its own header."""

from __future__ import annotations

from pathlib import Path

from labctl.engines.llama_cpp.gguf.header import model_shape, read_model, type_shares
from labctl.records.base import Provenance
from labctl.records.digests import file_sha256
from labctl.records.files import GgufFile, TensorFallback, TensorTypeShare


def audit(
    path: Path, label: str, provenance: Provenance, *, shown_path: str = "", sha256: str = "",
    fallbacks: tuple[TensorFallback, ...] = (), quantize_s: float | None = None, imatrix: str = "",
) -> GgufFile:  # fmt: skip
    """Describe a GGUF file from its own header: types, sizes, shape.

    Args:
        shown_path: what the record says; the path itself unless set.
        sha256: of the file's bytes if known; computed otherwise.
        imatrix: what tables call the importance matrix it was made with, if any.
    Raises:
        LabError: the file is damaged.
    """
    header, _ = read_model(path)
    shares: tuple[TensorTypeShare, ...] = type_shares(header)
    return GgufFile(
        format=label,
        path=shown_path or str(path),
        size_bytes=header.size_bytes,
        sha256=sha256 or file_sha256(path),
        n_params=sum(share.n_params for share in shares),
        n_tensors=len(header.tensors),
        tensor_bytes=sum(share.size_bytes for share in shares),
        types=shares,
        shape=model_shape(header),
        fallbacks=fallbacks,
        quantize_s=quantize_s,
        imatrix=imatrix,
        provenance=provenance,
    )
