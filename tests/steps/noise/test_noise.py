"""The noise of arithmetic: measured on a real model, and what it makes of the differences beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.lab_factory import divergence_run, make_lab, nll_of, noise_run, perplexity_run

from labctl.records.arrays import load_rows
from labctl.records.sources import TextSource
from labctl.report.figures import figures_of
from labctl.report.gaps import gaps
from labctl.report.perplexity_tables import divergences, noise_note, verdicts
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.noise.figures import noise_figures
from labctl.steps.noise.record import NoiseTask, Repeated
from labctl.steps.noise.step import NOISE
from labctl.steps.perplexity.record import BatchShape
from labctl.steps.perplexity.step import ORDER_SEED, PERPLEXITY


def test_differences_are_those_of_two_perplexities(
    child: Callable[..., Any],
    measure_perplexity: Callable[..., Any],
    demo_model: Path,
    demo_text: TextSource,
    tmp_path: Path,
) -> None:
    task = NoiseTask(
        model_path=str(demo_model), format="F16", n_threads=1, text=demo_text, n_ctx=128, order_seed=ORDER_SEED
    )
    found = child(task, Repeated)
    few = BatchShape(n_side=1, n_ubatch=task.n_at_once, n_outputs=task.n_at_once)
    ways = []
    for name, shape in (("usual", None), ("few", few)):
        path = tmp_path / f"{name}.npy"
        measure_perplexity("F16", demo_text, 4, path, shape=shape, n_ctx=128, order_seed=ORDER_SEED)
        rows = load_rows(path)
        assert rows is not None
        ways.append(rows[list(found.chunks)].mean(axis=1))
    assert found.differences == pytest.approx(list(ways[1] - ways[0]), rel=1e-9)
    assert any(found.differences), "other digits"
    assert all(0 < kld < 1e-3 for kld in found.klds) and all(55 <= n <= 63 for n in found.same_tops)


def test_figures_follow_from_the_record(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    noise = noise_figures(lab)
    assert noise is not None
    assert [noise.spread, noise.kld_mean] == pytest.approx([1e-4, 8e-6])
    assert noise.n_tokens == 1020
    assert noise.same_top_pct == pytest.approx(100 * 1019 / 1020)
    assert noise.increase_pct(25) == pytest.approx(100 * math.expm1(2 * 1e-4 / 5))
    assert noise_figures(lab.having(NOISE, {})) is None


def test_twice_the_standard_error_covers_what_noise_alone_does() -> None:
    rng = np.random.default_rng(4)
    drawn = rng.normal(scale=0.003, size=(4000, 12))
    run = replace(noise_run("F16"), differences=tuple(rng.normal(scale=0.003, size=200)), klds=(0.1,) * 200)
    spread = math.sqrt(sum(value * value for value in run.differences) / len(run.differences))
    outside = np.abs(drawn.mean(axis=1)) > 2 * spread / math.sqrt(12)
    assert 0.02 < outside.mean() < 0.08


def test_what_is_no_more_than_noise_is_grey_and_said(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0", "Q6_K"))
    loud = lab.having(NOISE, {"F16": noise_run("F16", spread=0.01, kld=0.001)})
    figures = figures_of(loud)
    assert figures["Q8_0"].increase_is_noise and figures["Q8_0"].divergence_is_noise
    assert not figures["Q6_K"].increase_is_noise and not figures["Q6_K"].divergence_is_noise
    assert "<sub>+0.09 %</sub>" in verdicts(figures) and "<sub>+0.59 %</sub>" not in verdicts(figures)
    assert divergences(figures).count("<sub>") == 1
    assert "small grey print (Q8_0)" in noise_note(figures, "F16")
    quiet = figures_of(lab)
    assert "Every difference in the tables is larger" in noise_note(quiet, "F16")
    assert "<sub>" not in verdicts(quiet) + divergences(quiet)


def test_equal_digits_grey_nothing(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    folder = Path(lab.folder)
    lab.of(PERPLEXITY)["Q8_0"] = perplexity_run(folder, "Q8_0", nll_of(18.0648, 0.0, 3))
    lab.of(DIVERGENCE)["Q8_0"] = divergence_run(folder, "Q8_0", 1e-12)
    silent = lab.having(NOISE, {"F16": noise_run("F16", spread=0.0, kld=0.0)})
    figures = figures_of(silent)
    assert not figures["Q8_0"].increase_is_noise and not figures["Q8_0"].divergence_is_noise
    assert "The digits are the same" in noise_note(figures, "F16")


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": ()},
        {"klds": (1e-6, 1e-6, 1e-6)},
        {"klds": (math.nan, 0.0, 0.0, 0.0)},
        {"same_tops": (256, 0, 0, 0)},
        {"n_ctx": 1},
    ],
)
def test_a_record_that_does_not_fit_its_chunks_gives_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    odd = lab.having(NOISE, {"F16": replace(noise_run("F16"), **change)})
    assert noise_figures(odd) is None and noise_note(figures_of(odd), "F16") == ""
    assert [(gap.step, gap.reason) for gap in gaps(odd)] == [("noise", "Its figures do not fit its chunks.")]
    assert list(NOISE.doubts(odd.of(NOISE)["F16"], tmp_path)) and not list(NOISE.doubts(noise_run("F16"), tmp_path))


def test_no_difference_at_all_is_no_larger_than_noise(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    lab.of(DIVERGENCE)["Q8_0"] = replace(lab.of(DIVERGENCE)["Q8_0"], kld_mean=0.0)
    figures = figures_of(lab)
    assert figures["Q8_0"].divergence_is_noise and "<sub>0.00000</sub>" in divergences(figures)
    assert "small grey print (Q8_0)" in noise_note(figures, "F16")


def test_where_nothing_was_compared_no_difference_is_spoken_of(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0")).having(PERPLEXITY, {}).having(DIVERGENCE, {})
    told = noise_note(figures_of(lab), "F16")
    assert told.endswith("of 1,020 tokens.")


def test_without_it_nothing_is_said(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0")).having(NOISE, {})
    assert noise_note(figures_of(lab), "F16") == ""
