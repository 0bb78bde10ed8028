"""What a model that is not at hand would need."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_factory import make_lab

from labctl.errors import LabError
from labctl.report.fit import GIB
from labctl.report.fit_params import PROGRAM_BYTES, fit_params_table, other_shapes
from labctl.report.shapes import SHAPES, find_shape

# As the Hub counts the weights in each model's safetensors files.
PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "Qwen2.5-0.5B": 494_032_768,
    "TinyLlama-1.1B": 1_100_048_384,
    "Llama-3.2-1B": 1_235_814_400,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-2-7B": 6_738_415_616,
    "Mistral-7B": 7_241_732_096,
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-2-13B": 13_015_864_320,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Llama-2-70B": 68_976_648_192,
}


def test_shapes_add_up_to_the_published_number_of_weights() -> None:
    assert {shape.name: shape.n_params for shape in SHAPES} == PUBLISHED


def test_cache_of_llama_2_7b_is_half_a_mebibyte_a_token() -> None:
    shape, _ = find_shape("Llama-2-7B")
    assert shape.kv_bytes(1) == 512 * 1024
    assert shape.kv_bytes(4096) == 2 * GIB  # llama.cpp: "KV self size = 2048.00 MiB" at 4096 tokens


def test_work_buffers_are_not_less_than_llama_cpp_says() -> None:
    # llama.cpp's "compute buffer size" of these models for batches of 512 tokens, in MiB.
    for name, mib in (("Llama-2-7B", 70.5), ("Llama-3.1-8B", 258.5), ("TinyLlama-1.1B", 66.5)):
        shape, _ = find_shape(name)
        assert mib * 2**20 <= shape.work_bytes() <= 2.1 * mib * 2**20


@pytest.mark.parametrize(
    ("text", "name", "n_params"),
    [
        ("7B", "Llama-2-7B", 6_738_415_616),
        ("7b", "Llama-2-7B", 6_738_415_616),
        ("mistral-7b", "Mistral-7B", 7_241_732_096),
        ("8B", "Llama-3.1-8B", 8_030_261_248),
        ("135M", "SmolLM2-135M", 134_515_008),
        ("1.5B", "Qwen2.5-1.5B", 1_543_714_304),
        ("12.5B", "Llama-2-13B", 12_500_000_000),
    ],
)
def test_finding_a_shape(text: str, name: str, n_params: int) -> None:
    shape, counted = find_shape(text)
    assert (shape.name, counted) == (name, n_params)


@pytest.mark.parametrize("text", ["", "big", "400B", "7", "-7B", "7BB"])
def test_no_such_shape(text: str) -> None:
    with pytest.raises(LabError) as caught:
        find_shape(text)
    assert "Llama-2-7B" in caught.value.hint


def test_need_is_the_sum_that_the_arithmetic_names(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    shape, n_params = find_shape("7B")
    rows = {row.format: row for row in fit_params_table(lab, 8, 4096, shape, n_params)}
    assert list(rows) == list(lab.formats)
    program = 34_000_000  # start_rss_bytes of the lab's records
    for name, row in rows.items():
        weights = round(n_params * lab.files[name].bpw / 8)
        assert row.need_bytes == weights + 2 * GIB + shape.work_bytes() + program
        assert row.arithmetic.endswith(f"{row.verdict}.") and "6.738 billion weights" in row.arithmetic
    assert rows["F16"].verdict == "does not fit"
    assert fit_params_table(lab, 32, 4096, shape, n_params)[0].verdict == "fits"
    lab.memory.clear()
    fresh = {row.format: row for row in fit_params_table(lab, 8, 4096, shape, n_params)}
    assert (fresh["F16"].need_bytes or 0) - (rows["F16"].need_bytes or 0) == PROGRAM_BYTES - program


def test_a_context_longer_than_trained_for_is_said(tmp_path: Path) -> None:
    shape, n_params = find_shape("7B")
    (row, *_) = fit_params_table(make_lab(tmp_path, ("F16",)), 64, 8192, shape, n_params)
    assert row.arithmetic.endswith("trained for 4096 tokens of context at most.")


def test_other_models_of_the_size_show_how_much_the_cache_differs() -> None:
    shape, _ = find_shape("7B")
    text = other_shapes(shape, 4096)
    assert "Mistral-7B 0.500 GiB" in text and text.endswith("Llama-2-7B 2.000 GiB.")
    assert other_shapes(find_shape("70B")[0], 4096) == ""
