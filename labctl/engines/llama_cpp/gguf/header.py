"""What a GGUF file's header says about the model: its sizes, its tensor types, whether it is quantized."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from labctl.engines.base import UNQUANTIZED_TYPES, Contents
from labctl.engines.llama_cpp.formats import FORMATS
from labctl.engines.llama_cpp.gguf import parts
from labctl.engines.llama_cpp.gguf.reader import AGAIN, GgufHeader, TensorInfo, Value, read_header, read_open, shown
from labctl.errors import LabError
from labctl.records.files import Making, ModelShape, TensorTypeShare

# Lookup tables and the like; a matrix in one of these says nothing about quantization.
_OTHER_TYPES = frozenset({"i8", "i16", "i32", "i64", "f64"})
_SHOWN_KEYS = 60
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_model(path: Path) -> tuple[GgufHeader, tuple[Path, ...]]:
    """Read a model's header, all parts of it where the model is split over several files.

    Args:
        path: the GGUF file, or the first part (`...-00001-of-00003.gguf`).
    Returns: a header with the tensors of all parts (offsets count within each part), and the parts in order.
    Raises:
        LabError: as read_header; a part is missing or of another model, or `path` is not the first.
    """
    try:
        first = read_header(path)
    except LabError as error:
        raise parts.explained(error, path) from error
    files = parts.files_of(path, first)
    if len(files) == 1:
        return first, files
    return _together(files, [first, *(read_header(part) for part in files[1:])]), files


def _together(files: Sequence[Path], headers: Sequence[GgufHeader]) -> GgufHeader:
    """The header of a model that is split over these files.

    Raises:
        LabError: they do not belong together.
    """
    parts.check_parts(files, headers)
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, size_bytes=sum(header.size_bytes for header in headers))


def model_shape(header: GgufHeader) -> ModelShape:
    """Sizes of the model.

    Where heads differ from layer to layer, n_head_kv is their mean, rounded up: the cache size comes out right or a
    little high.

    Raises:
        LabError: not a language model, a key is missing or impossible, or the vocabulary is empty.
    Source: llama.cpp src/llama-model.cpp, llama_model_base::load_hparams.
    """
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise LabError("The file does not say which architecture it is (general.architecture).", AGAIN)
    if not _ARCHITECTURE.fullmatch(architecture):
        raise LabError(f"The file names an impossible architecture: {shown(architecture)}.", AGAIN)
    kind = metadata.get("general.type", "model")
    if kind != "model" or architecture in ("clip", "imatrix"):
        raise LabError(
            f"The file is not a language model: it says {architecture}, type {shown(kind)}.",
            "Give the model's own GGUF file, not its image encoder, adapter or importance matrix.",
        )

    def whole(key: str, default: int | None = None, lowest: int = 1) -> int:
        name = f"{architecture}.{key}"
        values = header.arrays.get(name, ())
        value: Value | None = metadata.get(name, default)
        if values and all(isinstance(count, int) and 0 <= count < 2**31 for count in values):
            value = -(-sum(int(count) for count in values) // len(values))
        if value is None:
            raise LabError(f"The model's header has no {name}.", AGAIN)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value < 2**31:
            raise LabError(f"The model's header has an impossible {name}: {shown(value)}.", AGAIN)
        return value

    n_embd = whole("embedding_length")
    n_head = whole("attention.head_count", 0, lowest=0)
    d_head = n_embd // n_head if n_head else 0
    n_vocab = header.array_lengths.get("tokenizer.ggml.tokens")
    if n_vocab is None:
        n_vocab = whole("vocab_size", 0, lowest=0)
    if n_vocab < 1:
        raise LabError("The model's vocabulary is empty.", AGAIN)
    return ModelShape(
        architecture=architecture,
        n_layer=whole("block_count"),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=whole("attention.head_count_kv", n_head, lowest=0),
        d_head_k=whole("attention.key_length", d_head, lowest=0),
        d_head_v=whole("attention.value_length", d_head, lowest=0),
        n_vocab=n_vocab,
        n_ctx_train=whole("context_length"),
    )


def type_shares(header: GgufHeader) -> tuple[TensorTypeShare, ...]:
    """How much of the model is stored as each ggml type, largest first."""
    by_type: dict[str, list[TensorInfo]] = {}
    for tensor in header.tensors:
        by_type.setdefault(tensor.tensor_type, []).append(tensor)
    shares = [
        TensorTypeShare(
            tensor_type=name,
            n_tensors=len(tensors),
            n_params=sum(tensor.n_params for tensor in tensors),
            size_bytes=sum(tensor.size_bytes for tensor in tensors),
        )
        for name, tensors in by_type.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-share.size_bytes, share.tensor_type)))


def is_quantized(header: GgufHeader) -> bool:
    """Whether any weight matrix is stored in a quantized type."""
    plain = UNQUANTIZED_TYPES | _OTHER_TYPES
    return any(len(tensor.shape) > 1 and tensor.tensor_type not in plain for tensor in header.tensors)


def baseline_label(header: GgufHeader) -> str:
    """F16, BF16 or F32, whichever holds the most bytes; of a quantized file, its main type ("Q4_1")."""
    quantized = is_quantized(header)
    for share in type_shares(header):
        if (share.tensor_type in UNQUANTIZED_TYPES) != quantized and share.tensor_type not in _OTHER_TYPES:
            return share.tensor_type.upper()
    raise LabError("The file holds no weights.", "Give a GGUF file with the model's tensors in it.")


def n_trained(header: GgufHeader) -> int:
    """Tokens of context that a model was trained for, or made fit for by scaling its positions.

    Source: llama.cpp src/llama-model.cpp, load_hparams: positions are divided by the scaling factor, and the original
    context is the whole one unless the header names it.
    """
    shape = model_shape(header)

    def scaling(*keys: str) -> float:
        values = (header.metadata.get(f"{shape.architecture}.rope.{key}") for key in keys)
        return next((float(value) for value in values if isinstance(value, int | float) and 0 < value < 1e9), 0.0)

    factor = scaling("scaling.factor", "scale_linear")
    original = scaling("scaling.original_context_length") or shape.n_ctx_train
    if header.metadata.get(f"{shape.architecture}.rope.scaling.type") == "none":
        factor = 0.0
    return max(shape.n_ctx_train, int(factor * original))


def n_positions(header: GgufHeader) -> int | None:
    """Rows of a model's table of learned positions; None where positions are computed."""
    table = next((tensor for tensor in header.tensors if tensor.name == "position_embd.weight"), None)
    return table.shape[1] if table is not None and len(table.shape) > 1 else None


def quantized_kind(header: GgufHeader) -> str:
    """What a quantized file was made as, and where that hides it, the type of most bytes; empty for an unquantized one.

    Source: llama.cpp include/llama.h, enum llama_ftype, which general.file_type holds.
    """
    if not is_quantized(header):
        return ""
    label = baseline_label(header)
    made_as = next((row for row in FORMATS.values() if row.ftype == header.metadata.get("general.file_type")), None)
    if made_as is None or made_as.tensor_type in UNQUANTIZED_TYPES:
        return label
    return made_as.name if made_as.tensor_type.upper() == label else f"{made_as.name}, most bytes in {label}"


def n_experts(header: GgufHeader) -> tuple[int, int]:
    """How many experts a layer has, and how many of them a token uses; 0, 0 for a model without."""
    architecture = header.metadata.get("general.architecture")
    values = [header.metadata.get(f"{architecture}.{key}") for key in ("expert_count", "expert_used_count")]
    count, used = (value if isinstance(value, int) and value > 0 else 0 for value in values)
    return (count, used) if used and count >= used else (0, 0)


def contents(path: Path) -> Contents:
    """What a file holds, by its header; read once as long as the file stays the same.

    Raises:
        LabError: as read_model and model_shape.
    """
    try:
        status = path.stat()
    except OSError:
        return _contents.__wrapped__(path, 0, 0)  # read_model says what is wrong
    return _contents(path, status.st_size, status.st_mtime_ns)


def contents_open(files: Sequence[tuple[str, BinaryIO, int]]) -> Contents:
    """What a file holds, by its header; each part is a name, a stream and its number of bytes.

    Raises:
        LabError: as read_model and model_shape; it is a part of a model whose other parts are not given.
    """
    headers = [read_open(stream, name, size_bytes) for name, stream, size_bytes in files]
    names = [Path(name) for name, _, _ in files]
    count = headers[0].metadata.get("split.count", 1)
    if isinstance(count, int) and count > 1 and count != len(files):
        raise LabError(f"{names[0].name} is one of {count} parts of a model; {len(files)} are there.", AGAIN)
    return _described(headers[0] if len(headers) == 1 else _together(names, headers), tuple(names))


@functools.lru_cache(maxsize=32)
def _contents(path: Path, _size_bytes: int, _mtime_ns: int) -> Contents:
    return _described(*read_model(path))


def _described(header: GgufHeader, files: tuple[Path, ...]) -> Contents:
    n_expert, n_expert_used = n_experts(header)
    return Contents(
        files=files,
        size_bytes=header.size_bytes,
        tensors=header.tensors,
        types=type_shares(header),
        shape=model_shape(header),
        label=baseline_label(header),
        quantized=quantized_kind(header),
        n_trained=n_trained(header),
        n_positions=n_positions(header),
        n_expert=n_expert,
        n_expert_used=n_expert_used,
        n_ff=max((one.shape[1] for one in header.tensors if ".ffn_up" in one.name and len(one.shape) > 1), default=0),
        n_merges=header.array_lengths.get("tokenizer.ggml.merges", 0),
        kin=kin(header),
        making=making(header),
    )


def kin(header: GgufHeader) -> dict[str, str | int]:
    """What all files of one model share, in words; files from before pre-tokenizers had names do not tell theirs."""
    shape, texts = model_shape(header), header.text_digests

    def named(key: str) -> str:
        return shown(header.metadata[key]) if key in header.metadata else "not named"

    return {
        "architecture": shape.architecture,
        "layers": shape.n_layer,
        "numbers in a hidden state": shape.n_embd,
        "tokens": shape.n_vocab,
        "vocabulary: tokens": texts.get("tokenizer.ggml.tokens", ""),
        "vocabulary: rules of merging": texts.get("tokenizer.ggml.merges", ""),
        "kind of tokenizer": named("tokenizer.ggml.model"),
        "pre-tokenizer": named("tokenizer.ggml.pre"),
    }


def making(header: GgufHeader) -> Making:
    """Who made a file and how, as far as its metadata tell; they are a stranger's words.

    Source: llama.cpp tools/quantize/quantize.cpp (quantize.imatrix.*), and gguf's general.quantized_by.
    """

    def word(key: str) -> str:
        value = header.metadata.get(key, "")
        return str(value).strip()[:_SHOWN_KEYS] if isinstance(value, str) else ""

    data = word("quantize.imatrix.dataset") or word("quantize.imatrix.file")
    return Making(by=word("general.quantized_by"), imatrix=Path(data.replace("\\", "/")).name)
