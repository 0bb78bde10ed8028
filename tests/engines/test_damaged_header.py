"""A header that is damaged, or no language model's, is refused in one clear line."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.header_bytes import (
    ARRAY,
    DATA_BYTES,
    DEMO,
    I32,
    KEYS,
    STRING,
    U32,
    U64,
    array,
    build,
    failure,
    key,
    read,
    tensor,
    text,
    u32,
)

from labctl.engines.llama_cpp.gguf import header as gh
from labctl.engines.llama_cpp.gguf.reader import read_header
from labctl.errors import LabError

HUGE = 2**63
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"Once upon a time there was a text file.\n" * 40, "it is a text file"),
    "text in UTF-8, cut inside a character": (b"x" * 511 + "é".encode(), "it is a text file"),
    "web page": (b"<!DOCTYPE html><html>", "it is a web page"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "zip": (b"PK\x03\x04" + bytes(600), "zip archive"),
    "safetensors": (struct.pack("<Q", 40) + b'{"w":{"dtype":"F16"}}' + bytes(40), "safetensors"),
    "old ggml": (b"tjgg" + bytes(60), "older GGML format"),
    "binary": (bytes(range(128, 256)) * 4, "it begins with 80 81 82 83"),
    "zeros": (bytes(4096), "it begins with 00 00 00 00"),
    "half a magic": (b"GG", "is cut short: 2 bytes missing"),
    "magic in small letters": (build(magic=b"gguf"), "is not a GGUF file"),
    "version 0": (build(version=0), "of version 0"),
    "version 1": (build(version=1), "of version 1"),
    "version 4": (build(version=4), "of version 4"),
    "big-endian": (build(version=0x03000000), "big-endian"),
    "too many tensors": (build(n_tensors=HUGE), "tensors, more than"),
    "too many keys": (build(n_keys=2**64 - 1), "metadata keys, more than"),
    "more tensors than fit": (build(n_tensors=200_000), "is cut short"),
    "more keys than fit": (build(n_keys=60_000), "is cut short"),
    "one tensor too many": (build(n_tensors=3), "is damaged"),
    "one key too many": (build(n_keys=7), "is damaged"),
    "one key too few": (build(n_keys=5), "is damaged"),
    "key without end": (build(keys=(struct.pack("<Q", HUGE) + b"abc",)), "more than are possible"),
    "key longer than the file": (build(keys=(struct.pack("<Q", 60_000) + b"abc",)), "is cut short"),
    "empty key": (build(keys=(*KEYS, key("", U32, bytes(4)))), "a metadata key is empty"),
    "key that is no text": (build(keys=(*KEYS, key(b"\xff\xfe", U32, bytes(4)))), "a metadata key is not text"),
    "key twice": (build(keys=(*KEYS, KEYS[1])), "comes twice"),
    "array key twice": (build(keys=(*KEYS, KEYS[5])), "comes twice"),
    "unknown value type": (build(keys=(*KEYS, key("k", 13, bytes(8)))), "unknown value type 13"),
    "text without end": (build(keys=(*KEYS, key("k", STRING, struct.pack("<Q", HUGE)))), "more than are possible"),
    "text longer than the file": (build(keys=(*KEYS, key("k", STRING, struct.pack("<Q", 10**6)))), "is cut short"),
    "array of arrays": (build(keys=(*KEYS, array("k", ARRAY, 1, bytes(20)))), "unknown value type 9"),
    "array of unknown": (build(keys=(*KEYS, array("k", 99, 1, bytes(20)))), "unknown value type 99"),
    "array without end": (build(keys=(*KEYS, array("k", U64, HUGE, b""))), "more than are possible"),
    "array whose bytes overflow": (build(keys=(*KEYS, array("k", U64, 2**61 + 1, b""))), "more than are possible"),
    "array longer than the file": (build(keys=(*KEYS, array("k", U32, 10**6, b""))), "is cut short"),
    "text array without end": (build(keys=(*KEYS, array("k", STRING, 2**62, b""))), "more than are possible"),
    "text array past the end": (build(keys=(*KEYS, array("k", STRING, 10**6, b""))), "is cut short"),
    "text in an array without end": (
        build(keys=(*KEYS, array("k", STRING, 1, struct.pack("<Q", HUGE)))),
        "more than are possible",
    ),
    "text in an array past the end": (
        build(keys=(*KEYS, array("k", STRING, 1, struct.pack("<Q", 10**7)))),
        "is cut short",
    ),
    "alignment 0": (build(keys=(*KEYS, u32("general.alignment", 0))), "its alignment is 0"),
    "alignment 48": (build(keys=(*KEYS, u32("general.alignment", 48))), "not a power of two"),
    "alignment as text": (build(keys=(*KEYS, key("general.alignment", STRING, text("32")))), "not a 32-bit number"),
    "alignment as array": (build(keys=(*KEYS, array("general.alignment", U32, 1, bytes(4)))), "not a 32-bit number"),
    "tensor without name": (build(tensors=(tensor("", (64,), 0, 0),)), "a tensor's name is empty"),
    "tensor name too long": (build(tensors=(tensor("n" * 64, (64,), 0, 0),)), "64 bytes, more than are possible"),
    "tensor twice": (build(tensors=(tensor("w", (64,), 0, 0), tensor("w", (64,), 0, 256))), "same name"),
    "no dimensions": (build(tensors=(tensor("w", (), 0, 0),)), "has 0 dimensions"),
    "five dimensions": (build(tensors=(tensor("w", (1, 1, 1, 1, 1), 0, 0),)), "has 5 dimensions"),
    "dimension 0": (build(tensors=(tensor("w", (64, 0), 0, 0),)), "impossible shape"),
    "negative dimension": (build(tensors=(tensor("w", (2**64 - 1,), 0, 0),)), "impossible shape"),
    "size that overflows": (build(tensors=(tensor("w", (2**32, 2**32), 0, 0),)), "impossible shape"),
    "size that wraps to nothing": (build(tensors=(tensor("w", (2**33, 2**31, 2), 0, 0),)), "impossible shape"),
    "tensor far larger than the file": (build(tensors=(tensor("w", (2**40,), 0, 0),)), "is cut short"),
    "unknown tensor type": (build(tensors=(tensor("w", (64,), 250, 0),)), "type number 250"),
    "removed tensor type": (build(tensors=(tensor("w", (64,), 4, 0),)), "type number 4"),
    "rows no multiple of the block": (build(tensors=(tensor("w", (100, 2), 12, 0),)), "not a multiple of 256"),
    "tensor past the end": (build(tensors=(tensor("w", (64,), 0, 6400),)), "is cut short: 6,016 bytes missing"),
    "offset that overflows": (build(tensors=(tensor("w", (64,), 0, 2**64 - 32),)), "is cut short"),
    "misaligned tensor": (build(tensors=(tensor("w", (64,), 0, 8),)), "multiple of 32"),
    "overlapping tensors": (build(tensors=(tensor("w", (64,), 0, 0), tensor("v", (64,), 0, 224))), "overlaps"),
    "data cut by one byte": (build()[:-1], "is cut short: 1 byte missing"),
    "data cut altogether": (build(data_bytes=0), f"is cut short: {DATA_BYTES} bytes missing"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file_gives_one_clear_line(tmp_path: Path, case: str) -> None:
    data, expected = DAMAGED[case]
    error = failure(tmp_path, data)
    assert expected in error.message, error.message


def test_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    data = build()
    for length in range(len(data)):
        failure(tmp_path, data[:length])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="No such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(LabError, match="Cannot read"):
        read_header(tmp_path)


def without(*names: str) -> tuple[bytes, ...]:
    return tuple(one for one in KEYS if not any(one.startswith(text(name)) for name in names))


UNFIT: dict[str, tuple[tuple[bytes, ...], str]] = {
    "no architecture": (without("general.architecture"), "general.architecture"),
    "no layers": (without("llama.block_count"), "no llama.block_count"),
    "no width": (without("llama.embedding_length"), "no llama.embedding_length"),
    "no context": (without("llama.context_length"), "no llama.context_length"),
    "zero layers": ((*without("llama.block_count"), u32("llama.block_count", 0)), "impossible llama.block_count: 0"),
    "layers as text": (
        (*without("llama.block_count"), key("llama.block_count", STRING, text("two"))),
        "impossible llama.block_count",
    ),
    "negative heads": (
        (*without("llama.attention.head_count"), key("llama.attention.head_count", I32, struct.pack("<i", -4))),
        "impossible llama.attention.head_count: -4",
    ),
    "zero vocabulary": (
        (*without("tokenizer.ggml.tokens"), array("tokenizer.ggml.tokens", STRING, 0, b"")),
        "vocabulary is empty",
    ),
    "no vocabulary": (without("tokenizer.ggml.tokens"), "vocabulary is empty"),
    "image encoder": (
        (*without("general.architecture"), key("general.architecture", STRING, text("clip"))),
        "not a language model",
    ),
    "adapter": ((*KEYS, key("general.type", STRING, text("adapter"))), "not a language model"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_header_that_is_no_language_model(tmp_path: Path, case: str) -> None:
    keys, expected = UNFIT[case]
    found = read(tmp_path, build(keys=keys))
    with pytest.raises(LabError) as caught:
        gh.model_shape(found)
    assert expected in caught.value.message and caught.value.hint


def test_file_without_weights_has_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no weights"):
        gh.baseline_label(read(tmp_path, build(tensors=(), data_bytes=0)))


# -- chance -----------------------------------------------------------------------------------------------------------


def survives(path: Path, data: bytes) -> bool:
    """Read, and use what was read, in the way resolve_model does; True if nothing was found wrong."""
    path.write_bytes(data)
    began = time.monotonic()
    try:
        found = read_header(path)
        gh.model_shape(found)
        gh.baseline_label(found)
        return True
    except LabError as error:
        assert "\n" not in error.message
        return False
    finally:
        assert time.monotonic() - began < 5


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    chance = random.Random(20_240_601)
    whole = build()
    header_bytes = len(whole) - DATA_BYTES
    kinds: list[Callable[[bytearray], Any]] = [
        lambda data: data.__setitem__(chance.randrange(header_bytes), chance.randrange(256)),
        lambda data: [data.__setitem__(chance.randrange(header_bytes), chance.randrange(256)) for _ in range(8)],
        lambda data: data.__delitem__(slice(chance.randrange(len(data)), None)),
        lambda data: data.__delitem__(chance.randrange(header_bytes)),
        lambda data: data.insert(chance.randrange(header_bytes), chance.randrange(256)),
        lambda data: data.__setitem__(slice(at := chance.randrange(header_bytes - 8), at + 8), b"\xff" * 8),
    ]
    outcomes = []
    for number in range(600):
        data = bytearray(whole)
        kinds[number % len(kinds)](data)
        outcomes.append(survives(tmp_path / "m.gguf", bytes(data)))
    assert outcomes.count(False) > 200  # or the reader accepts what it should not


def test_random_damage_to_the_demo_models_header(tmp_path: Path) -> None:
    chance = random.Random(7)
    with DEMO.open("rb") as stream:
        start = stream.read(read_header(DEMO).data_offset)
    outcomes = set()
    for _ in range(60):
        data = bytearray(start)
        for _ in range(chance.choice((1, 4, 64))):
            data[chance.randrange(2_000 if chance.random() < 0.7 else len(data))] = chance.randrange(256)
        outcomes.add(survives(tmp_path / "m.gguf", bytes(data)))
    assert outcomes == {False}  # the weights are cut off


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=300), n_keys=st.integers(0, 2**64 - 1), n_tensors=st.integers(0, 2**64 - 1))
def test_any_bytes_after_the_magic(tmp_path: Path, tail: bytes, n_keys: int, n_tensors: int) -> None:
    survives(tmp_path / "m.gguf", b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + tail)
    survives(tmp_path / "m.gguf", b"GGUF" + tail)


def test_sparse_file_full_of_empty_texts_is_refused_at_once(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array("k", STRING, 10**9, b"")
    path = tmp_path / "hostile.gguf"
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(9 * 10**9)
    began = time.monotonic()
    with pytest.raises(LabError, match="more than are possible"):
        read_header(path)
    assert time.monotonic() - began < 1
