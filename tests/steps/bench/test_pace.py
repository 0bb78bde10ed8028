"""Speeds predicted from what a machine needs for each type of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.engines.llama_cpp.engine import ENGINE
from labctl.report.fit_params import predicted_speeds
from labctl.report.shapes import find_shape
from labctl.steps.bench.arithmetic import token_bytes
from labctl.steps.bench.pace import Pace, Timed, predicted_tps, solve

RATES = {"f16": 6e-11, "q8_0": 7e-11, "q6_K": 9e-11, "q4_K": 8e-11}
LAYER_S = 3e-5


def timed(bytes_by_type: Mapping[str, float], n_layer: int) -> Timed:
    seconds = sum(n_bytes * RATES[name] for name, n_bytes in bytes_by_type.items()) + n_layer * LAYER_S
    return Timed(bytes_by_type=bytes_by_type, n_layer=n_layer, token_s=seconds)


FILES = [
    timed({"f16": 4e8}, 4),
    timed({"q8_0": 2e8}, 4),
    timed({"q6_K": 1.5e8}, 4),
    timed({"q4_K": 1e8, "q6_K": 0.2e8}, 4),
    timed({"f16": 4e7}, 32),
]


def test_rates_are_found_again_and_used() -> None:
    pace = solve(FILES, "k")
    assert pace.seconds_per_byte == pytest.approx(RATES)
    assert pace.layer_s == pytest.approx(LAYER_S) and pace.memory_s == pytest.approx(RATES["f16"])
    large = timed({"q4_K": 3e9, "q6_K": 1e9}, 32)
    assert predicted_tps(pace, large.bytes_by_type, 32) == pytest.approx(1 / large.token_s)


def test_nothing_is_read_faster_than_memory_gives_it() -> None:
    quick = Pace(key="k", seconds_per_byte={"q4_K": 1e-11}, layer_s=0.0, memory_s=1e-10)
    assert predicted_tps(quick, {"q4_K": 1e9}, 32) == pytest.approx(10)


def test_types_never_timed_are_not_predicted_unless_they_hardly_count() -> None:
    pace = solve(FILES, "k")
    assert predicted_tps(pace, {"q5_1": 1e9}, 32) is None
    assert predicted_tps(pace, {"q4_K": 1e9, "q5_1": 1e8}, 32) is None
    assert predicted_tps(pace, {"q4_K": 1e9, "f32": 1e6}, 32) == pytest.approx(1 / (1.001e9 * 8e-11 + 32 * LAYER_S))


@given(st.lists(st.floats(0.97, 1.03), min_size=len(FILES), max_size=len(FILES)))
def test_noise_of_three_percent_stays_small(noise: list[float]) -> None:
    noisy = [
        Timed(bytes_by_type=one.bytes_by_type, n_layer=one.n_layer, token_s=one.token_s * factor)
        for one, factor in zip(FILES, noise, strict=True)
    ]
    large = timed({"q4_K": 3e9, "q6_K": 1e9}, 32)
    found = predicted_tps(solve(noisy, "k"), large.bytes_by_type, 32)
    assert found is not None and found * large.token_s == pytest.approx(1, abs=0.1)


def test_a_model_that_is_not_at_hand(tmp_path: Path) -> None:
    from kit.lab_factory import make_lab

    shape, n_params = find_shape("Llama-2-7B")
    pace = solve(FILES, "k")
    found = predicted_speeds(make_lab(tmp_path), shape, n_params, pace)
    q8 = shape.token_bytes(ENGINE, "Q8_0")
    assert found["Q8_0"] == pytest.approx(1 / (sum(q8.values()) * 7e-11 + 32 * LAYER_S), rel=1e-3)
    assert (
        set(q8) == {"q8_0"} and 6.9e9 < q8["q8_0"] < 7.1e9
    )  # 6.6 billion weights: the table of embeddings is not read
    assert "Q3_K_M" not in found  # q3_K was never timed here


def test_the_sample_is_a_model_that_llama_cpp_takes(tmp_path: Path) -> None:
    path = tmp_path / "s.gguf"
    ENGINE.write_sample(path, n_layer=2, width=256)
    file = ENGINE.inspect(path)
    assert (file.shape.n_layer, file.shape.n_embd, file.shape.n_vocab) == (2, 256, 512)
    assert ENGINE.check_source(path) == () and ENGINE.f16_faults(path) == {}
    layer = 2 * 256 * 256 + 2 * 64 * 256 + 3 * 256 * 704
    assert token_bytes(file.tensors)["f16"] == 2 * (2 * layer + 512 * 256 + 256)  # one row of the embeddings
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.slow
def test_the_machine_is_timed_once(cli: Any, small_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("fit", "--params", "Llama-2-7B", "--ram", "8", "--formats", "Q8_0", "--json")
    done = cli(*arguments, cwd=small_lab)
    assert done.returncode == 0 and json.loads(done.stdout)[0]["tg_tps"] is None, done.stderr
    done = cli(*arguments, "--speed", "--threads", "1", cwd=small_lab)
    if "too busy to be timed" in done.stderr:  # beside other tests: said, and nothing is left
        assert done.returncode == 1 and not (small_lab / "outputs/.pace.json").exists()
    else:
        assert done.returncode == 0, done.stderr
        first = json.loads(done.stdout)[0]
        assert first["tg_tps"] > 0 and first["tg_is_measured"] is False
        again = cli(*arguments, "--threads", "1", cwd=small_lab)
        assert json.loads(again.stdout)[0]["tg_tps"] == first["tg_tps"]
    assert not (small_lab / "outputs/.pace/samples").exists()
