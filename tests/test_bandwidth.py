"""What a token asks of the machine, and what the machine's memory gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from lab_factory import SHAPE

import labctl.measure.bandwidth as measure
from labctl import tasks
from labctl.measure.bandwidth import (
    PASSES,
    bandwidth_for,
    bound_tps,
    buffer_sizes,
    experts,
    measure_bandwidths,
    work_of,
)
from labctl.prepare.header import model_shape, read_model
from labctl.records_hardware import Bandwidth, Work


@dataclass
class Tensor:
    name: str
    shape: tuple[int, ...]
    n_params: int
    size_bytes: int


def f16(name: str, *shape: int) -> Tensor:
    n_params = 1
    for one in shape:
        n_params *= one
    return Tensor(name, shape, n_params, 2 * n_params)


LAYER = [f16("blk.0.attn_q.weight", 512, 512), Tensor("blk.0.attn_norm.weight", (512,), 512, 2048)]
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
    expert = Tensor("blk.0.ffn_up_exps.weight", (512, 1024, 8), 512 * 1024 * 8, 1_000_000)
    work = work_of([expert], SHAPE, n_prompt=1, n_gen=1, n_expert=8, n_expert_used=2)
    assert work.weight_bytes_per_token == 250_000
    assert experts({"mix.expert_count": 8, "mix.expert_used_count": 2}, "mix") == (8, 2)
    assert experts({"mix.expert_count": 0}, "mix") == experts({}, "mix") == (0, 0)


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


def bandwidth(buffer_bytes: int, *rates: float) -> Bandwidth:
    return Bandwidth(buffer_bytes=buffer_bytes, n_threads=2, read_bytes_per_s=rates, copy_bytes_per_s=(1.0,))


def test_the_bound_takes_the_fastest_pass_of_the_buffer_that_is_as_large() -> None:
    measured = (bandwidth(1_000, 9e9), bandwidth(10_000, 4e9, 5e9), bandwidth(1 << 30, 2e9))
    small, middle, large = (
        Work(weight_bytes_per_token=n, kv_bytes_per_token=100, prompt_flop=1) for n in (800, 9_000, 10**10)
    )
    assert [bandwidth_for(measured, work) for work in (small, middle, large)] == list(measured)
    assert bound_tps(measured, middle) == pytest.approx(5e9 / 9_100)
    assert bound_tps(measured, large) == pytest.approx(2e9 / (10**10 + 100))
    assert bound_tps((), small) is None


def test_buffers_to_test() -> None:
    def work(n_bytes: int) -> Work:
        return Work(weight_bytes_per_token=n_bytes, kv_bytes_per_token=0, prompt_flop=0)

    mib = 1 << 20
    assert buffer_sizes([work(9 * mib), work(30 * mib)], cache_bytes=8 * mib, available_bytes=1 << 34) == (
        9 * mib, 30 * mib, 256 * mib,
    )  # fmt: skip
    assert buffer_sizes([work(14 << 30)], cache_bytes=100 * mib, available_bytes=1 << 34) == (400 * mib,)
    assert buffer_sizes([work(14 << 30)], cache_bytes=1 << 30, available_bytes=1 << 34) == (1 << 30,)
    assert buffer_sizes([work(9 * mib)], cache_bytes=0, available_bytes=16 * mib) == (4 * mib,)


def test_measuring_moves_real_memory() -> None:
    (found,) = measure_bandwidths((8 << 20,), 2, seconds=0.04, warm_up_s=0.01)
    assert (found.buffer_bytes, found.n_threads) == (8 << 20, 2)
    assert len(found.read_bytes_per_s) == len(found.copy_bytes_per_s) == PASSES
    # Between a memory card and the registers of a server.
    assert all(1e8 < rate < 1e13 for rate in (*found.read_bytes_per_s, *found.copy_bytes_per_s))
    assert found.best_bytes_per_s == max(*found.read_bytes_per_s, *found.copy_bytes_per_s)


def test_a_slow_start_and_a_short_disturbance_spoil_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def one_pass(work: object, parts: list[object], seconds: float) -> float:
        # Both threads on one core at first, and again for a while after some passes.
        rates.append(1.0 if len(rates) == 0 or 4 <= len(rates) < 10 else 2.0)
        return rates[-1]

    monkeypatch.setattr(measure, "_pass", one_pass)
    found = measure_bandwidths((1 << 20, 2 << 20, 3 << 20), 2)
    assert [one.best_bytes_per_s for one in found] == [2.0, 2.0, 2.0]
    assert all(max(one.read_bytes_per_s) == max(one.copy_bytes_per_s) == 2.0 for one in found)
    assert [one.buffer_bytes for one in found] == [1 << 20, 2 << 20, 3 << 20]
    # The warm-up is in no figure: all other passes are.
    shown = [rate for one in found for rate in (*one.read_bytes_per_s, *one.copy_bytes_per_s)]
    assert (len(rates), shown.count(1.0)) == (1 + 3 * 2 * PASSES, 6)


def test_it_runs_in_a_child_without_llama_cpp(child) -> None:  # type: ignore[no-untyped-def]
    task = tasks.BandwidthTask(
        model_path="", format="", n_threads=1, buffers_bytes=(1 << 20, 4 << 20), seconds=0.02
    )  # fmt: skip
    found = child(task, list[Bandwidth])
    assert [one.buffer_bytes for one in found] == [1 << 20, 4 << 20]
