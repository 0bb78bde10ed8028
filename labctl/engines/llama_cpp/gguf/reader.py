"""Reading a GGUF file's header, strictly: a damaged or hostile file gives a LabError, quickly."""

from __future__ import annotations

import codecs
import functools
import hashlib
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

from labctl.engines.base import Tensor
from labctl.errors import LabError

Value = str | int | float | bool

# Far above any real model, low enough that a file made to waste time or memory is refused within seconds.
MAX_KEYS = 65_536
MAX_TENSORS = 262_144
MAX_ARRAY_NUMBERS = 1 << 30  # llama.cpp gguf.cpp, GGUF_MAX_ARRAY_ELEMENTS
MAX_ARRAY_STRINGS = 4_000_000
MAX_TEXT_BYTES = 64 << 20
MAX_KEY_BYTES = 65_535  # the GGUF specification's limit on keys
MAX_KEPT_ARRAY = 4_096
MAX_KEPT_NUMBERS = 1 << 20  # of all arrays together: each costs a Python object
MAX_NAME_BYTES = 63  # llama.cpp ggml.h: GGML_MAX_NAME is 64 with the closing zero
MAX_DIMS = 4  # llama.cpp ggml.h: GGML_MAX_DIMS
MAX_INT64 = 2**63 - 1

# GGUF value types by number; 8 is a string, 9 an array. Source: llama.cpp ggml/include/gguf.h, enum gguf_type.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, INT32, FLOAT32 = 8, 5, 6
_ARRAY, _UINT32 = 9, 4

AGAIN = "Download or make the file again."


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo(Tensor):
    """One tensor of a GGUF file; its type has llama.cpp's name of the ggml type: "f16", "q4_K", ...

    Attributes:
        offset: bytes from the start of the tensor data.
    """

    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """Metadata and tensor list of a GGUF file.

    Attributes:
        metadata: single values by key.
        arrays: numeric arrays of up to 4,096 values; longer ones and texts leave only their length.
        array_lengths: number of values of every array.
        array_types: GGUF's number for the type of every array's values.
        text_digests: digest of every array of texts.
        data_offset: bytes before the tensor data.
        size_bytes: of the file; of all parts together for a split model.
    """

    version: int
    metadata: dict[str, Value]
    array_lengths: dict[str, int]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    size_bytes: int
    arrays: dict[str, tuple[int | float | bool, ...]] = field(default_factory=dict)
    array_types: dict[str, int] = field(default_factory=dict)
    text_digests: dict[str, str] = field(default_factory=dict)


def shown(value: object, limit: int = 60) -> str:
    """A value out of a file for an error message: quoted if it is text, and cut."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit + 2 else f"{text[:limit]}..."


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of one GGUF file; the tensor data is not read.

    Raises:
        LabError: no such file, not a GGUF file, cut short, damaged, or of an unsupported version.
    Source: llama.cpp ggml/src/gguf.cpp, gguf_init_from_reader.
    """
    try:
        with path.open("rb") as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            return read_open(stream, path.name, size_bytes)
    except FileNotFoundError as error:
        raise LabError(f"No such file: {path}.", "Check the path.") from error
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise LabError(f"Cannot read {path}: {reason}.", "Check the path and its permissions.") from error


def read_open(stream: BinaryIO, name: str, size_bytes: int) -> GgufHeader:
    """The same of a stream, of which no more than the header is read.

    Args:
        name: what messages call it.
        size_bytes: of the whole file.
    Raises:
        LabError: as read_header.
    """
    return _Reader(stream, name, size_bytes).header()


# Types that llama.cpp makes and older releases of the gguf package do not know. Source: ggml/src/ggml-common.h.
_NEWER_TYPES = {42: ("q2_0", 64, 18)}


@functools.cache
def tensor_types() -> dict[int, tuple[str, int, int]]:
    """ggml type number -> llama.cpp's name, weights in a block, bytes of a block."""
    from gguf.constants import GGML_QUANT_SIZES

    table = dict(_NEWER_TYPES)
    for kind, (block, block_bytes) in GGML_QUANT_SIZES.items():
        name = re.sub(r"_k$", "_K", kind.name.lower())
        table[int(kind)] = (name, int(block), int(block_bytes))
    return table


class _Reader:
    """A walk through a header that never reads or counts past the end of the file."""

    def __init__(self, stream: BinaryIO, name: str, size_bytes: int) -> None:
        self._stream = stream
        self._name = name
        self._size = size_bytes
        self._at = 0
        self._text_bytes = 0
        self._array_strings = 0
        self._array_types: dict[str, int] = {}
        self._text_digests: dict[str, str] = {}
        self._kept_numbers = 0

    def header(self) -> GgufHeader:
        self._check_magic()
        version = self._check_version()
        n_tensors, n_keys = self._number("Q"), self._number("Q")
        self._check_count(n_keys, MAX_KEYS, 8 + 1 + 4 + 1, "metadata keys")
        self._check_count(n_tensors, MAX_TENSORS, 8 + 4 + 4 + 8, "tensors")
        metadata: dict[str, Value] = {}
        arrays: dict[str, tuple[int | float | bool, ...]] = {}
        lengths: dict[str, int] = {}
        for _ in range(n_keys):
            key = self._name_text("a metadata key", MAX_KEY_BYTES)
            if key in metadata or key in lengths:
                self._damaged(f"the metadata key {shown(key)} comes twice")
            kind = self._number("I")
            if key == "general.alignment" and kind != _UINT32:
                self._damaged("its alignment is not a 32-bit number")
            if kind == _ARRAY:
                lengths[key], kept = self._array(key)
                if kept is not None:
                    arrays[key] = kept
            elif kind == STRING:
                metadata[key] = self._text(f"the value of {shown(key)}").decode("utf-8", "replace")
            elif kind in _NUMBERS:
                metadata[key] = self._number(_NUMBERS[kind])
            else:
                self._damaged(f"the metadata key {shown(key)} has the unknown value type {kind}")
        alignment = int(metadata.get("general.alignment", 32))
        if alignment < 1 or alignment & (alignment - 1):
            self._damaged(f"its alignment is {alignment}, which is not a power of two")
        tensors = tuple(self._tensor() for _ in range(n_tensors))
        data_offset = -(-self._at // alignment) * alignment
        self._check_tensors(tensors, data_offset, alignment)
        return GgufHeader(
            version=version,
            metadata=metadata,
            array_lengths=lengths,
            tensors=tensors,
            data_offset=data_offset,
            alignment=alignment,
            size_bytes=self._size,
            arrays=arrays,
            array_types=self._array_types,
            text_digests=self._text_digests,
        )

    def _check_magic(self) -> None:
        start = self._stream.read(512)
        self._stream.seek(0)
        if not start:
            raise LabError(f"{self._name} is empty.", AGAIN)
        if start[:4] != b"GGUF":
            if b"GGUF".startswith(start):
                self._short(4 - len(start))
            raise LabError(f"{self._name} is not a GGUF file: {_what_it_is(start)}.", _what_to_do(start))
        self._take(4)

    def _check_version(self) -> int:
        version = self._number("I")
        if version & 0xFFFF == 0 and version:
            raise LabError(
                f"{self._name} is a GGUF file for big-endian computers.",
                "Turn it round with gguf-convert-endian, or download the usual (little-endian) file.",
            )
        if version not in (2, 3):
            raise LabError(
                f"{self._name} is a GGUF file of version {version}; versions 2 and 3 can be read.",
                "Convert the model again with a current llama.cpp.",
            )
        return version

    def _check_count(self, count: int, most: int, least_bytes: int, what: str) -> None:
        if count > most:
            self._damaged(f"it claims {count:,} {what}, more than the {most:,} that are possible")
        self._check_left(count * least_bytes)

    def _array(self, key: str) -> tuple[int, tuple[int | float | bool, ...] | None]:
        kind, count = self._number("I"), self._number("Q")
        self._array_types[key] = kind
        if kind in _NUMBERS:
            size = struct.calcsize(f"<{_NUMBERS[kind]}")
            if count > MAX_ARRAY_NUMBERS:
                self._damaged(f"the array {shown(key)} claims {count:,} values, more than are possible")
            self._check_left(count * size)
            if count > MAX_KEPT_ARRAY or self._kept_numbers + count > MAX_KEPT_NUMBERS:
                self._skip(count * size)
                return count, None
            self._kept_numbers += count
            return count, struct.unpack(f"<{count}{_NUMBERS[kind]}", self._take(count * size))
        if kind != STRING:
            self._damaged(f"the array {shown(key)} has the unknown value type {kind}")
        self._array_strings += count
        if self._array_strings > MAX_ARRAY_STRINGS:
            self._damaged(f"the array {shown(key)} claims {count:,} texts, more than are possible")
        self._check_left(count * 8)
        digest = hashlib.blake2b(digest_size=16)
        for _ in range(count):
            length = self._number("Q")
            if length > MAX_TEXT_BYTES:
                self._damaged(f"a text in the array {shown(key)} claims {length:,} bytes, more than are possible")
            self._check_left(length)
            digest.update(length.to_bytes(8, "little") + self._take(length))
        self._text_digests[key] = digest.hexdigest()
        return count, None

    def _tensor(self) -> TensorInfo:
        name = self._name_text("a tensor's name", MAX_NAME_BYTES)
        n_dims = self._number("I")
        if not 1 <= n_dims <= MAX_DIMS:
            self._damaged(f"tensor {shown(name)} has {n_dims} dimensions")
        shape = tuple(self._number("Q") for _ in range(n_dims))
        n_params = 1
        for length in shape:
            n_params *= length
        if n_params < 1 or max(shape) > MAX_INT64 or n_params > MAX_INT64:
            self._damaged(f"tensor {shown(name)} has the impossible shape {shape}")
        kind = self._number("I")
        if kind not in tensor_types():
            raise LabError(
                f"{self._name}: tensor {shown(name)} has type number {kind}, which this labctl does not know.",
                "Update labctl and its gguf package, or download the file again if it is damaged.",
            )
        tensor_type, block, block_bytes = tensor_types()[kind]
        if shape[0] % block:
            self._damaged(
                f"tensor {shown(name)} has rows of {shape[0]:,}, not a multiple of {block} as {tensor_type} needs"
            )
        return TensorInfo(
            name=name,
            shape=shape,
            tensor_type=tensor_type,
            n_params=n_params,
            size_bytes=n_params // block * block_bytes,
            offset=self._number("Q"),
        )

    def _check_tensors(self, tensors: tuple[TensorInfo, ...], data_offset: int, alignment: int) -> None:
        if len({tensor.name for tensor in tensors}) != len(tensors):
            self._damaged("two tensors have the same name")
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset % alignment:
                self._damaged(f"tensor {shown(tensor.name)} does not start at a multiple of {alignment} bytes")
            if tensor.offset < end:
                self._damaged(f"tensor {shown(tensor.name)} overlaps the one before it")
            end = tensor.offset + tensor.size_bytes
        if tensors and data_offset + end > self._size:
            self._short(data_offset + end - self._size)

    def _name_text(self, what: str, most: int) -> str:
        data = self._text(what, most)
        if not data:
            self._damaged(f"{what} is empty")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self._damaged(f"{what} is not text")

    def _text(self, what: str, most: int = MAX_TEXT_BYTES) -> bytes:
        length = self._number("Q")
        self._text_bytes += length
        if length > most or self._text_bytes > MAX_TEXT_BYTES:
            self._damaged(f"{what} claims {length:,} bytes, more than are possible")
        self._check_left(length)
        return self._take(length)

    def _number(self, code: str) -> int:
        data = self._take(struct.calcsize(f"<{code}"))
        value: int = struct.unpack(f"<{code}", data)[0]
        return value

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            self._short(count - len(data), at_least=True)
        self._at += count
        return data

    def _skip(self, count: int) -> None:
        self._stream.seek(count, os.SEEK_CUR)
        self._at += count

    def _check_left(self, count: int) -> None:
        if count > self._size - self._at:
            self._short(count - (self._size - self._at), at_least=True)

    def _short(self, missing: int, at_least: bool = False) -> NoReturn:
        amount = f"at least {missing:,}" if at_least else f"{missing:,}"
        noun = "byte" if missing == 1 else "bytes"
        raise LabError(f"{self._name} is cut short: {amount} {noun} missing.", AGAIN)

    def _damaged(self, why: str) -> NoReturn:
        raise LabError(f"{self._name} is damaged: {why}.", AGAIN)


def _what_it_is(start: bytes) -> str:
    """A guess from a file's first bytes, in words."""
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, a note of where the file is kept"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "it is a web page"
    if start.startswith(b"PK\x03\x04"):
        return "it is a zip archive or a PyTorch checkpoint"
    if start[:4] in (b"ggml", b"lmgg", b"tjgg", b"fmgg", b"algg"):
        return "it is in the older GGML format"
    if start[8:10] == b'{"':
        return "it is a safetensors checkpoint"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # a character cut at the end is no error
    except UnicodeDecodeError:
        return f"it begins with {start[:4].hex(' ')}"
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return f"it begins with {start[:4].hex(' ')}"
    return "it is a text file"


def _what_to_do(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "Fetch the file itself with `git lfs pull`."
    if start[8:10] == b'{"' or start.startswith(b"PK\x03\x04"):
        return "Convert the checkpoint with llama.cpp's convert_hf_to_gguf.py first."
    return "Give a model file that ends in .gguf."
