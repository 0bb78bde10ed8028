"""Quantizing safely, and the audit: what a GGUF file really holds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from labctl.engines.llama_cpp.formats import Format
from labctl.engines.llama_cpp.gguf.header import GgufHeader, read_model
from labctl.engines.llama_cpp.gguf.reader import tensor_types
from labctl.errors import LabError
from labctl.records.disk import partial_path, publish, require_space, writing
from labctl.records.files import TensorFallback

Quantizer = Callable[[Path, Path, Format, bool], Sequence[str]]
"""(source, target, format, dry_run) -> llama.cpp's log lines. Raises LabError."""

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


def refuse_same_file(source: Path, target: Path) -> None:
    """Keep llama.cpp from writing over the file it reads, links included.

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


def quantize(source: Path, target: Path, format_: Format, run: Quantizer) -> tuple[TensorFallback, ...]:
    """Make one quantized file, whole or not at all: dry run, space check, partial file, checks, rename.

    Args:
        run: does the work; llama.cpp in a child process's hands.
    Returns: tensors that fell back to another type.
    Raises:
        LabError: no space, llama.cpp refused, or the result is not what the dry run announced.
    """
    refuse_same_file(source, target)
    header, _ = read_model(source)
    partial = partial_path(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    expected = planned_bytes(header, run(source, partial, format_, True))
    require_space(target.parent, expected + header.size_bytes // 100 + (1 << 20), f"{format_.name}")
    try:
        with writing(target):
            partial.touch()
        try:
            lines = run(source, partial, format_, False)
        except LabError as error:
            if "iostream error" not in error.message:  # all that C++ says of a write that the system refused
                raise
            raise LabError(
                f"{target.name} cannot be written in {target.parent}: the disk is full, or limits a file's size.",
                "Free some space and run the same command again: what is finished is kept.",
            ) from error
        made, _ = read_model(partial)
        tensor_bytes = sum(tensor.size_bytes for tensor in made.tensors)
        if len(made.tensors) != len(header.tensors) or tensor_bytes != expected:
            raise LabError(
                f"{format_.name} came out wrong: {len(made.tensors)} tensors of {len(header.tensors)}, "
                f"{tensor_bytes} bytes of {expected}.",
                "The disk may be full or failing; run the same command again.",
            )
        publish(partial, target)
        return read_fallbacks(lines)
    finally:
        partial.unlink(missing_ok=True)
