"""Chunks as needed: open verdicts get them, settled ones do not, and no chunk is measured twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labctl.cli.output import Display
from labctl.lab.lab import Lab
from labctl.pipeline import run as pipeline
from labctl.pipeline.reporting import load_records
from labctl.records.arrays import load_rows
from labctl.records.sources import TextSource
from labctl.records.store import read_record
from labctl.steps.perplexity import adaptive
from labctl.steps.perplexity import step as quality
from labctl.steps.perplexity.figures import perplexity_figures
from labctl.steps.perplexity.increase import paired_increase
from labctl.steps.perplexity.record import COMMON_CHUNKS, PerplexityRun
from labctl.steps.perplexity.scorer import chunk_order
from labctl.steps.perplexity.sequence import FUTILE_FROM

pytestmark = pytest.mark.slow

Open = Callable[..., Lab]
LABELS = ("F16", "Q8_0", "Q4_K_M")
_CTX = 128  # short chunks: the demo text has enough of them


def measure(lab: Lab) -> dict[str, PerplexityRun]:
    """`labctl perplexity` with this lab's settings: what each format's record says then."""
    outcome = pipeline.run(lab, Display(quiet=True), names=("perplexity",), report=False)
    assert outcome.failures == ()
    found = {label: read_record(lab.folder.record_path("perplexity", label), PerplexityRun) for label in LABELS}
    return {label: run for label, run in found.items() if run is not None}


def rows(lab: Lab, label: str) -> np.ndarray:
    nll = load_rows(quality.nll_path(lab, label))
    assert nll is not None
    return np.array(nll)


@pytest.fixture(scope="module")
def whole(
    measure_perplexity: Callable[..., PerplexityRun], demo_text: TextSource, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The whole text measured, by which limits are chosen: its chunks, and each format's increase."""
    folder = tmp_path_factory.mktemp("whole")
    nll = {}
    for label in LABELS:
        run = measure_perplexity(label, demo_text, None, folder / f"{label}.npy", n_ctx=_CTX)
        found = load_rows(folder / f"{label}.npy")
        assert found is not None
        nll[label] = found
    return {"n_text": run.n_chunks_text, **{label: paired_increase(nll[label], nll["F16"]) for label in LABELS[1:]}}


def test_settled_formats_stop_open_ones_go_on_and_the_verdicts_are_those_of_the_whole_text(
    whole: dict[str, Any], new_lab: Path, open_lab: Open
) -> None:
    n_text = whole["n_text"]
    limit = 1.0001 * whole["Q4_K_M"].increase  # as close as can be: Q4_K_M stays open to the end, Q8_0 is clear
    lab = open_lab(new_lab, chunks="auto", limit=limit, ctx=_CTX, settle=True)
    pipeline.run(lab, Display(quiet=True), names=("quantize",), report=False)
    runs = measure(lab)
    assert [runs[label].n_chunks for label in LABELS] == [n_text, COMMON_CHUNKS, n_text]
    order = chunk_order(n_text, quality.ORDER_SEED)
    assert sorted(np.flatnonzero(~np.isnan(rows(lab, "Q8_0")[:, 0]))) == sorted(order[:COMMON_CHUNKS])
    figures = perplexity_figures(load_records(lab), limit)
    for label in LABELS[1:]:
        assert figures[label].verdict == ("pass" if whole[label].increase < limit else "fail") == "pass"
    q4, q8 = figures["Q4_K_M"].increase, figures["Q8_0"].increase
    assert q4 is not None and q4.is_exact and q4.beyond == "undecided"
    assert q8 is not None and not q8.is_exact
    assert q8.text_low_pct <= 100 * whole["Q8_0"].increase <= q8.text_high_pct

    again = open_lab(new_lab, chunks="all", ctx=_CTX)
    runs = measure(again)  # what auto measured is not measured again, whatever the order
    assert {label: run.n_tokens_evaluated for label, run in runs.items()} == {
        "F16": 0,
        "Q8_0": (n_text - COMMON_CHUNKS) * _CTX,
        "Q4_K_M": 0,
    }
    looser = open_lab(new_lab, chunks="auto", limit=2 * limit, ctx=_CTX)
    assert all(run.n_tokens_evaluated == 0 for run in measure(looser).values())


def test_a_verdict_that_costs_too_much_is_given_up_with_its_price(
    whole: dict[str, Any], new_lab: Path, open_lab: Open
) -> None:
    limit = 1.0001 * whole["Q4_K_M"].increase
    lab = open_lab(new_lab, chunks="auto", limit=limit, ctx=_CTX, patience=1.2)
    pipeline.run(lab, Display(quiet=True), names=("quantize",), report=False)
    runs = measure(lab)
    assert FUTILE_FROM <= runs["Q4_K_M"].n_chunks == runs["F16"].n_chunks < whole["n_text"]
    figures = perplexity_figures(load_records(lab), limit)["Q4_K_M"]
    assert figures.verdict == "undecided" and figures.increase is not None
    assert figures.increase.n_chunks_needed is not None and figures.increase.s_needed is not None
    assert 1.2 * runs["Q4_K_M"].n_chunks < figures.increase.n_chunks_needed <= whole["n_text"]
    assert figures.increase.s_needed > 0

    settled = measure(open_lab(new_lab, chunks="auto", limit=limit, ctx=_CTX, settle=True))
    assert settled["Q4_K_M"].n_chunks > runs["Q4_K_M"].n_chunks
    assert settled["Q4_K_M"].n_tokens_evaluated == _CTX * (settled["Q4_K_M"].n_chunks - runs["Q4_K_M"].n_chunks)


def test_the_baseline_is_measured_only_as_far_as_somebody_needs_it(
    whole: dict[str, Any], new_lab: Path, open_lab: Open
) -> None:
    lab = open_lab(new_lab, chunks="auto", limit=3 * whole["Q4_K_M"].high, ctx=_CTX)
    pipeline.run(lab, Display(quiet=True), names=("quantize",), report=False)
    assert {label: run.n_chunks for label, run in measure(lab).items()} == dict.fromkeys(LABELS, COMMON_CHUNKS)


def test_a_budget_goes_where_verdicts_are_open(
    whole: dict[str, Any], new_lab: Path, open_lab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that counts a second a chunk: 3 x 12 for all, the rest for the open verdict and its baseline."""
    clock = 0.0
    real = quality.measure

    def counted(lab: Lab, label: str, *arguments: Any, deadline_s: float | None, **options: Any) -> PerplexityRun:
        nonlocal clock
        assert deadline_s is not None
        run = real(lab, label, *arguments, deadline_s=1e6, **options)
        clock += run.n_tokens_evaluated / _CTX
        return run

    monkeypatch.setattr(adaptive, "measure", counted)
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    lab = open_lab(
        new_lab, chunks="auto", limit=1.0001 * whole["Q4_K_M"].increase, budget_s=60.0, ctx=_CTX, settle=True
    )
    pipeline.run(lab, Display(quiet=True), names=("quantize",), report=False)
    runs = measure(lab)
    assert runs["Q8_0"].n_chunks == COMMON_CHUNKS
    assert COMMON_CHUNKS < runs["Q4_K_M"].n_chunks < whole["n_text"]
    assert runs["F16"].n_chunks == runs["Q4_K_M"].n_chunks
    assert 60 <= clock < 60 + 24  # the last block is let finish on this clock; a real deadline stops within it


def test_a_small_budget_is_shared_by_all_formats(
    new_lab: Path, open_lab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quality.measure

    def one_block(lab: Lab, label: str, *arguments: Any, deadline_s: float | None, **options: Any) -> Any:
        return real(lab, label, *arguments, deadline_s=1e6, **options)

    clock = iter(range(1000))
    monkeypatch.setattr(adaptive, "measure", one_block)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    lab = open_lab(new_lab, chunks="auto", budget_s=9.0, ctx=_CTX)
    pipeline.run(lab, Display(quiet=True), names=("quantize",), report=False)
    counts = {label: run.n_chunks for label, run in measure(lab).items()}
    assert set(counts) == set(LABELS)
    assert min(counts.values()) >= 4
    assert max(counts.values()) <= COMMON_CHUNKS


def test_a_deadline_stops_a_format_after_the_chunk_at_hand(
    measure_perplexity: Callable[..., PerplexityRun], demo_text: Any, tmp_path: Path
) -> None:
    run = measure_perplexity("Q8_0", demo_text, 20, tmp_path / "nll.npy", order_seed=7, deadline_s=0.0)
    assert (run.n_chunks, run.n_tokens_evaluated) == (1, 512)
    rest = measure_perplexity("Q8_0", demo_text, 3, tmp_path / "nll.npy", order_seed=7)
    assert (rest.n_chunks, rest.n_tokens_evaluated) == (3, 2 * 512)
