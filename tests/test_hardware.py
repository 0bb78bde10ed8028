"""What the report says of the machine: shares of the bound, parts of memory, conditions, lines of RAM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lab_factory import make_lab

from labctl.records import LabRecords
from labctl.records_hardware import Bandwidth, BenchConditions, Conditions, Work
from labctl.report.analysis import frame, rows_of
from labctl.report.chart_hardware import ram_sentence, speed_vs_bits
from labctl.report.fit import GIB
from labctl.report.hardware import (
    bits_finding,
    bound_note,
    bound_table,
    bounds,
    conditions_lines,
    memory_parts,
    repacked_bytes,
)
from labctl.report.plot import styled
from labctl.report.worksheet import header


@pytest.fixture
def lab(tmp_path: Path) -> LabRecords:
    """The invented lab, on a machine of 60 GB/s that reads exactly each file's bytes for a token."""
    made = make_lab(tmp_path)
    now = Conditions(
        taken_at="", power="mains", governor="performance", clock_hz=(2e9, 3e9), temperature_c=50.0, busy_cores=0.1,
        busiest_share=0.1, available_bytes=4_000_000_000,
    )  # fmt: skip
    state = BenchConditions(
        key="k",
        n_rounds=3,
        spent_s=30.0,
        ended="precise",
        settings={},
        before=now,
        after=replace(now, temperature_c=80.0),
        bandwidth=(
            Bandwidth(buffer_bytes=1 << 28, n_threads=2, read_bytes_per_s=(5e10, 6e10), copy_bytes_per_s=(4e10,)),
        ),
        work={
            name: Work(weight_bytes_per_token=file.tensor_bytes, kv_bytes_per_token=1000, prompt_flop=10**10)
            for name, file in made.files.items()
        },
    )
    return replace(made, conditions=state)


def test_bound_and_share(lab: LabRecords) -> None:
    rows = rows_of(frame(lab))
    limit = 6e10 / (lab.files["Q8_0"].tensor_bytes + 1000)
    assert bounds(lab)["Q8_0"] == pytest.approx(limit)
    line = next(line for line in bound_table(lab, rows).splitlines() if line.startswith("| Q8_0"))
    assert f"| {limit:.0f} | {100 * rows['Q8_0']['tg_tps'] / limit:.0f} % |" in line
    gflops = 10**10 * rows["Q8_0"]["pp_tps"] / 512 / 1e9
    assert line.endswith(f"| {gflops:.0f} |")
    assert "256" not in bound_note(lab) and "268 MB: 60.0 reading, 40.0 copying" in bound_note(lab)


def test_without_conditions_nothing_is_claimed(tmp_path: Path) -> None:
    bare = make_lab(tmp_path)
    rows = rows_of(frame(bare))
    assert (bounds(bare), bound_table(bare, rows), bound_note(bare), conditions_lines(bare)) == ({}, "", "", [])
    assert bits_finding(bare, rows) == "Generation speed by bits per weight"


def test_parts_of_memory_name_what_repacking_took(lab: LabRecords) -> None:
    load = replace(lab.memory["Q4_K_M"].loads[0], model_bytes={"CPU": 4_000_000, "CPU_REPACK": 5_600_000})
    lab.memory["Q4_K_M"] = replace(lab.memory["Q4_K_M"], loads=(load,))
    assert repacked_bytes(load) == 5_600_000
    line = next(line for line in memory_parts(lab).splitlines() if line.startswith("| Q4_K_M"))
    assert "| off |" in line and "| 4.00 MB | 5.60 MB |" in line
    blind = replace(load, anonymous_bytes=None, file_bytes=None)
    lab.memory["Q4_K_M"] = replace(lab.memory["Q4_K_M"], loads=(blind,))
    assert memory_parts(lab).count("not told by this system") == 2


def test_the_head_of_the_worksheet_holds_the_conditions(lab: LabRecords) -> None:
    text = header(lab, rows_of(frame(lab)), None)
    assert "3 rounds, 30 s altogether, then every ratio was known well enough; just before:" in text
    assert "2.00 to 3.00 GHz, governor performance, 50 °C, on mains, other programs on 0.1 cores, 4.00 GB free" in text
    assert "80 °C" in text


def test_the_chart_draws_every_format_under_its_bound(lab: LabRecords) -> None:
    rows = rows_of(frame(lab))
    with styled():
        figure = speed_vs_bits(lab, rows, 0.02)
        assert figure is not None
        (axes,) = figure.axes
        dashed = next(line for line in axes.lines if line.get_label() == "bound by memory bandwidth")
        assert sorted(dashed.get_ydata()) == pytest.approx(sorted(bounds(lab).values()))
        assert {text.get_text() for text in axes.texts} >= set(lab.formats)
        assert axes.get_ylim()[0] == 0


def test_lines_of_ram_are_drawn_or_said_to_be_far() -> None:
    assert ram_sentence(80_000_000).endswith("4 GB (2.5 GiB), 8 GB (6 GiB) and 16 GB (13 GiB).")
    assert "16 GB (13 GiB)" in ram_sentence(5 * GIB) and "8 GB (6" not in ram_sentence(5 * GIB)
    assert "edge" not in ram_sentence(14 * GIB)
