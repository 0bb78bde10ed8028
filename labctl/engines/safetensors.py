"""Weight files of checkpoints: which tensors a file holds, and whether stored weights are numbers."""

from __future__ import annotations

import contextlib
import json
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import LabError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AGAIN = "Download the checkpoint again, all files of it."
_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library's own limit
_MAX_PICKLE_BYTES = 64 << 20
STEP_BYTES = 16 << 20  # looked at in one piece

# type -> unsigned integer of the same size, and the exponent's bits: all of them set means NaN or infinity (IEEE 754).
PLAIN: dict[str, tuple[str, int]] = {
    "f16": ("<u2", 0x7C00),
    "bf16": ("<u2", 0x7F80),
    "f32": ("<u4", 0x7F800000),
    "f64": ("<u8", 0x7FF0000000000000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a safetensors file.

    Attributes:
        dtype: as safetensors names it, "BF16".
        begin, end: its bytes in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file, from its header.

    Raises:
        LabError: cut short or damaged.
    Source: the safetensors format: 8 bytes length, then JSON, then the tensors' data.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise LabError(f"{path.name} is no safetensors file.", AGAIN)
            header = json.loads(stream.read(length))
        tensors = {
            str(name): Tensor(
                dtype=str(value["dtype"]),
                shape=tuple(int(size) for size in value["shape"]),
                begin=8 + length + int(value["data_offsets"][0]),
                end=8 + length + int(value["data_offsets"][1]),
            )
            for name, value in header.items()
            if name != "__metadata__"
        }
        missing = max((tensor.end for tensor in tensors.values()), default=0) - path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise LabError(f"{path.name} is damaged: its header cannot be read.", AGAIN) from error
    if missing > 0:
        raise LabError(f"{path.name} is cut short: {missing:,} bytes missing.", AGAIN)
    return tensors


def read_pytorch_names(path: Path) -> frozenset[str]:
    """The words in a PyTorch file's list of tensors, their names among them; nothing of the file is run.

    Returns: empty for the oldest kind of file, which cannot be read this way.
    Raises:
        LabError: it is cut short.
    Source: torch/serialization.py, _save: a zip file with ARCHIVE/data.pkl; its directory comes last.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return frozenset()
    try:
        with zipfile.ZipFile(path) as archive:
            listed = next((entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")), None)
            if listed is None or listed.file_size > _MAX_PICKLE_BYTES:
                return frozenset()
            data = archive.read(listed)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise LabError(f"{path.name} is cut short or damaged.", AGAIN) from error
    words: set[str] = set()
    with contextlib.suppress(ValueError):  # a damaged list: the converter says more
        words |= {value for _, value, _ in pickletools.genops(data) if isinstance(value, str)}
    return frozenset(words)


def require_numbers(weights: Mapping[Path, Mapping[str, Tensor]]) -> None:
    """Look at every weight of a checkpoint's safetensors files.

    Raises:
        LabError: one is NaN or infinite.
    """
    import numpy as np

    for path, tensors in weights.items():
        data = np.memmap(path, dtype=np.uint8, mode="r")
        for name, tensor in tensors.items():
            fault = fault_of(data[tensor.begin : tensor.end], tensor.dtype.lower())
            if fault:
                raise not_numbers(path.name, name, fault)


def not_numbers(file: str, tensor: str, fault: str) -> LabError:
    """Weights that training, merging or a damaged file left as no numbers."""
    return LabError(
        f"{file} holds weights that are not numbers: {fault} in {tensor}, so nothing can be measured with it.",
        "Training or merging went wrong, or the file is damaged: take an earlier checkpoint, or download it again.",
    )


def fault_of(data: NDArray[np.uint8], kind: str) -> str:
    """What is no finite number in stored values: "NaN", "infinity", or nothing.

    Args:
        kind: f16, bf16, f32 or f64; other types hold no such values, or none that can be told.
    """
    if kind not in PLAIN:
        return ""
    unsigned, exponent = PLAIN[kind]
    values = data.view(unsigned)
    step = max(1, STEP_BYTES // values.dtype.itemsize)
    infinite = False
    for start in range(0, len(values), step):
        part = values[start : start + step]
        special = part[(part & exponent) == exponent]
        if special.size:
            mantissa = (1 << (exponent & -exponent).bit_length() - 1) - 1  # the bits below the exponent's
            if (special & mantissa).any():
                return "NaN"
            infinite = True
    return "infinity" if infinite else ""
