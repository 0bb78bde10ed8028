"""Sums over raw samples, and every kind of record to JSON and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.lab_factory import SHAPE, gguf_file, make_lab, memory_run, speed_run

from labctl.pipeline.reporting import kinds
from labctl.records import store
from labctl.steps.bench.record import SpeedVisit
from labctl.steps.measured import Measured, StepFailure
from labctl.steps.perplexity.step import PERPLEXITY

# For st.from_type: the numbers that JSON holds.
st.register_type_strategy(int, st.integers(-(2**53), 2**53))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


def test_bits_per_weight_counts_all_tensors() -> None:
    file = dataclasses.replace(gguf_file("F16"), n_params=1000, tensor_bytes=2000)
    assert file.bpw == 16.0
    assert gguf_file("Q4_K_M").main_type in {"q4_K", "q6_K"}


def test_main_type_is_the_one_with_most_bytes() -> None:
    file = gguf_file("Q3_K_M")
    assert file.main_type == max(file.types, key=lambda share: share.size_bytes).tensor_type == "q6_K"


def test_cache_bytes_of_the_demo_model() -> None:
    # 6 layers, 512 tokens, 2 key-value heads of 64 numbers, keys and values, 2 bytes: llama.cpp says 1.50 MiB
    assert SHAPE.kv_bytes(512) == 6 * 512 * 2 * (64 + 64) * 2 == 1_572_864
    assert SHAPE.kv_bytes(512, bytes_per_value=1) == 786_432


def visit(pp_s: list[float], tg_s: list[float], token_s: list[list[float]], number: int = 0) -> SpeedVisit:
    return SpeedVisit(
        round=number,
        order=number,
        load_s=0.1,
        pp_s=tuple(pp_s),
        tg_s=tuple(tg_s),
        token_s=tuple(tuple(one) for one in token_s),
    )


def test_tokens_per_second_and_medians_over_all_visits() -> None:
    run = dataclasses.replace(
        speed_run("F16", 1, 1, 1), visits=(visit([0.5, 0.25], [1.0], [[0.1]]), visit([1.0], [2.0, 4.0], [[0.2]], 1))
    )
    assert run.samples_tps("pp") == (1024.0, 2048.0, 512.0)
    assert run.samples_tps("tg") == (128.0, 64.0, 32.0)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=60), st.floats(0.1, 100))
def test_latency_percentiles_are_by_nearest_rank(times: list[float], percent: float) -> None:
    run = dataclasses.replace(speed_run("F16", 1, 1, 1), visits=(visit([1.0], [sum(times)], [times]),))
    value = run.token_percentile_s(percent)
    assert value in times
    assert sum(one <= value for one in times) >= percent / 100 * len(times) - 1e-9
    assert sum(one < value for one in times) < percent / 100 * len(times) + 1e-9
    assert run.token_percentile_s(100) == max(times)
    assert run.token_percentile_s(1e-9) == min(times)


def test_peak_memory_is_the_one_without_mmap_wherever_it_stands() -> None:
    run = memory_run("Q8_0", 16_000_000)
    swapped = dataclasses.replace(run, loads=run.loads[::-1])
    assert swapped.peak_rss_bytes == run.peak_rss_bytes == run.loads[0].peak_rss_bytes


def test_number_of_chunks_adds_up_ranges(tmp_path: Path) -> None:
    run = make_lab(tmp_path).of(PERPLEXITY)["F16"]
    assert dataclasses.replace(run, chunks=((0, 4), (7, 9))).n_chunks == 6


@pytest.mark.parametrize("kind", kinds().values(), ids=kinds())
def test_every_kind_of_record_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, kind: type[Any]) -> None:
    path = tmp_path_factory.mktemp("record") / "record.json"

    @given(st.from_type(kind))
    @settings(max_examples=10, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
    def survives(record: Any) -> None:
        store.write_record(path, record)
        assert store.read_record(path, kind) == record

    survives()


def test_records_cannot_be_changed_nor_grow_fields() -> None:
    for kind in (*kinds().values(), Measured, StepFailure):
        assert vars(kind)["__dataclass_params__"].frozen, kind
        assert "__slots__" in vars(kind), kind
    with pytest.raises(dataclasses.FrozenInstanceError):
        gguf_file("F16").size_bytes = 1  # type: ignore[misc]
