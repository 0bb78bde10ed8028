"""Frame, spread, gaps and contents: exact facts about invented labs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import (
    FIGURES,
    FORMATS,
    N_CHUNKS,
    base_nll,
    empty_lab,
    generation_run,
    gguf_file,
    make_lab,
    nll_of,
    perplexity_run,
)

from labctl.records.files import TensorFallback
from labctl.report.figures import figures_of, table
from labctl.report.gaps import content_notes, gaps, record_name, twins
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.answers import answer_changes, first_divergence
from labctl.steps.intervals import mcnemar_exact, median_ranks, student_t, wilson
from labctl.steps.measured import Measured, StepFailure
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.figures import common_chunks, load_nll
from labctl.steps.perplexity.scorer import perplexity
from labctl.steps.perplexity.step import PERPLEXITY


def frame(lab: Measured, limit: float = 0.02) -> pd.DataFrame:
    return table(lab, figures_of(lab, limit))


def test_perplexity_of_uniform_guesses_is_the_size_of_the_vocabulary() -> None:
    ppl, ppl_se = perplexity(np.full((3, 5), math.log(8192)))
    assert ppl == pytest.approx(8192)
    assert ppl_se == pytest.approx(0, abs=1e-3)


def test_perplexity_and_error_follow_llama_perplexity() -> None:
    values = np.array([[1.0, 2.0], [3.0, 6.0]])
    ppl, ppl_se = perplexity(values)
    assert ppl == pytest.approx(math.exp(3))
    assert ppl_se == pytest.approx(math.exp(3) * math.sqrt((50 / 4 - 9) / 3))
    assert all(math.isnan(value) for value in perplexity(np.zeros((0, 5))))


def test_frame_of_a_complete_lab(tmp_path: Path) -> None:
    rows = {str(name): row for name, row in frame(make_lab(tmp_path)).iterrows()}
    assert tuple(rows) == FORMATS
    assert [row["verdict"] for row in rows.values()] == [
        "baseline",
        "pass",
        "pass",
        "undecided",
        "fail",
        "fail",
        "fail",
    ]
    for name, (size, ppl, *_), row in ((n, FIGURES[n], rows[n]) for n in FORMATS):
        assert row["size_bytes"] == size
        assert row["compression_ratio"] == pytest.approx(30713088 / size)
        assert row["ppl"] == pytest.approx(ppl)
        if name != "F16":
            assert row["ppl_increase_pct"] == pytest.approx(100 * (ppl / 18.0648 - 1))
            assert row["ppl_increase_low_pct"] < row["ppl_increase_pct"] < row["ppl_increase_high_pct"]
    five = rows["Q5_K_M"]
    assert (round(five["ppl_increase_low_pct"], 1), round(five["ppl_increase_high_pct"], 1)) == (1.9, 2.3)
    assert (rows["Q4_K_M"]["sums_correct"], rows["Q4_K_M"]["sums_n"]) == (84, 88)
    assert (rows["Q3_K_M"]["answers_lost"], rows["Q3_K_M"]["answers_gained"]) == (25, 0)
    assert (rows["Q4_K_S"]["answers_lost"], rows["Q4_K_S"]["answers_gained"]) == (0, 1)
    assert rows["F16"]["speedup"] == 1.0
    assert rows["F16"]["bpw"] == pytest.approx(16.007, abs=1e-3)
    assert rows["Q6_K"]["tg_ms"] == pytest.approx(128_000 / rows["Q6_K"]["tg_tps"])


def test_limit_decides_the_verdict(tmp_path: Path) -> None:
    table = frame(make_lab(tmp_path), limit=0.08)
    assert table.loc["Q4_K_M", "verdict"] == "pass"
    assert table.loc["Q4_K_S", "verdict"] == "undecided"


def test_frame_of_nothing_has_every_row_and_no_figure(tmp_path: Path) -> None:
    table = frame(empty_lab(tmp_path))
    assert tuple(table.index) == FORMATS
    assert table.isna().all().all()


def test_chunks_outside_the_record_are_not_read(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0", "Q6_K"))
    folder = Path(lab.folder)
    lab.of(PERPLEXITY)["Q8_0"] = perplexity_run(folder, "Q8_0", nll_of(18.2, 0.1, 3), chunks=((0, 3), (10, 20)))
    lab.of(PERPLEXITY)["Q6_K"] = perplexity_run(folder, "Q6_K", nll_of(18.3, 0.1, 4), chunks=((2, 15),))
    nll = load_nll(lab)
    assert np.isnan(nll["Q8_0"][3:10]).all()
    shared = common_chunks(nll)
    assert shared.tolist() == [2, 10, 11, 12, 13, 14]
    table = frame(lab)
    assert set(table["n_chunks_common"]) == {6}
    assert table["n_chunks"].tolist() == [N_CHUNKS, 13, 13]
    assert table.loc["Q8_0", "n_pairs"] == 13
    assert table.loc["F16", "ppl"] == pytest.approx(math.exp(base_nll()[shared].mean()))


@pytest.mark.parametrize(
    ("df", "two_sided_5", "two_sided_1"), [(1, 12.706, 63.657), (2, 4.303, 9.925), (5, 2.571, 4.032), (30, 2.042, 2.75)]
)
def test_student_t_is_that_of_printed_tables(df: int, two_sided_5: float, two_sided_1: float) -> None:
    assert student_t(0.05, df) == pytest.approx(two_sided_5, abs=1e-3)
    assert student_t(0.01, df) == pytest.approx(two_sided_1, abs=1e-3)


@pytest.mark.parametrize("damage", ["gone", "truncated", "shape", "pickle"])
def test_damaged_token_file_is_a_gap_not_a_number(tmp_path: Path, damage: str) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    path = Path(lab.folder) / "nll" / "Q8_0.npy"
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "shape":
        np.save(path, np.zeros((2, 2)))
    else:
        np.save(path, np.array([{}]), allow_pickle=True)
    assert set(load_nll(lab)) == {"F16"}
    assert math.isnan(frame(lab)["ppl"]["Q8_0"])
    assert [(gap.step, gap.format) for gap in gaps(lab)] == [("perplexity", "Q8_0")]


def test_another_text_is_not_compared(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    run = lab.of(PERPLEXITY)["Q8_0"]
    lab.of(PERPLEXITY)["Q8_0"] = replace(run, text=replace(run.text, sha256="c" * 64))
    assert set(load_nll(lab)) == {"F16"}


def test_failure_is_the_reason_of_its_gap(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", "Q8_0"))
    del lab.of(BENCH)["Q8_0"], lab.of(MEMORY)["F16"]
    failure = StepFailure(step="bench", format="Q8_0", message="Stopped.", hint="Again.", log_path="logs/b.log")
    found = gaps(replace(lab, failures=(failure,)))
    assert [(gap.step, gap.format, gap.reason, gap.log_path) for gap in found] == [
        ("memory", "F16", "This step has not been run with these settings yet.", ""),
        ("bench", "Q8_0", "Stopped. Again.", "logs/b.log"),
    ]
    assert record_name(lab, "bench", "F16") == "outputs/labllama/records/bench-F16.json"
    assert record_name(lab, "bench", "Q8_0") is None


@given(st.integers(2, 60))
def test_median_ranks_cover_95_of_100_and_no_narrower_ones_do(n: int) -> None:
    low, high = median_ranks(n)
    assert low + high == n - 1

    def missed(place: int) -> float:
        """How often the median lies outside the interval from this place to the one as far from the other end."""
        return float(2 * scipy.stats.binom.cdf(place, n, 0.5))

    assert low == 0 or missed(low) <= 0.05
    assert missed(low + 1) > 0.05


def test_median_ranks() -> None:
    assert median_ranks(6) == (0, 5)
    assert median_ranks(9) == (1, 7)  # 96.1 %
    assert median_ranks(30) == (9, 20)  # 95.7 %
    assert median_ranks(3) == (0, 2)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_and_mcnemar_are_scipys(counts: tuple[int, int]) -> None:
    k, n = counts
    tested = scipy.stats.binomtest(k, n)
    interval = tested.proportion_ci(0.95, "wilson")
    assert wilson(k, n) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert mcnemar_exact(k, n - k) == pytest.approx(tested.pvalue)


def test_wilson_and_mcnemar_known_values() -> None:
    low, high = wilson(84, 88)
    assert (low, high) == pytest.approx((0.8889, 0.9822), abs=1e-4)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(3, 0) == 0.25
    assert mcnemar_exact(9, 1) == mcnemar_exact(1, 9) == pytest.approx(22 / 1024)


def test_first_divergence() -> None:
    base = generation_run("F16", 1, 1, 100).generations[1]
    other = generation_run("Q4_0", 1, 1, 7).generations[1]
    found = first_divergence(other, base)
    assert (found.n_same, found.piece, found.base_piece) == (7, other.pieces[7], base.pieces[7])
    assert first_divergence(base, base).identical
    short = replace(base, tokens=base.tokens[:4], pieces=base.pieces[:4])
    assert first_divergence(short, base).piece is None
    assert first_divergence(short, base).base_piece == base.pieces[4]


def test_answers_are_compared_question_by_question() -> None:
    assert answer_changes(generation_run("a", 190, 88, 5), generation_run("b", 194, 87, 5), ("capitals", "sums")) == (
        4,
        1,
        190 + 87,
    )


def test_label_and_contents() -> None:
    assert content_notes(gguf_file("Q4_K_M")) == ()
    (note,) = content_notes(gguf_file("Q3_K_M"))
    assert note.startswith("most bytes are q6_K (39 %); q3_K, which the label names, holds 32 % of the bytes and 44 %")
    fallen = replace(
        gguf_file("Q8_0", label="Q4_K_M"),
        fallbacks=(TensorFallback(tensor="a", row_length=576, wanted="q4_K", got="q5_0"),),
    )
    notes = content_notes(fallen)
    assert "most bytes are q8_0 (100 %)" in notes[0] and "q5_0 instead of q4_K" in notes[1]
    assert twins({"Q4_K_M": gguf_file("Q4_K_M"), "Q4_K_S": gguf_file("Q4_K_M", "Q4_K_S"), "F16": gguf_file("F16")}) == (
        ("Q4_K_M", "Q4_K_S"),
    )
