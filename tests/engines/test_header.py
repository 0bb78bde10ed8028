"""Headers of GGUF files are read as the gguf package reads them; split models whole."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from kit.header_bytes import DATA_BYTES, DEMO, I32, KEYS, array, build, key, read, tensor, u32

from labctl.engines.llama_cpp.gguf import header as gh
from labctl.engines.llama_cpp.gguf.reader import read_header
from labctl.errors import LabError


def test_handmade_file_reads_back(tmp_path: Path) -> None:
    found = read(tmp_path, build())
    assert (found.version, found.alignment) == (3, 32)
    assert found.metadata["general.architecture"] == "llama"
    assert found.array_lengths == {"tokenizer.ggml.tokens": 3}
    assert found.size_bytes == (tmp_path / "model.gguf").stat().st_size == found.data_offset + DATA_BYTES
    assert [
        (one.name, one.shape, one.tensor_type, one.n_params, one.size_bytes, one.offset) for one in found.tensors
    ] == [("token_embd.weight", (64, 3), "f16", 192, 384, 0), ("output_norm.weight", (64,), "f32", 64, 256, 384)]
    shape = gh.model_shape(found)
    assert (shape.n_layer, shape.n_embd, shape.n_head, shape.n_head_kv) == (2, 64, 4, 4)
    assert (shape.d_head_k, shape.d_head_v, shape.n_vocab, shape.n_ctx_train) == (16, 16, 3, 128)
    assert not gh.is_quantized(found) and gh.baseline_label(found) == "F16"


def test_version_2_and_last_padding_missing(tmp_path: Path) -> None:
    assert read(tmp_path, build(version=2)).version == 2


def test_demo_model_agrees_with_the_gguf_package() -> None:
    found = read_header(DEMO)
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
    found = read_header(path)
    assert {name: value for name, value in found.metadata.items() if name.startswith("t.")} == {
        "t.u8": 200,
        "t.i8": -3,
        "t.u16": 60_000,
        "t.i16": -30_000,
        "t.i32": -1,
        "t.f32": 0.5,
        "t.bool": True,
        "t.text": "Ünïcode",
        "t.u64": 2**40,
        "t.i64": -(2**40),
        "t.f64": 0.1,
    }
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
        ("f16", 8192),
        ("f32", 1024),
        ("q4_K", 576),
    ]


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
