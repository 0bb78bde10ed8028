"""The lines in which the terminal says what a step found and which format to use."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from lab_factory import empty_lab, make_lab, nll_of, perplexity_run

from labctl.records.units import size_text
from labctl.report.analysis import frame, rows_of
from labctl.report.rules import production
from labctl.report.summary import answer_line, step_result
from labctl.report.text import NOT_MEASURED, size


def test_each_step_has_its_figures(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    rows = rows_of(frame(lab))
    assert step_result(lab, rows, "quantize").startswith("F16 30.7 MB, Q8_0 16.5 MB")
    assert step_result(lab, rows, "perplexity").startswith("40 chunks each: F16 18.0648, Q8_0 +0.09 % passes")
    assert "Q3_K_M +19.71 % fails" in step_result(lab, rows, "perplexity")
    assert "F16" not in step_result(lab, rows, "divergence")
    assert "F16 281 of 282" in step_result(lab, rows, "generate")
    assert step_result(lab, rows, "bench").startswith("3 rounds, generated tokens/second: F16 12")
    assert step_result(lab, rows, "memory").startswith("peak: F16 ")


def test_a_size_that_is_not_known_is_never_a_number_of_bytes() -> None:
    assert size_text(math.nan) == "-" and size(math.nan) == NOT_MEASURED
    assert size_text(30_713_088) == "30.7 MB" and size(512) == "512 bytes"


def test_a_step_without_figures_says_nothing(tmp_path: Path) -> None:
    lab = empty_lab(tmp_path)
    rows = rows_of(frame(lab))
    steps = ("quantize", "perplexity", "divergence", "generate", "memory", "bench")
    assert [step_result(lab, rows, step) for step in steps] == [""] * 6
    assert answer_line(lab, rows, 0.02) == ""


@pytest.mark.parametrize("limit", [0.0001, 0.001, 0.005, 0.02, 0.05, 0.5])
def test_the_answer_is_that_of_question_10(tmp_path: Path, limit: float) -> None:
    lab = make_lab(tmp_path)
    rows = rows_of(frame(lab, limit))
    pick = production(lab, rows, limit).pick
    said = answer_line(lab, rows, limit)
    assert said.startswith(f"Use {pick}: " if pick != "F16" else "No smaller file is shown to stay under")
    assert f"{100 * limit:g} %" in said


def test_the_answer_has_size_increase_and_interval(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    said = answer_line(lab, rows_of(frame(lab)), 0.02)
    assert said == "Use Q6_K: 2.4x smaller than F16, perplexity +0.59 % (+0.49 to +0.69 %); passes the limit of 2 %."


def test_formats_that_save_nothing_are_not_said_to_fail(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    lab.files["Q8_0"] = replace(lab.files["Q8_0"], size_bytes=lab.files["F16"].size_bytes - 64)
    rows = rows_of(frame(lab))
    assert rows["Q8_0"]["verdict"] == "pass"
    said = answer_line(lab, rows, 0.02)
    assert said == "Keep F16: Q8_0 is no smaller, and no smaller file is shown to stay under 2 %."


def test_undecided_formats_are_named_where_none_passes(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q5_K_M"))
    lab.perplexity["Q5_K_M"] = perplexity_run(Path(lab.folder), "Q5_K_M", nll_of(18.43, 0.5, 3))
    said = answer_line(lab, rows_of(frame(lab)), 0.02)
    assert said.startswith(
        "No smaller file is shown to stay under the limit of 2 %: keep F16. Undecided: Q5_K_M +2.02 % ("
    )
    assert answer_line(replace(lab, perplexity={}), rows_of(frame(replace(lab, perplexity={}))), 0.02) == ""
