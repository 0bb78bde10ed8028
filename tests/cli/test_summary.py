"""The lines in which the terminal says what a step found and which format to use."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from kit.lab_factory import empty_lab, make_lab, nll_of, perplexity_run

from labctl import steps
from labctl.records.units import size_text
from labctl.report.figures import figures_of
from labctl.report.rules import production
from labctl.report.summary import answer_line
from labctl.report.text import NOT_MEASURED, cell
from labctl.steps.measured import Measured
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE


def outcomes(lab: Measured, step: str) -> str:
    return steps.named(step).outcomes(lab, 0.02)


def test_each_step_has_its_figures(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    assert outcomes(lab, "quantize").startswith("F16 30.7 MB, Q8_0 16.5 MB")
    assert outcomes(lab, "perplexity").startswith("40 chunks each: F16 18.0648, Q8_0 +0.09 % passes")
    assert "Q3_K_M +19.71 % fails" in outcomes(lab, "perplexity")
    assert "F16" not in outcomes(lab, "divergence")
    assert "F16 281 of 282" in outcomes(lab, "generate")
    assert outcomes(lab, "bench").startswith("3 rounds, generated tokens/second: F16 12")
    assert outcomes(lab, "memory").startswith("peak: F16 ")


def test_a_size_that_is_not_known_is_never_a_number_of_bytes() -> None:
    assert size_text(math.nan) == "-" and cell(None, size_text) == NOT_MEASURED
    assert size_text(30_713_088) == "30.7 MB" and size_text(512) == "512 bytes"


def test_a_step_without_figures_says_nothing(tmp_path: Path) -> None:
    lab = empty_lab(tmp_path)
    figures = figures_of(lab)
    assert {outcomes(lab, step) for step in steps.TABLE} == {""}
    assert answer_line(lab, figures, 0.02) == ""


@pytest.mark.parametrize("limit", [0.0001, 0.001, 0.005, 0.02, 0.05, 0.5])
def test_the_answer_is_that_of_question_10(tmp_path: Path, limit: float) -> None:
    lab = make_lab(tmp_path)
    figures = figures_of(lab, limit)
    pick = production(lab, figures, limit).pick
    said = answer_line(lab, figures, limit)
    assert said.startswith(f"Use {pick}: " if pick != "F16" else "No smaller file is shown to stay under")
    assert f"{100 * limit:g} %" in said


def test_the_answer_has_size_increase_and_interval(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    said = answer_line(lab, figures_of(lab), 0.02)
    assert said == (
        "Use Q6_K: 2.4x smaller than F16, perplexity +0.59 % (95 % interval +0.49 to +0.69 %); passes the limit of 2 %."
    )


def test_formats_that_save_nothing_are_not_said_to_fail(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    lab.of(QUANTIZE)["Q8_0"] = replace(lab.of(QUANTIZE)["Q8_0"], size_bytes=lab.of(QUANTIZE)["F16"].size_bytes - 64)
    figures = figures_of(lab)
    assert figures["Q8_0"].verdict == "pass"
    said = answer_line(lab, figures, 0.02)
    assert said == "Keep F16: Q8_0 is no smaller, and no smaller file is shown to stay under 2 %."


def test_undecided_formats_are_named_where_none_passes(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q5_K_M"))
    lab.of(PERPLEXITY)["Q5_K_M"] = perplexity_run(Path(lab.folder), "Q5_K_M", nll_of(18.43, 0.5, 3))
    said = answer_line(lab, figures_of(lab), 0.02)
    assert said.startswith(
        "No smaller file is shown to stay under the limit of 2 %: keep F16. Undecided: Q5_K_M, +2.02 % ("
    )
    unmeasured = lab.having(PERPLEXITY, {})
    assert answer_line(unmeasured, figures_of(unmeasured), 0.02) == ""
