"""Scores, matrix and picks in words: ties, one round, gaps, files that save nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from kit.lab_factory import FORMATS, base_nll, generation_run, make_lab, nll_of, perplexity_run, speed_run

from labctl.report import tradeoffs
from labctl.report.advice import why
from labctl.report.board import Boards, boards, candidates
from labctl.report.charts import findings_of
from labctl.report.figures import figures_of
from labctl.report.matrix import best_for, matrix
from labctl.report.order import Orders
from labctl.report.rules import Answer, in_ram, production, to_drop
from labctl.report.uses import minimum_formats, reasoning
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

WEIGHTS = (0.3, 0.4, 0.3)
EQUAL = ("Q8_0", "Q6_K")


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    return make_lab(tmp_path)


def scored(lab: Measured) -> Boards:
    figures = figures_of(lab)
    return boards(figures, Orders(lab, figures), WEIGHTS)


def one_round(lab: Measured) -> None:
    for seed, name in enumerate(lab.of(BENCH)):
        lab.of(BENCH)[name] = speed_run(name, 9000, 1000 * (seed + 1), seed, rounds=1)


def unchanged(lab: Measured, *names: str) -> None:
    """Formats whose tensors all stayed as they were: the baseline's file but for a header."""
    for name in names:
        lab.of(QUANTIZE)[name] = replace(
            lab.of(QUANTIZE)["F16"], format=name, size_bytes=lab.of(QUANTIZE)["F16"].size_bytes - 64
        )
        lab.of(PERPLEXITY)[name] = perplexity_run(Path(lab.folder), name, base_nll())
        lab.of(BENCH)[name] = replace(lab.of(BENCH)["F16"], format=name)
        lab.of(GENERATE)[name] = replace(lab.of(GENERATE)["F16"], format=name)


def test_a_file_that_saves_nothing_is_no_pick_anywhere(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16", *EQUAL))
    unchanged(lab, *EQUAL)
    figures = figures_of(lab)
    orders = Orders(lab, figures)
    q10 = production(lab, figures, 0.02)
    assert q10.pick == "F16" and "Q8_0 and Q6_K save no space against F16" in q10.text
    assert "Q8_0 and Q6_K are no smaller than F16." in why(figures, "F16", "F16", 0.02)
    assert reasoning(figures, "F16", {}).pick == "F16"
    assert {answer.pick for _, answer in minimum_formats(figures, "F16", {})} == {"F16"}
    assert in_ram(lab, figures, orders, 8).pick == "F16"
    found = boards(figures, orders, WEIGHTS)
    assert not found.comparable and [one.format for one in candidates(figures)] == ["F16"]
    q11 = tradeoffs.sweet_spot(figures, found)
    assert q11.pick is None and "Q8_0 and Q6_K are no smaller than F16" in q11.text
    assert "no smaller than F16" in tradeoffs.scores(figures, found).splitlines()[3]
    tags = best_for(figures, orders, found, [])
    assert "smallest" not in " ".join(tags.values()) and "fastest" not in " ".join(tags.values())


def test_a_smaller_file_is_picked_beside_one_that_saves_nothing(lab: Measured) -> None:
    unchanged(lab, "Q8_0")
    figures = figures_of(lab)
    assert production(lab, figures, 0.02).pick == "Q6_K"
    assert "Q8_0" not in [one.format for one in candidates(figures)]
    assert tradeoffs.missing_words(figures) == "Q8_0 is no smaller than F16"


def test_one_round_settles_no_score(lab: Measured) -> None:
    one_round(lab)
    found, figures = scored(lab), figures_of(lab)
    for board in found.both:
        assert set(board.order().first) == set(FORMATS)
    q11 = tradeoffs.sweet_spot(figures, found)
    assert q11.pick is None and q11.text.startswith("Not settled, ") and "ahead" not in q11.text
    assert tradeoffs.score_words(figures, found).count("not settled") == 2
    changed = tradeoffs.change_words(figures, found, (0.2, 0.3, 0.5))
    assert changed.count("not settled") == 2 and "yes" not in changed and "it stays" not in changed
    assert "1 to 7 |" in tradeoffs.scores(figures, found)
    # Without any weight on speed the unknown speeds do not matter.
    assert found.literal.order((1.0, 0.0, 0.0)).first == ("Q3_K_M",)
    assert found.literal.order((0.0, 1.0, 0.0)).first == ("F16",)


def test_a_lead_inside_the_intervals_is_no_first_place(lab: Measured) -> None:
    """Q4_K_S leads Q6_K by 0.012 of the normalised score at the course's weights, and by 0.058 at equal ones."""
    found, figures = scored(lab), figures_of(lab)
    assert found.normalised.order().first == ("Q4_K_S", "Q6_K")
    assert "Normalised score: not settled, Q4_K_S (0.813) or Q6_K (0.801)" in tradeoffs.score_words(figures, found)
    q11 = tradeoffs.sweet_spot(figures, found)
    assert q11.pick == "Q4_K_S" and "ahead of Q6_K with 0.783" in q11.text
    assert "Q4_K_S for 62 %, Q6_K for 33 %" in q11.text  # never the share of the pick alone


def test_shares_of_all_weightings_are_told_for_everybody(lab: Measured) -> None:
    found = scored(lab)
    shares, settled = found.normalised.map(50).shares, found.normalised.map(50).settled_shares
    assert sum(shares.values()) == pytest.approx(1) and sum(settled.values()) < 0.95
    assert all(settled[name] <= share for name, share in shares.items())
    table = tradeoffs.shares(found)
    assert f"| Q6_K | 4 % | 3 % | {100 * shares['Q6_K']:.0f} % | {100 * settled['Q6_K']:.0f} % |" in table
    one_round(lab)
    assert sum(scored(lab).literal.map(50).settled_shares.values()) < 0.05


def test_missing_figures_are_named_by_format(lab: Measured) -> None:
    del lab.of(BENCH)["Q6_K"], lab.of(QUANTIZE)["Q3_K_M"]
    figures = figures_of(lab)
    assert tradeoffs.missing_words(figures) == "speed is not measured for Q6_K; size is not measured for Q3_K_M"
    del lab.of(BENCH)["F16"]
    figures = figures_of(lab)
    assert not scored(lab).comparable
    assert "speed is not measured for F16 and Q6_K" in tradeoffs.too_little(figures)
    lab.of(PERPLEXITY).clear()
    assert "perplexity is not measured" in tradeoffs.too_little(figures_of(lab))


def test_one_format_alone_has_no_scores(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, ("F16",))
    figures = figures_of(lab)
    assert tradeoffs.too_little(figures) == "There is nothing to rank: F16 is the only format of this lab."
    assert matrix(figures, Orders(lab, figures), scored(lab), [])[0][5] == "reference quality"


def test_matrix_names_no_first_place_that_the_charts_call_a_tie(lab: Measured) -> None:
    for seed, name in enumerate(FORMATS):
        speed = 2000 if name in ("Q4_K_M", "Q4_K_S") else 1000
        lab.of(BENCH)[name] = speed_run(name, 9000, speed, seed, rounds=6)
    figures = figures_of(lab)
    tags = best_for(figures, Orders(lab, figures), scored(lab), [("Chatbot", Answer(rule="", text="", pick="Q5_K_M"))])
    assert "fastest generation, tied with Q4_K_S" in tags["Q4_K_M"]
    assert "fastest generation, tied with Q4_K_M" in tags["Q4_K_S"]
    assert "fastest prompt" not in " ".join(tags.values())  # all seven alike
    assert tags["Q5_K_M"] == "least format for chatbot (Q13)"
    assert re.search(
        r"Fastest at generating text: Q4_K_. or Q4_K_. \(not told apart\)", findings_of(lab, figures, 0.02)["speed"]
    )
    assert findings_of(lab, figures, 0.02)["size_vs_performance"].startswith(
        "Which format generates text fastest is not settled"
    )
    one_round(lab)
    figures = figures_of(lab)
    assert "fastest" not in " ".join(best_for(figures, Orders(lab, figures), scored(lab), []).values())
    assert matrix(figures, Orders(lab, figures), scored(lab), [])[1][3] == "not settled"


def test_a_format_that_another_one_surely_beats_is_named_so(lab: Measured) -> None:
    lab.of(PERPLEXITY)["Q4_K_S"] = perplexity_run(Path(lab.folder), "Q4_K_S", nll_of(18.2, 0.1, 30))
    figures = figures_of(lab)
    tags = best_for(figures, Orders(lab, figures), scored(lab), [])
    assert tags["Q4_K_M"] == "nothing: Q4_K_S is at least as small, as good and as fast"


def test_which_of_two_close_formats_is_worst_is_not_settled(lab: Measured) -> None:
    figures = figures_of(lab)
    assert "not settled" not in to_drop(figures, Orders(lab, figures), 0.02).text
    lab.of(PERPLEXITY)["Q4_K_S"] = perplexity_run(Path(lab.folder), "Q4_K_S", nll_of(21.63, 0.8, 31))
    figures = figures_of(lab)
    text = to_drop(figures, Orders(lab, figures), 0.02).text
    assert "Which of Q4_K_S and Q3_K_M is the worst is not settled." in text


def test_reasoning_and_maths_have_one_rule(lab: Measured) -> None:
    for limits in ({}, {"math_sums_lost_pct": 0.0}, {"math_ppl_increase_pct": 2.0}, {"math_sums_lost_pct": 50.0}):
        figures = figures_of(lab)
        assert (
            reasoning(figures, "F16", limits).pick
            == dict(minimum_formats(figures, "F16", limits))["Math reasoning"].pick
        )
    assert reasoning(figures, "F16", {"math_ppl_increase_pct": 2.0}).pick == "Q6_K"
    lab.of(GENERATE)["Q4_K_S"] = generation_run("Q4_K_S", 194, 70, 8)
    assert reasoning(figures_of(lab), "F16", {}).pick == "Q4_K_M"


def test_readings_name_no_winner_of_unsettled_weightings(lab: Measured) -> None:
    one_round(lab)
    text = findings_of(lab, figures_of(lab), 0.02)["winner_map"]
    assert "wins whatever" not in text
    assert all(int(share) <= 5 for share in re.findall(r"\((\d+) % settled\)", text)) and "% settled" in text
