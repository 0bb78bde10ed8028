"""The arithmetic of what fits in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import SHAPE, empty_lab, make_lab, memory_run

from labctl.report.fit import GIB, fit_table, kv_bytes_at, reserve_bytes
from labctl.report.machine_tables import contexts
from labctl.steps.measured import Measured
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
