"""llama.cpp's quantizer behind plain Python. Only in labctl's children, as all of llama.cpp."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labctl.engines.llama_cpp.binding import REFUSED_HINT, Llama
from labctl.engines.llama_cpp.formats import FORMATS
from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.gguf.reader import GgufHeader, tensor_types
from labctl.engines.llama_cpp.imatrix import read_imatrix
from labctl.engines.model import FloatArray, Recipe
from labctl.errors import LabError
from labctl.executors.base import log_line
from labctl.records.files import TensorFallback


def planned(llama: Llama, source: Path, recipe: Recipe) -> int:
    """See labctl.engines.model.Program: llama.cpp's dry run."""
    header, _ = read_model(source)
    return planned_bytes(header, _run(llama, source, source.with_suffix(".never"), recipe, dry_run=True))


def quantize(
    llama: Llama, source: Path, target: Path, recipe: Recipe, on_tensor: Callable[[int, int], None]
) -> tuple[TensorFallback, ...]:
    """See labctl.engines.model.Program."""

    def on_line(line: str) -> None:
        log_line(line)
        if position := read_progress(line):
            on_tensor(*position)

    llama.log_line = on_line
    try:
        return read_fallbacks(_run(llama, source, target, recipe, dry_run=False))
    except LabError as error:
        if "iostream error" not in error.message:  # all that C++ says of a write that the system refused
            raise
        raise LabError(
            f"{target.name} cannot be written in {target.parent}: the disk is full, or limits a file's size.",
            "Free some space and run the same command again: what is finished is kept.",
        ) from error
    finally:
        llama.log_line = log_line


def _run(llama: Llama, source: Path, target: Path, recipe: Recipe, *, dry_run: bool) -> Sequence[str]:
    """Quantize by a recipe; llama.cpp's log of it."""
    imatrix = read_imatrix(recipe.imatrix) if recipe.imatrix is not None else None
    llama.clear_log()
    quantize_file(
        llama,
        source,
        target,
        FORMATS[recipe.format].ftype,
        n_threads=recipe.n_threads,
        dry_run=dry_run,
        allow_requantize=recipe.allow_requantize,
        imatrix=None if imatrix is None else imatrix.entries,
        metadata=() if imatrix is None or recipe.imatrix is None else imatrix.metadata(recipe.imatrix.name),
    )
    return list(llama.lines)


def quantize_file(
    llama: Llama,
    source: Path,
    target: Path,
    ftype: int,
    *,
    n_threads: int,
    dry_run: bool = False,
    allow_requantize: bool = False,
    imatrix: Mapping[str, FloatArray] | None = None,
    metadata: Sequence[tuple[str, str | int]] = (),
) -> None:
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


# -- what its log says -------------------------------------------------------------------------------------------------

_PROGRESS = re.compile(r"^\[\s*(?P<index>\d+)/\s*(?P<count>\d+)\]")
_PLANNED = re.compile(r"^\[\s*\d+/\s*\d+\]\s+(?P<name>\S+)\s.*type =\s*(?P<source>\S+),.*?(?:\((?P<target>\S+)\))?$")
_FALLBACK = re.compile(
    r"warning:\s+(?P<tensor>\S+)\s+- ncols\s+(?P<row>\d+) not divisible by\s+\d+ "
    r"\(required for type\s+(?P<wanted>\S+)\).*-> falling back to\s+(?P<got>\S+)"
)


def read_progress(line: str) -> tuple[int, int] | None:
    """(tensor number, number of tensors) from a line of llama.cpp's quantize log; None for other lines."""
    match = _PROGRESS.match(line)
    return (int(match["index"]), int(match["count"])) if match else None


def read_fallbacks(lines: Sequence[str]) -> tuple[TensorFallback, ...]:
    """Tensors that could not get their format's type, from llama.cpp's log.

    Source: llama.cpp src/llama-quant.cpp, tensor_type_fallback.
    """
    return tuple(
        TensorFallback(
            tensor=match["tensor"],
            row_length=int(match["row"]),
            wanted=re.sub(r"_k$", "_K", match["wanted"].lower()),
            got=match["got"],
        )
        for line in lines
        if (match := _FALLBACK.search(line))
    )


def planned_bytes(header: GgufHeader, lines: Sequence[str]) -> int:
    """Tensor bytes of the file that a dry run announced, exact where its log names every tensor.

    Args:
        header: of the source.
        lines: llama.cpp's log of the dry run.
    """
    blocks = {name.lower(): (block, block_bytes) for name, block, block_bytes in tensor_types().values()}
    targets = {match["name"]: match["target"] or match["source"] for line in lines if (match := _PLANNED.match(line))}
    total = 0
    for tensor in header.tensors:
        name = targets.get(tensor.name, tensor.tensor_type)
        block, block_bytes = blocks[name.lower()]
        total += math.ceil(tensor.n_params / block) * block_bytes
    return total
