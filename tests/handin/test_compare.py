"""Runs side by side: what is pooled, and when two differ."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.lab_factory import MACHINE, make_lab, nll_of, perplexity_run, provenance, speed_run

from labctl.handin.compare import Run, compare
from labctl.handin.compare_files import as_rows, files_of, reading
from labctl.records.base import Machine
from labctl.report.figures import figures_of
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

FORMATS = ("F16", "Q8_0", "Q4_K_M")


def small_lab_of(folder: Path) -> Measured:
    """Three formats, each a file of its own."""
    lab = make_lab(folder, FORMATS)
    for name in FORMATS:
        lab.of(QUANTIZE)[name] = replace(lab.of(QUANTIZE)[name], sha256=hashlib.sha256(name.encode()).hexdigest())
    return lab


def run_of(label: str, records: Measured) -> Run:
    return Run(label=label, name=f"run {label}", records=records, figures=figures_of(records))


def on(records: Measured, machine: Machine) -> Measured:
    """The same lab timed on another computer."""
    speed = {
        name: replace(speed_run(name, 500, 90, 3), provenance=replace(provenance("bench"), machine=machine))
        for name in records.of(BENCH)
    }
    return records.having(BENCH, speed)


def test_a_speed_up_differs_between_runs_only_beyond_its_intervals(tmp_path: Path) -> None:
    def found(*rates: float) -> str:
        runs = []
        for number, tg in enumerate(rates, 1):
            lab = small_lab_of(tmp_path / f"{len(rates)}-{number}")
            lab.of(BENCH)["Q8_0"] = speed_run("Q8_0", 6924, tg, 20 + number, rounds=6)
            runs.append(run_of(f"R{number}", lab))
        return reading(compare(runs))

    assert found(1562, 1562) == "No format's speed-up is shown to differ between these runs: the intervals overlap."
    text = found(1562, 2400, 1562)
    assert re.search(
        r"for Q8_0: 1\.\d+ \(.*\) times the run's own baseline in R[13], [12]\.\d+ \(.*\) times in R2\.", text
    )
    lab = small_lab_of(tmp_path / "once")
    lab.of(BENCH)["Q8_0"] = speed_run("Q8_0", 6924, 9000, 9, rounds=1)
    runs = [run_of("R1", lab), run_of("R2", small_lab_of(tmp_path / "other"))]
    assert "is shown to differ" in reading(compare(runs))
    assert any("no interval" in cell for row in as_rows(compare(runs)) for cell in row)


def test_quality_is_pooled_for_equal_files_only_and_speed_never(tmp_path: Path) -> None:
    first, second, third = (small_lab_of(tmp_path / name) for name in "abc")
    nll = nll_of(19.3831, 0.35, 4)
    for lab, chunks in ((first, (0, 20)), (second, (20, 40))):
        values = np.full_like(nll, np.nan)
        values[slice(*chunks)] = nll[slice(*chunks)]
        lab.of(PERPLEXITY)["Q4_K_M"] = perplexity_run(Path(lab.folder), "Q4_K_M", values, (chunks,))
    third.of(QUANTIZE)["Q8_0"] = replace(third.of(QUANTIZE)["Q8_0"], sha256="c" * 64)
    other = replace(MACHINE, machine_id="m2", cpu_model="Other CPU")
    found = compare([run_of("R1", first), run_of("R2", on(second, other)), run_of("R3", third)])
    assert len(found.lines) == 9 and set(found.machines) == {"M1", "M2"}
    assert {(line.runs, line.machine) for line in found.lines} == {(("R1",), "M1"), (("R2",), "M2"), (("R3",), "M1")}
    pooled = {(line.format, line.runs): line for line in found.pooled}
    assert set(pooled) == {("F16", ("R1", "R2", "R3")), ("Q8_0", ("R1", "R2")), ("Q4_K_M", ("R1", "R2", "R3"))}
    both = pooled["Q4_K_M", ("R1", "R2", "R3")]
    assert both.n_chunks == 40
    assert both.ppl == pytest.approx(19.3831, rel=1e-4)
    assert both.increase_pct == pytest.approx(100 * (19.3831 / 18.0648 - 1), rel=1e-3)
    assert all(line.tg_tps is None and line.peak_rss_bytes is None and not line.machine for line in found.pooled)


def test_other_texts_are_not_pooled(tmp_path: Path) -> None:
    first, second = small_lab_of(tmp_path / "a"), small_lab_of(tmp_path / "b")
    assert second.text is not None
    text = replace(second.text, sha256="d" * 64)
    runs = {name: replace(run, text=text) for name, run in second.of(PERPLEXITY).items()}
    second = replace(second, text=text).having(PERPLEXITY, runs)
    found = compare([run_of("R1", first), run_of("R2", second)])
    assert found.pooled == ()
    assert any("different texts" in note for note in found.notes)


def test_a_run_that_stopped_by_choice_gets_no_plain_interval_when_pooled(tmp_path: Path) -> None:
    labs = [small_lab_of(tmp_path / name) for name in "ab"]
    for lab in labs:
        run = lab.of(PERPLEXITY)["Q8_0"]
        lab.of(PERPLEXITY)["Q8_0"] = replace(run, order_seed=2024, chunks=((0, 30),))
    found = {line.format: line for line in compare([run_of("R1", labs[0]), run_of("R2", labs[1])]).pooled}
    assert found["Q8_0"].increase_pct is not None and found["Q8_0"].increase_low_pct is None
    assert found["Q4_K_M"].increase_low_pct is not None


def test_table_and_chart_name_every_run(tmp_path: Path) -> None:
    labs = [small_lab_of(tmp_path / name) for name in "ab"]
    found = compare([run_of("R1", labs[0]), run_of("R2", replace(labs[1], model=replace(labs[1].model, name="a|b")))])
    files = files_of(found)
    assert set(files) == {"comparison.md", "comparison.csv", "comparison.png", "comparison.svg"}
    sheet = files["comparison.md"].decode()
    assert "| R1 | labllama | Q4_K_M |" in sheet and "a&#124;b" in sheet and "- R2: run R2" in sheet
    assert len(as_rows(found)) == 9
    assert files["comparison.csv"].count(b"\n") == 10


def test_speeds_of_another_build_stand_for_themselves(tmp_path: Path) -> None:
    first, second = (small_lab_of(tmp_path / name) for name in "ab")
    found = compare([run_of("R1", first), run_of("R2", second)])
    assert list(found.machines) == ["M1"] and "llama.cpp built for avx2" in found.machines["M1"]
    portable = replace(provenance("bench"), versions={"system_info": "CPU : SSE3 = 1 | OPENMP = 1"})
    speed = {name: replace(run, provenance=portable) for name, run in second.of(BENCH).items()}
    other = compare([run_of("R1", first), run_of("R2", second.having(BENCH, speed))])
    assert set(other.machines) == {"M1", "M2"}
    assert other.machines["M2"].endswith("llama.cpp built for sse3, threads by OpenMP")
