"""What the report says of the machine: work of the tests, parts of memory, conditions, lines of RAM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit.lab_factory import make_lab

from labctl.records.hardware import Conditions, Work
from labctl.records.units import significant
from labctl.report.charts import CHARTS
from labctl.report.charts.memory import ram_sentence
from labctl.report.charts.plot import styled
from labctl.report.figures import figures_of
from labctl.report.fit import GIB
from labctl.report.hardware import WORK_NOTE, build_words, conditions_lines, memory_parts, repacked_bytes, work_table
from labctl.report.text import NOT_MEASURED
from labctl.report.worksheet import header
from labctl.steps.bench.record import BenchConditions
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.quantize.step import QUANTIZE


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    """The invented lab; a token reads exactly each file's bytes."""
    made = make_lab(tmp_path)
    now = Conditions(
        taken_at="",
        power="mains",
        governor="performance",
        clock_hz=(2e9, 3e9),
        temperature_c=50.0,
        busy_cores=0.1,
        busiest_share=0.1,
        available_bytes=4_000_000_000,
    )
    state = BenchConditions(
        key="k",
        n_rounds=3,
        spent_s=30.0,
        ended="precise",
        settings={},
        before=now,
        after=replace(now, temperature_c=80.0),
        work={
            name: Work(weight_bytes_per_token=file.tensor_bytes, kv_bytes_per_token=1000, prompt_flop=10**10)
            for name, file in made.of(QUANTIZE).items()
        },
    )
    return replace(made, conditions=state)


def test_what_the_tests_ask_for_and_how_fast_it_was_done(lab: Measured) -> None:
    figures = figures_of(lab)
    line = next(line for line in work_table(lab, figures).splitlines() if line.startswith("| Q8_0"))
    tg, pp = figures["Q8_0"].speed("tg"), figures["Q8_0"].speed("pp")
    assert tg is not None and pp is not None
    read = (lab.of(QUANTIZE)["Q8_0"].tensor_bytes + 1000) * tg.tps / 1e9
    done = 10**10 * pp.tps / 512 / 1e9
    assert line.endswith(f"| {significant(read)} GB/s | {significant(done)} GFLOP/s |")
    untimed = figures_of(lab.having(BENCH, {}))
    assert work_table(lab.having(BENCH, {}), untimed).count(NOT_MEASURED) == 2 * len(lab.of(QUANTIZE))


def test_without_conditions_nothing_is_claimed(tmp_path: Path) -> None:
    bare = make_lab(tmp_path)
    assert (work_table(bare, figures_of(bare)), conditions_lines(bare)) == ("", [])


def test_no_bound_is_claimed_that_a_second_measurement_would_not_confirm(lab: Measured) -> None:
    text = work_table(lab, figures_of(lab)) + WORK_NOTE
    assert "Bound" not in text and "Reached" not in text and "%" not in text
    assert len(WORK_NOTE.split()) < 60


def test_parts_of_memory_name_what_repacking_took(lab: Measured) -> None:
    load = replace(lab.of(MEMORY)["Q4_K_M"].loads[0], model_bytes={"CPU": 4_000_000, "CPU_REPACK": 5_600_000})
    lab.of(MEMORY)["Q4_K_M"] = replace(lab.of(MEMORY)["Q4_K_M"], loads=(load,))
    assert repacked_bytes(load) == 5_600_000
    line = next(line for line in memory_parts(lab).splitlines() if line.startswith("| Q4_K_M"))
    assert "| off |" in line and "| 4.00 MB | 5.60 MB |" in line
    blind = replace(load, anonymous_bytes=None, file_bytes=None)
    lab.of(MEMORY)["Q4_K_M"] = replace(lab.of(MEMORY)["Q4_K_M"], loads=(blind,))
    assert memory_parts(lab).count("not told by this system") == 2


def test_the_head_of_the_worksheet_holds_the_conditions(lab: Measured) -> None:
    text = header(lab, figures_of(lab), None)
    assert "3 rounds, 30 s altogether, then every ratio was known well enough; just before:" in text
    assert "2.00 to 3.00 GHz, governor performance, 50 °C, on mains, other programs on 0.1 cores, 4.00 GB free" in text
    assert "80 °C" in text


def test_the_chart_draws_every_format(lab: Measured) -> None:
    with styled():
        figure = CHARTS["speed_vs_bits"].draw(lab, figures_of(lab), 0.02, "Speed by bits")
        assert figure is not None
        (axes,) = figure.axes
        assert {text.get_text() for text in axes.texts} >= set(lab.formats)
        assert axes.get_ylim()[0] == 0


def test_lines_of_ram_are_drawn_or_said_to_be_far() -> None:
    assert ram_sentence(80_000_000).endswith("4 GB (2.5 GiB), 8 GB (6 GiB) and 16 GB (13 GiB).")
    assert "16 GB (13 GiB)" in ram_sentence(5 * GIB) and "8 GB (6" not in ram_sentence(5 * GIB)
    assert "edge" not in ram_sentence(14 * GIB)


def test_the_build_of_llama_cpp_in_words() -> None:
    told = "CPU : SSE3 = 1 | AVX512 = 0 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1"
    assert build_words({"system_info": told}) == (
        "llama.cpp built for sse3, llamafile's matrix products, threads by OpenMP, weights repacked"
    )
    assert build_words({"system_info": "CPU : NEON = 1"}) == "llama.cpp built for neon, threads of its own"
    assert build_words({}) == ""
