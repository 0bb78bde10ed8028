"""The GGUF header reader: what it says of good files, and that damaged ones give one clear line, quickly."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.engines.llama_cpp.gguf import header as gh
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
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(keys) if n_keys is None else n_keys,
    )
    body = head + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % alignment) + bytes(data_bytes)


def read(tmp_path: Path, data: bytes, name: str = "model.gguf") -> gh.GgufHeader:
    path = tmp_path / name
    path.write_bytes(data)
    return gh.read_header(path)


def failure(tmp_path: Path, data: bytes) -> LabError:
    with pytest.raises(LabError) as caught:
        read(tmp_path, data)
    assert "\n" not in caught.value.message and caught.value.message.startswith("model.gguf")
    assert caught.value.hint
    return caught.value


# -- good files -------------------------------------------------------------------------------------------------------


def test_handmade_file_reads_back(tmp_path: Path) -> None:
    found = read(tmp_path, build())
    assert (found.version, found.alignment) == (3, 32)
    assert found.metadata["general.architecture"] == "llama"
    assert found.array_lengths == {"tokenizer.ggml.tokens": 3}
    assert found.size_bytes == (tmp_path / "model.gguf").stat().st_size == found.data_offset + DATA_BYTES
    assert [
        (one.name, one.shape, one.tensor_type, one.n_params, one.size_bytes, one.offset) for one in found.tensors
    ] == [
        ("token_embd.weight", (64, 3), "f16", 192, 384, 0),
        ("output_norm.weight", (64,), "f32", 64, 256, 384),
    ]
    shape = gh.model_shape(found)
    assert (shape.n_layer, shape.n_embd, shape.n_head, shape.n_head_kv) == (2, 64, 4, 4)
    assert (shape.d_head_k, shape.d_head_v, shape.n_vocab, shape.n_ctx_train) == (16, 16, 3, 128)
    assert not gh.is_quantized(found) and gh.baseline_label(found) == "F16"


def test_version_2_and_last_padding_missing(tmp_path: Path) -> None:
    assert read(tmp_path, build(version=2)).version == 2


def test_demo_model_agrees_with_the_gguf_package() -> None:
    found = gh.read_header(DEMO)
    reference = gguf.GGUFReader(DEMO)
    assert found.size_bytes == DEMO.stat().st_size == 30_713_088
    assert {
        (one.name, one.shape, one.n_params, one.size_bytes, found.data_offset + one.offset) for one in found.tensors
    } == {
        (one.name, tuple(map(int, one.shape)), int(one.n_elements), int(one.n_bytes), int(one.data_offset))
        for one in reference.tensors
    }
    assert sum(share.n_params for share in gh.type_shares(found)) == 15_211_008
    assert [share.tensor_type for share in gh.type_shares(found)] == ["f16", "f32"]
    shape = gh.model_shape(found)
    assert (shape.n_layer, shape.n_embd, shape.n_head, shape.n_head_kv, shape.d_head_k) == (6, 512, 8, 2, 64)
    assert (shape.n_vocab, shape.n_ctx_train, shape.architecture) == (8192, 1024, "llama")
    assert shape.kv_bytes(1024) == 2 * 6 * 1024 * 2 * 64 * 2


def test_writer_made_file_with_every_value_type(tmp_path: Path) -> None:
    path = tmp_path / "writer.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -3)
    writer.add_uint16("t.u16", 60_000)
    writer.add_int16("t.i16", -30_000)
    writer.add_int32("t.i32", -1)
    writer.add_float32("t.f32", 0.5)
    writer.add_bool("t.bool", True)
    writer.add_string("t.text", "Ünïcode")
    writer.add_uint64("t.u64", 2**40)
    writer.add_int64("t.i64", -(2**40))
    writer.add_float64("t.f64", 0.1)
    writer.add_array("t.small", [1, 2, 3])
    writer.add_array("t.long", list(range(5_000)))
    writer.add_tensor("w", np.zeros((4, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gh.read_header(path)
    assert {name: value for name, value in found.metadata.items() if name.startswith("t.")} == {
        "t.u8": 200, "t.i8": -3, "t.u16": 60_000, "t.i16": -30_000, "t.i32": -1, "t.f32": 0.5, "t.bool": True,
        "t.text": "Ünïcode", "t.u64": 2**40, "t.i64": -(2**40), "t.f64": 0.1,
    }  # fmt: skip
    assert found.arrays["t.small"] == (1, 2, 3)
    assert "t.long" not in found.arrays and found.array_lengths["t.long"] == 5_000


@pytest.mark.parametrize("kind", list(gguf.GGML_QUANT_SIZES))
def test_every_type_has_llama_cpps_size(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    size = 6 * block_bytes
    found = read(tmp_path, build(tensors=(tensor("w", (2 * block, 3), int(kind), 0),), data_bytes=size))
    assert found.tensors[0].size_bytes == size
    assert found.tensors[0].tensor_type.upper() == kind.name


def test_quantized_file_is_told_from_its_matrices(tmp_path: Path) -> None:
    tensors = (tensor("w", (256, 4), 12, 0), tensor("norm", (256,), 0, 576), tensor("big", (64, 64), 1, 1600))
    found = read(tmp_path, build(tensors=tensors, data_bytes=1600 + 8192))
    assert gh.is_quantized(found)
    assert gh.baseline_label(found) == "Q4_K"
    assert [(share.tensor_type, share.size_bytes) for share in gh.type_shares(found)] == [
        ("f16", 8192), ("f32", 1024), ("q4_K", 576),
    ]  # fmt: skip


def test_integer_tables_are_no_quantization(tmp_path: Path) -> None:
    tensors = (tensor("table", (64, 64), 26, 0), tensor("w", (64, 3), 30, 16_384))
    found = read(tmp_path, build(tensors=tensors, data_bytes=16_384 + 384))
    assert not gh.is_quantized(found) and gh.baseline_label(found) == "BF16"


def test_tensors_may_lie_in_any_order(tmp_path: Path) -> None:
    tensors = (tensor("b", (64,), 0, 384), tensor("a", (64, 3), 1, 0))
    assert [one.name for one in read(tmp_path, build(tensors=tensors)).tensors] == ["b", "a"]


def test_head_counts_by_layer_are_averaged_upwards(tmp_path: Path) -> None:
    by_layer = array("llama.attention.head_count_kv", I32, 2, struct.pack("<2i", 1, 4))
    assert gh.model_shape(read(tmp_path, build(keys=(*KEYS, by_layer)))).n_head_kv == 3


def test_explicit_head_sizes_win(tmp_path: Path) -> None:
    keys = (*KEYS, u32("llama.attention.key_length", 32), u32("llama.attention.value_length", 24))
    shape = gh.model_shape(read(tmp_path, build(keys=keys)))
    assert (shape.d_head_k, shape.d_head_v) == (32, 24)


# -- damaged files ----------------------------------------------------------------------------------------------------

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
        build(keys=(*KEYS, array("k", STRING, 1, struct.pack("<Q", HUGE)))), "more than are possible"),
    "text in an array past the end": (
        build(keys=(*KEYS, array("k", STRING, 1, struct.pack("<Q", 10**7)))), "is cut short"),
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
}  # fmt: skip


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
        gh.read_header(tmp_path / "none.gguf")
    with pytest.raises(LabError, match="Cannot read"):
        gh.read_header(tmp_path)


def without(*names: str) -> tuple[bytes, ...]:
    return tuple(one for one in KEYS if not any(one.startswith(text(name)) for name in names))


UNFIT: dict[str, tuple[tuple[bytes, ...], str]] = {
    "no architecture": (without("general.architecture"), "general.architecture"),
    "no layers": (without("llama.block_count"), "no llama.block_count"),
    "no width": (without("llama.embedding_length"), "no llama.embedding_length"),
    "no context": (without("llama.context_length"), "no llama.context_length"),
    "zero layers": ((*without("llama.block_count"), u32("llama.block_count", 0)), "impossible llama.block_count: 0"),
    "layers as text": (
        (*without("llama.block_count"), key("llama.block_count", STRING, text("two"))), "impossible llama.block_count"),
    "negative heads": (
        (*without("llama.attention.head_count"), key("llama.attention.head_count", I32, struct.pack("<i", -4))),
        "impossible llama.attention.head_count: -4"),
    "zero vocabulary": (
        (*without("tokenizer.ggml.tokens"), array("tokenizer.ggml.tokens", STRING, 0, b"")), "vocabulary is empty"),
    "no vocabulary": (without("tokenizer.ggml.tokens"), "vocabulary is empty"),
    "image encoder": (
        (*without("general.architecture"), key("general.architecture", STRING, text("clip"))), "not a language model"),
    "adapter": ((*KEYS, key("general.type", STRING, text("adapter"))), "not a language model"),
}  # fmt: skip


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


# -- split models -----------------------------------------------------------------------------------------------------


def part(number: int, count: int, name: str) -> bytes:
    keys = (*KEYS, key("split.no", 2, struct.pack("<H", number)), key("split.count", 2, struct.pack("<H", count)))
    return build(keys=keys, tensors=(tensor(name, (64, 3), 1, 0),), data_bytes=384)


def test_split_model_is_read_whole(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"m-0000{number + 1}-of-00003.gguf").write_bytes(part(number, 3, f"w{number}"))
    found, parts = gh.read_model(tmp_path / "m-00001-of-00003.gguf")
    assert [one.name for one in found.tensors] == ["w0", "w1", "w2"]
    assert found.size_bytes == sum(one.stat().st_size for one in parts) and len(parts) == 3
    assert gh.type_shares(found)[0].size_bytes == 3 * 384


@pytest.mark.parametrize(
    ("files", "asked", "expected"),
    [
        ({"m-00001-of-00002.gguf": part(0, 2, "a")}, "m-00001-of-00002.gguf", "1 of 2 parts of m are missing"),
        ({"m-00002-of-00002.gguf": part(1, 2, "a")}, "m-00002-of-00002.gguf", "not the first part"),
        ({"m.gguf": part(0, 2, "a")}, "m.gguf", "not named like one"),
        (
            {"m-00001-of-00002.gguf": part(0, 2, "a"), "m-00002-of-00002.gguf": part(1, 2, "a")},
            "m-00001-of-00002.gguf",
            "same tensor twice",
        ),
    ],
)
def test_split_model_with_a_fault(tmp_path: Path, files: dict[str, bytes], asked: str, expected: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(LabError, match=expected):
        gh.read_model(tmp_path / asked)


# -- chance -----------------------------------------------------------------------------------------------------------


def survives(path: Path, data: bytes) -> bool:
    """Read, and use what was read, in the way resolve_model does; True if nothing was found wrong."""
    path.write_bytes(data)
    began = time.monotonic()
    try:
        found = gh.read_header(path)
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
        start = stream.read(gh.read_header(DEMO).data_offset)
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
        gh.read_header(path)
    assert time.monotonic() - began < 1
