"""The arithmetic of what fits in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.command import Cli
from kit.lab_factory import SHAPE, empty_lab, make_lab, memory_run

from labctl.engines import for_file
from labctl.engines.llama_cpp.program import buffer_sizes
from labctl.report.fit import GIB, fit_file, fit_table, kv_bytes_at, need_of_file, reserve_bytes
from labctl.report.machine_tables import contexts
from labctl.steps.measured import Measured
from labctl.steps.memory.record import MemoryLoad, MemoryTask
from labctl.steps.memory.step import MEMORY
from labctl.steps.quantize.step import QUANTIZE


def with_peak(lab: Measured, peak_bytes: int) -> Measured:
    run = memory_run("F16", 30_000_000)
    load = replace(run.loads[0], peak_rss_bytes=peak_bytes)
    return replace(lab, formats=("F16",)).having(MEMORY, {"F16": replace(run, loads=(load,))})


def test_reserve_as_the_rule_says() -> None:
    assert [reserve_bytes(ram) / GIB for ram in (4, 8, 16)] == [1.5, 2.0, 3.0]


def test_verdict_at_its_bars(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16",))
    free = 6 * GIB
    for peak, verdict in (
        (int(0.9 * free), "fits"),
        (int(0.9 * free) + 1, "tight"),
        (free, "tight"),
        (free + 1, "does not fit"),
    ):
        (row,) = fit_table(with_peak(lab, peak), 8)
        assert (row.verdict, row.need_bytes, row.free_bytes) == (verdict, peak, free)
        assert row.arithmetic.rstrip(".").endswith(verdict)


def test_context_changes_only_the_cache(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q4_K_M"))
    measured, larger, smaller = (fit_table(lab, 8, n_ctx) for n_ctx in (1024, 4096, 512))
    for row, more, less in zip(measured, larger, smaller, strict=True):
        peak = lab.of(MEMORY)[row.format].peak_rss_bytes
        assert row.need_bytes == peak
        assert more.need_bytes == peak + 3 * SHAPE.kv_bytes(1024)
        assert less.need_bytes == peak - SHAPE.kv_bytes(512)
        assert "trained for 1024 tokens" in more.arithmetic and more.verdict == "longer than trained for"
        assert row.verdict == less.verdict == "fits"
        assert "trained for" not in row.arithmetic
        assert "plus 0.009 GiB" in more.arithmetic and "less 0.001 GiB" in less.arithmetic


def test_what_does_not_fit_does_not_fit_at_any_length(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16",))
    assert [fit_table(lab, 4, n_ctx)[0].verdict for n_ctx in (1024, 1025, 1 << 30)] == [
        "fits",
        "longer than trained for",
        "does not fit",
    ]
    table = contexts(lab)
    assert "| longer than trained for: all |" in table.replace("fits: all", "")
    for line in table.splitlines()[2:]:
        n_ctx = int(line.split("|")[1])
        assert ("fits" in line) == (n_ctx <= SHAPE.n_ctx_train)


def test_without_a_file_the_measured_cache_is_scaled(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16",))
    lab.of(QUANTIZE).clear()
    assert kv_bytes_at(lab, "F16", 2048) == 2 * lab.of(MEMORY)["F16"].loads[0].kv_bytes


def test_unmeasured_memory_has_no_verdict(tmp_path: Path) -> None:
    for row in fit_table(empty_lab(tmp_path), 8, 4096):
        assert (row.verdict, row.need_bytes) == ("not measured", None)


@given(st.integers(1, 10**12), st.sampled_from((1, 4, 8, 16, 64)))
def test_more_memory_never_hurts(peak: int, ram: int) -> None:
    lab = with_peak(_LAB, peak)
    order = ("does not fit", "tight", "fits")
    verdicts = [fit_table(lab, gib)[0].verdict for gib in (ram, 2 * ram)]
    assert order.index(verdicts[0]) <= order.index(verdicts[1])


_LAB = Measured(
    folder="outputs/x",
    model=None,  # type: ignore[arg-type]  # the arithmetic needs no model
    text=None,
    formats=("F16",),
)


# -- files that nobody has measured -----------------------------------------------------------------------------------


def test_a_files_peak_is_predicted_within_5_percent_of_the_measured_one(
    quantized: Any, child: Callable[..., Any], demo_model: Path
) -> None:
    for path in (demo_model, quantized.paths["Q8_0"], quantized.paths["Q3_K_M"]):
        task = MemoryTask(model_path=str(path), format="x", n_threads=2, n_ctx=512, mmap=False)
        measured = child(task, MemoryLoad).peak_rss_bytes
        assert need_of_file(for_file(path).inspect(path), 512) == pytest.approx(measured, rel=0.05)


def test_the_arithmetic_of_a_file_adds_up(demo_model: Path) -> None:
    holds = for_file(demo_model).inspect(demo_model)
    row = fit_file("F16", holds, 2.0, 1024)
    parts = [float(number) for number in re.findall(r"([\d.]+) GiB", row.arithmetic)[:4]]
    assert sum(parts[:3]) == pytest.approx(parts[3], abs=0.002) and row.verdict == "fits"
    assert fit_file("F16", holds, 2.0, 4096).verdict == "longer than trained for"
    assert fit_file("F16", holds, 1.2, 1024).verdict == "does not fit"


def test_a_cache_of_fewer_bits_needs_less_and_says_so(demo_model: Path, tmp_path: Path) -> None:
    holds, lab = for_file(demo_model).inspect(demo_model), make_lab(tmp_path)
    full, half = (fit_file("F16", holds, 4.0, 1024, kv_type) for kv_type in ("f16", "q8_0"))
    saved = holds.shape.kv_bytes(1024) * 15 // 32  # 34 bytes for 32 numbers instead of 64
    assert (full.need_bytes or 0) - (half.need_bytes or 0) == saved and "KV cache in q8_0 of 1024" in half.arithmetic
    measured, less = fit_table(lab, 8, 512)[0], fit_table(lab, 8, 512, "q4_0")[0]
    kv = kv_bytes_at(lab, "F16", 512) or 0
    assert (measured.need_bytes or 0) - (less.need_bytes or 0) == kv - round(kv * 9 / 32)
    assert "in q4_0 of 512 instead of 1024 tokens in f16" in less.arithmetic
    assert fit_table(lab, 8, 512, "f16")[0] == measured


def test_fit_takes_files_without_a_lab(cli: Cli, quantized: Any, tmp_path: Path) -> None:
    done = cli("fit", *map(str, quantized.paths.values()), "--ram", "4", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("Largest that fits: f16."), done.stderr
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "bad-Q4_0.gguf").write_bytes(b"GGUF")
    done = cli("fit", "bad-Q4_0.gguf", cwd=tmp_path)
    assert done.returncode == 1 and "cut short" in done.stderr and "Traceback" not in done.stderr


def test_both_caches_of_a_model_with_sliding_windows_count() -> None:
    lines = [
        "load_tensors:   CPU_Mapped model buffer size =   235.16 MiB",
        "llama_kv_cache:        CPU KV buffer size =    12.00 MiB",
        "llama_kv_cache:        CPU KV buffer size =    60.00 MiB",
        "llama_memory_recurrent:        CPU RS buffer size =     1.00 MiB",
        "sched_reserve:        CPU compute buffer size =   100.00 MiB",
        "sched_reserve:        CPU compute buffer size =   102.00 MiB",
    ]
    found = buffer_sizes(lines)
    assert (found.kv, found.compute) == (73 << 20, 102 << 20)
