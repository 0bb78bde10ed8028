"""Hugging Face checkpoints: what a folder of safetensors files holds, and what is missing in it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from labctl.errors import LabError

_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library's own limit
_MAX_JSON_BYTES = 64 << 20
_TOKENIZERS = ("tokenizer.model", "tokenizer.json", "vocab.json", "tekken.json", "vocab.txt", "spiece.model")
_SIDE_FILES = re.compile(r".*\.json|tokenizer\.model|spiece\.model|merges\.txt|vocab\.txt|.*\.tiktoken|.*\.jinja")
AGAIN = "Download the checkpoint again, all files of it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder that can be converted.

    Attributes:
        architecture: as config.json names it, "LlamaForCausalLM".
        files: all that the converter reads, config.json and weights included.
        weight_bytes: size of the weight files.
        dtypes: numeric types of the weights as safetensors names them ("BF16"); empty for PyTorch's own files.
        quantization: method by which the weights were already quantized ("fp8", "gptq"); empty if they were not.
    """

    folder: Path
    architecture: str
    files: tuple[Path, ...]
    weight_bytes: int
    dtypes: frozenset[str]
    quantization: str = ""

    @property
    def f16_bytes(self) -> int:
        """About the size of the F16 file."""
        return self.weight_bytes // 2 if self.dtypes == {"F32"} else self.weight_bytes


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint at all."""
    return (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))


def wanted_files(names: Iterable[str]) -> list[str]:
    """Files of a repository that conversion needs: weights, once, and what describes model and tokenizer.

    No program files are among them, so nothing that a repository ships is ever run.
    """
    top = sorted(name for name in names if "/" not in name)
    weights = [name for name in top if name.endswith(".safetensors")]
    # Some repositories hold the weights a second time, as one file or in the original authors' form.
    shards = [name for name in weights if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    if shards:
        weights = shards
    elif "model.safetensors" in weights:
        weights = ["model.safetensors"]
    if not weights:
        weights = [name for name in top if re.fullmatch(r"pytorch_model.*\.bin", name)]
    return weights + [name for name in top if _SIDE_FILES.fullmatch(name)] if weights else []


def read_checkpoint(folder: Path) -> Checkpoint:
    """Check a folder before the converter is started.

    Raises:
        LabError: config.json, weights or tokenizer are missing, damaged, or of a kind that cannot be converted.
    """
    config = _json(folder / "config.json")
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not architecture:
        raise LabError(
            f"{folder / 'config.json'} names no architecture.", "Take the config.json of the model's repository."
        )
    names = wanted_files(path.name for path in folder.iterdir() if path.is_file())
    weights = [folder / name for name in names if name.endswith((".safetensors", ".bin"))]
    if not weights:
        raise LabError(f"{folder} holds no weights (*.safetensors).", AGAIN)
    _check_index(folder, {path.name for path in weights})
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise LabError(
            f"{folder} holds no tokenizer ({' or '.join(_TOKENIZERS[:3])}).",
            "Download the tokenizer's files of the model's repository too.",
        )
    dtypes = frozenset(
        dtype for path in weights if path.suffix == ".safetensors" for dtype in _safetensors_dtypes(path)
    )
    quantization = config.get("quantization_config") or config.get("compression_config")
    method = str(quantization.get("quant_method", "unknown")) if isinstance(quantization, dict) else ""
    return Checkpoint(
        folder=folder,
        architecture=architecture,
        files=tuple(folder / name for name in names),
        weight_bytes=sum(path.stat().st_size for path in weights),
        dtypes=dtypes,
        quantization=method,
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON file with an object in it.

    Raises:
        LabError: missing, too large or damaged.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise LabError(f"{path} is too large for what it should be.", AGAIN)
        loaded = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise LabError(f"{path.parent} holds no {path.name}.", AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} is damaged: it is not JSON.", AGAIN) from error
    if not isinstance(loaded, dict):
        raise LabError(f"{path} is damaged: it holds no settings.", AGAIN)
    return loaded


def _check_index(folder: Path, present: set[str]) -> None:
    """See that every part named by the index is there.

    Raises:
        LabError: parts are missing.
    """
    for kind in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{kind}.index.json"
        suffix = PurePosixPath(kind).suffix
        if not index.is_file() or not any(name.endswith(suffix) for name in present):
            continue
        mapping = _json(index).get("weight_map")
        parts = sorted({str(name) for name in mapping.values()}) if isinstance(mapping, dict) else []
        missing = [name for name in parts if name not in present]
        if missing:
            raise LabError(
                f"{len(missing)} of {len(parts)} weight files are missing in {folder}, the first of them {missing[0]}.",
                AGAIN,
            )


def _safetensors_dtypes(path: Path) -> set[str]:
    """Numeric types in a safetensors file, from its header.

    Raises:
        LabError: cut short or damaged.
    Source: the safetensors format: 8 bytes length, then JSON, then the tensors' data.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if start == b"version " or not 2 <= length <= _MAX_HEADER_BYTES:
                raise LabError(f"{path.name} is no safetensors file.", "With git, fetch large files: git lfs pull")
            header = json.loads(stream.read(length))
        tensors = [value for name, value in header.items() if name != "__metadata__"]
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        missing = 8 + length + end - path.stat().st_size
        if missing > 0:
            raise LabError(f"{path.name} is cut short: {missing:,} bytes missing.", AGAIN)
        return {str(tensor["dtype"]) for tensor in tensors}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise LabError(f"{path.name} is damaged: its header cannot be read.", AGAIN) from error
