"""Headers of weight files: which tensors a safetensors file holds, and the names in a PyTorch file."""

from __future__ import annotations

import contextlib
import json
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError

AGAIN = "Download the checkpoint again, all files of it."
_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library's own limit
_MAX_PICKLE_BYTES = 64 << 20


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
        found = {
            str(name): Tensor(
                dtype=str(value["dtype"]),
                shape=tuple(int(size) for size in value["shape"]),
                begin=8 + length + int(value["data_offsets"][0]),
                end=8 + length + int(value["data_offsets"][1]),
            )
            for name, value in header.items()
            if name != "__metadata__"
        }
        missing = max((tensor.end for tensor in found.values()), default=0) - path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise LabError(f"{path.name} is damaged: its header cannot be read.", AGAIN) from error
    if missing > 0:
        raise LabError(f"{path.name} is cut short: {missing:,} bytes missing.", AGAIN)
    return found


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
            listed = next((one for one in archive.infolist() if one.filename.endswith("/data.pkl")), None)
            if listed is None or listed.file_size > _MAX_PICKLE_BYTES:
                return frozenset()
            data = archive.read(listed)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise LabError(f"{path.name} is cut short or damaged.", AGAIN) from error
    words: set[str] = set()
    with contextlib.suppress(ValueError):  # a damaged list: the converter says more
        words |= {value for _, value, _ in pickletools.genops(data) if isinstance(value, str)}
    return frozenset(words)
