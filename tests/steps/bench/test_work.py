"""What a token and a prompt ask of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.lab_factory import SHAPE

from labctl.engines.base import Tensor
from labctl.engines.llama_cpp.gguf.header import model_shape, n_experts, read_model
from labctl.engines.llama_cpp.gguf.reader import GgufHeader, Value
from labctl.steps.bench.arithmetic import work_of


def tensor(name: str, shape: tuple[int, ...], n_params: int, size_bytes: int) -> Tensor:
    return Tensor(name=name, shape=shape, tensor_type="f16", n_params=n_params, size_bytes=size_bytes)


def f16(name: str, *shape: int) -> Tensor:
    n_params = 1
    for one in shape:
        n_params *= one
    return tensor(name, shape, n_params, 2 * n_params)


LAYER = [f16("blk.0.attn_q.weight", 512, 512), tensor("blk.0.attn_norm.weight", (512,), 512, 2048)]
TABLE, OUTPUT = f16("token_embd.weight", 512, 8192), f16("output.weight", 512, 8192)


def test_of_the_embeddings_one_row_is_read() -> None:
    work = work_of([*LAYER, TABLE, OUTPUT], SHAPE, n_prompt=512, n_gen=128)
    assert work.weight_bytes_per_token == 2 * 512 * 512 + 2048 + 2 * 512 + 2 * 512 * 8192


def test_a_table_that_is_also_the_output_matrix_is_read_whole() -> None:
    work = work_of([*LAYER, TABLE], SHAPE, n_prompt=512, n_gen=128)
    assert work.weight_bytes_per_token == 2 * 512 * 512 + 2048 + 2 * 512 + 2 * 512 * 8192


def test_the_cache_is_half_full_on_average() -> None:
    work = work_of(LAYER, SHAPE, n_prompt=512, n_gen=127)
    assert work.kv_bytes_per_token == SHAPE.kv_bytes(64)


def test_operations_of_a_prompt() -> None:
    work = work_of([*LAYER, TABLE, OUTPUT], SHAPE, n_prompt=10, n_gen=1)
    # 2 x 10 tokens x the matrix, the output matrix once, and attention: 6 layers x 8 heads x (64 + 64) x 2 x 55 pairs
    assert work.prompt_flop == 2 * 10 * 512 * 512 + 2 * 512 * 8192 + 2 * 6 * 8 * 128 * 55


def test_a_mixture_of_experts_reads_the_experts_that_it_uses() -> None:
    expert = tensor("blk.0.ffn_up_exps.weight", (512, 1024, 8), 512 * 1024 * 8, 1_000_000)
    work = work_of([expert], SHAPE, n_prompt=1, n_gen=1, n_expert=8, n_expert_used=2)
    assert work.weight_bytes_per_token == 250_000


@pytest.mark.parametrize(
    ("keys", "counts"),
    [({"expert_count": 8, "expert_used_count": 2}, (8, 2)), ({}, (0, 0)), ({"expert_count": 0}, (0, 0))],
)
def test_the_header_tells_the_experts(keys: dict[str, Value], counts: tuple[int, int]) -> None:
    metadata: dict[str, Value] = {"general.architecture": "mix", **{f"mix.{key}": value for key, value in keys.items()}}
    header = GgufHeader(
        version=3, metadata=metadata, array_lengths={}, tensors=(), data_offset=0, alignment=32, size_bytes=0
    )
    assert n_experts(header) == counts


def test_work_of_the_demo_model(demo_model: Path) -> None:
    header, _ = read_model(demo_model)
    shape = model_shape(header)
    work = work_of(header.tensors, shape, n_prompt=512, n_gen=128)
    # Tied embeddings: all tensors are read, and one row of the table once more.
    total = sum(tensor.size_bytes for tensor in header.tensors)
    assert work.weight_bytes_per_token == total + 2 * shape.n_embd
    n_layers = sum(tensor.n_params for tensor in header.tensors if len(tensor.shape) > 1) - 512 * 8192
    attention = 2 * shape.n_layer * shape.n_head * 128 * 512 * 513 // 2
    assert work.prompt_flop == 2 * n_layers * 512 + 2 * 512 * 8192 + attention
