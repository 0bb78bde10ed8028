"""Q2 tells what happened in this run: chunks by format and why, and how the interval is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit.lab_factory import N_CHUNKS, make_lab, nll_of, perplexity_run

from labctl.report.figures import figures_of
from labctl.report.perplexity_tables import perplexity_notes
from labctl.steps.measured import Measured
from labctl.steps.perplexity.sequence import shuffled_chunks
from labctl.steps.perplexity.step import PERPLEXITY

SEED = 2024


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    return make_lab(tmp_path, ("F16", "Q8_0", "Q4_K_M"), n_unread=0)


def measured(lab: Measured, counts: dict[str, int], seed: int | None = SEED) -> str:
    """The notes after each format was measured on so many chunks, in shuffled order or in the text's."""
    for name, count in counts.items():
        order = range(N_CHUNKS) if seed is None else shuffled_chunks(N_CHUNKS, seed)
        chunks = tuple((int(n), int(n) + 1) for n in sorted(order[:count]))
        lab.of(PERPLEXITY)[name] = replace(lab.of(PERPLEXITY)[name], chunks=chunks, order_seed=seed)
    return " ".join(perplexity_notes(lab, figures_of(lab)))


def test_a_chunk_and_pairing_are_explained_once(lab: Measured) -> None:
    text = measured(lab, {}, None)
    assert text.count("A chunk is a piece of the text of 512 tokens") == 1 and "last 255 tokens are scored" in text
    assert text.count("The interval is paired") == 1 and "drops out" in text
    assert "Every format was measured on the whole text, 40 chunks." in text
    assert "Method: Student's t over the chunks." in text and "look" not in text


def test_the_first_chunks_of_the_text(lab: Measured) -> None:
    text = measured(lab, dict.fromkeys(lab.formats, 8), None)
    assert "Every format was measured on the first 8 of 40 chunks." in text and "shuffled" not in text


def test_all_settled_at_the_floor_says_so(lab: Measured) -> None:
    text = measured(lab, dict.fromkeys(lab.formats, 32))
    assert "Every format was measured on the first 32 of 40. By then every verdict was settled." in text
    assert "went on" not in text and "hold at every look" in text and "arXiv 2310.03722" in text


def test_open_verdicts_at_the_floor_are_named(lab: Measured) -> None:
    lab.of(PERPLEXITY)["Q8_0"] = perplexity_run(Path(lab.folder), "Q8_0", nll_of(18.42, 2.0, 3), n_unread=0)
    text = measured(lab, dict.fromkeys(lab.formats, 32))
    assert "Still open at the end: Q8_0." in text and "By then" not in text and "went on" not in text


def test_who_went_on_is_named(lab: Measured) -> None:
    text = measured(lab, {"F16": 38, "Q8_0": 32, "Q4_K_M": 38})
    assert "first 32 of 40; Q4_K_M to 38 went on because its verdict was still open then." in text
    assert "In the end every verdict was settled." in text
    assert "taken over the 32 chunks that all formats share" in text


def test_a_budget_that_ended_before_the_floor_gives_no_reason_that_is_not_known(lab: Measured) -> None:
    text = measured(lab, {"F16": 16, "Q8_0": 16, "Q4_K_M": 8})
    assert "went on" not in text and "first 8 of 40, some on more, as the table says." in text


def test_one_whole_text_among_others_has_its_own_method(lab: Measured) -> None:
    text = measured(lab, {"F16": 40, "Q8_0": 32, "Q4_K_M": 40})
    assert "for Q4_K_M: Student's t over the chunks." in text


def test_one_chunk_and_the_baseline_alone(lab: Measured) -> None:
    text = measured(lab, dict.fromkeys(lab.formats, 1), None)
    assert "first 1 of 40 chunks" in text and "1 chunks" not in text
    for name in ("Q8_0", "Q4_K_M"):
        del lab.of(PERPLEXITY)[name]
    text = measured(lab, {"F16": 32})
    assert "F16 was measured on the first 32 of 40." in text and "verdict" not in text and "interval" not in text
    del lab.of(PERPLEXITY)["F16"]
    assert perplexity_notes(lab, figures_of(lab)) == []


def test_without_the_baseline_there_is_no_interval(lab: Measured) -> None:
    del lab.of(PERPLEXITY)["F16"]
    text = measured(lab, {})
    assert "no increase without the perplexity of F16" in text and "interval" not in text
