"""llama.cpp's quantizer behind plain Python. Only in labctl's children, as all of llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labctl.engines.llama_cpp.binding import REFUSED_HINT, FloatArray, Llama
from labctl.errors import LabError


def quantize_file(
    llama: Llama, source: Path, target: Path, ftype: int, *, n_threads: int, dry_run: bool = False,
    allow_requantize: bool = False, imatrix: Mapping[str, FloatArray] | None = None,
    metadata: Sequence[tuple[str, str | int]] = (),
) -> None:  # fmt: skip
    """llama.cpp's llama_model_quantize, its log going to `llama`.

    Args:
        imatrix: weight name -> (n_columns * n_experts,) float32, how much each column matters.
        metadata: keys and values to add to the file's header.
    Raises:
        LabError: llama.cpp refused; the message holds its reason.
    """
    binding = llama.binding
    parameters = binding.llama_model_quantize_default_params()
    parameters.nthread = n_threads
    parameters.ftype = ftype
    parameters.dry_run = dry_run
    parameters.allow_requantize = allow_requantize
    kept: list[Any] = []  # ctypes does not keep what a pointer points to
    if imatrix:
        parameters.imatrix = _imatrix_array(binding, imatrix, kept)
    if metadata:
        parameters.kv_overrides = _kv_overrides(binding, metadata, kept)
    status = binding.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if status != 0:
        reason = llama.last_words()
        raise LabError(
            f"llama.cpp could not quantize {source.name}: {reason}.",
            REFUSED_HINT  # a dry run looks into the header, which all formats share
            if dry_run and "importance matrix" not in reason
            else "Leave this format out with --formats; the others are made all the same. The step's log says more.",
        )


def _imatrix_array(binding: Any, imatrix: Mapping[str, FloatArray], kept: list[Any]) -> Any:
    """An importance matrix as llama.cpp's array, ended by an entry without a name."""
    rows = (binding.llama_model_imatrix_data * (len(imatrix) + 1))()
    for row, (name, values) in zip(rows, imatrix.items(), strict=False):
        values = np.ascontiguousarray(values, dtype=np.float32)
        row.name = name.encode()
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        row.size = values.size
        kept.append(values)
    kept.append(rows)
    return rows


def _kv_overrides(binding: Any, metadata: Sequence[tuple[str, str | int]], kept: list[Any]) -> Any:
    """Header values as llama.cpp's array, ended by an empty key; texts are cut to the 127 bytes it has room for."""
    rows = (binding.llama_model_kv_override * (len(metadata) + 1))()
    for row, (key, value) in zip(rows, metadata, strict=False):
        row.key = key.encode()
        if isinstance(value, str):
            row.tag = binding.LLAMA_KV_OVERRIDE_TYPE_STR
            row.value.val_str = value.encode()[:127]
        else:
            row.tag = binding.LLAMA_KV_OVERRIDE_TYPE_INT
            row.value.val_i64 = value
    kept.append(rows)
    return rows
