"""GGUF files written byte by byte, right and wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from labctl.engines.llama_cpp.gguf.reader import GgufHeader, read_header
from labctl.errors import LabError

DEMO = Path(__file__).resolve().parents[2] / "lab_data" / "demo" / "labllama-f16.gguf"
U32, I32, F32, STRING, ARRAY, U64 = 4, 5, 6, 8, 9, 10


# -- files made by hand -----------------------------------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def u32(name: str, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def array(name: str, kind: int, count: int, payload: bytes) -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", kind, count) + payload)


def tensor(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


KEYS: tuple[bytes, ...] = (
    key("general.architecture", STRING, text("llama")),
    u32("llama.block_count", 2),
    u32("llama.embedding_length", 64),
    u32("llama.attention.head_count", 4),
    u32("llama.context_length", 128),
    array("tokenizer.ggml.tokens", STRING, 3, text("a") + text("b") + text("c")),
)
TENSORS: tuple[bytes, ...] = (
    tensor("token_embd.weight", (64, 3), 1, 0),  # f16, 384 bytes
    tensor("output_norm.weight", (64,), 0, 384),  # f32, 256 bytes
)
DATA_BYTES = 640


def build(
    keys: tuple[bytes, ...] = KEYS,
    tensors: tuple[bytes, ...] = TENSORS,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
    data_bytes: int = DATA_BYTES,
) -> bytes:
    head = magic + struct.pack(
        "<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    )
    body = head + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % alignment) + bytes(data_bytes)


def read(tmp_path: Path, data: bytes, name: str = "model.gguf") -> GgufHeader:
    path = tmp_path / name
    path.write_bytes(data)
    return read_header(path)


def failure(tmp_path: Path, data: bytes) -> LabError:
    with pytest.raises(LabError) as caught:
        read(tmp_path, data)
    assert "\n" not in caught.value.message and caught.value.message.startswith("model.gguf")
    assert caught.value.hint
    return caught.value
