"""What a model that is not at hand would need."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from kit.lab_factory import empty_lab, make_lab

from labctl.engines.llama_cpp.engine import ENGINE
from labctl.errors import LabError
from labctl.report.fit import GIB, PROGRAM_BYTES
from labctl.report.fit_params import fit_params_table, other_shapes
from labctl.report.shapes import SHAPES, find_shape
from labctl.steps.memory.step import MEMORY
from labctl.steps.quantize.step import QUANTIZE

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


# As the model cards say, in billions.
ON_CARDS = {
    "SmolLM2-360M": 0.36,
    "SmolLM2-1.7B": 1.7,
    "Qwen3-0.6B": 0.6,
    "Qwen3-1.7B": 1.7,
    "Qwen3-4B": 4.0,
    "Qwen3-8B": 8.2,
    "Qwen3-14B": 14.8,
    "Qwen3-32B": 32.8,
}


def test_shapes_add_up_to_the_published_number_of_weights() -> None:
    counted = {shape.name: shape.n_params for shape in SHAPES}
    assert {name: counted[name] for name in PUBLISHED} == PUBLISHED
    assert set(counted) == {*PUBLISHED, *ON_CARDS}
    for name, billions in ON_CARDS.items():
        digits = len(str(billions).partition(".")[2])
        assert round(counted[name] / 1e9, digits) == billions, name


@pytest.mark.parametrize(
    ("text", "names"), [("7B", "Llama-2-7B, Mistral-7B or Qwen2.5-7B"), ("8b", "Llama-3.1-8B or Qwen3-8B")]
)
def test_a_size_that_several_models_have_asks_which(text: str, names: str) -> None:
    with pytest.raises(LabError, match=f"--params {text} could be {names}"):
        find_shape(text)


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
        ("llama-2-7b", "Llama-2-7B", 6_738_415_616),
        ("mistral-7b", "Mistral-7B", 7_241_732_096),
        ("0.6b", "Qwen3-0.6B", 596_049_920),
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
    shape, n_params = find_shape("Llama-2-7B")
    rows = {row.format: row for row in fit_params_table(lab, 8, 4096, shape, n_params)}
    assert list(rows) == list(lab.formats)
    program = 34_000_000  # start_rss_bytes of the lab's records
    for name, row in rows.items():
        assert row.need_bytes == shape.tensor_bytes(ENGINE, name) + 2 * GIB + shape.work_bytes() + program
        assert row.arithmetic.endswith(f"{row.verdict}.") and "Weights: 6.738 billion x " in row.arithmetic
    assert "4.844 bits (q4_K 83 %, q6_K 17 %; this lab's file: " in rows["Q4_K_M"].arithmetic
    assert rows["F16"].verdict == "does not fit"
    assert fit_params_table(lab, 32, 4096, shape, n_params)[0].verdict == "fits"
    lab.of(MEMORY).clear()
    fresh = {row.format: row for row in fit_params_table(lab, 8, 4096, shape, n_params)}
    assert (fresh["F16"].need_bytes or 0) - (rows["F16"].need_bytes or 0) == PROGRAM_BYTES - program


@pytest.mark.parametrize(
    ("label", "listed_gb"),
    [("Q8_0", 7.16), ("Q6_K", 5.53), ("Q5_K_M", 4.78), ("Q4_K_M", 4.08), ("Q4_K_S", 3.86), ("Q3_K_M", 3.30)],
)
def test_files_of_llama_2_7b_are_as_large_as_the_hub_lists_them(label: str, listed_gb: float) -> None:
    shape, _ = find_shape("Llama-2-7B")
    assert shape.tensor_bytes(ENGINE, label) == pytest.approx(listed_gb * 1e9, rel=0.002)  # listed to 0.01 GB


def test_a_number_of_weights_scales_the_nearest_shape(tmp_path: Path) -> None:
    shape, n_params = find_shape("12.5B")
    row = {one.format: one for one in fit_params_table(make_lab(tmp_path), 16, 512, shape, n_params)}["Q4_K_M"]
    weights = (row.need_bytes or 0) - (row.kv_bytes or 0) - shape.work_bytes() - 34_000_000
    assert weights == round(shape.tensor_bytes(ENGINE, "Q4_K_M") * n_params / shape.n_params)


def test_a_format_that_cannot_be_made_of_such_rows_is_said(tmp_path: Path) -> None:
    lab = dataclasses.replace(make_lab(tmp_path), formats=("F16", "Q1_0"))
    shape, n_params = find_shape("135M")
    rows = fit_params_table(lab, 8, 512, shape, n_params)
    assert [(row.format, row.verdict) for row in rows] == [("F16", "fits"), ("Q1_0", "cannot be made")]
    assert rows[1].need_bytes is None and "rows of 576 weights as q1_0" in rows[1].arithmetic


def test_a_source_quantized_by_other_rules_counts_with_its_own_bits(tmp_path: Path) -> None:
    made = make_lab(tmp_path)
    lab = dataclasses.replace(made, formats=("odd",)).having(QUANTIZE, {"odd": made.of(QUANTIZE)["Q8_0"]})
    shape, n_params = find_shape("Llama-2-7B")
    (row,) = fit_params_table(lab, 8, 512, shape, n_params)
    assert f"{made.of(QUANTIZE)['Q8_0'].bpw:.3f} bits (as in this lab's file)" in row.arithmetic


def test_a_context_longer_than_trained_for_is_said(tmp_path: Path) -> None:
    shape, n_params = find_shape("Llama-2-7B")
    (row, *_) = fit_params_table(empty_lab(tmp_path), 64, 8192, shape, n_params)
    assert "this lab's file" not in row.arithmetic
    assert row.arithmetic.endswith("trained for 4096 tokens of context at most.")
    assert row.verdict == "longer than trained for"


def test_other_models_of_the_size_show_how_much_the_cache_differs() -> None:
    shape, _ = find_shape("Llama-2-7B")
    text = other_shapes(shape, 4096)
    assert "Mistral-7B 0.500 GiB" in text and text.endswith("Llama-2-7B 2.000 GiB.")
    assert other_shapes(find_shape("70B")[0], 4096) == ""
