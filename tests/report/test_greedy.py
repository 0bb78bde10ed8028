"""Generated texts beside the baseline's: the same is said as the same, and a loop is named only where it is one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from kit.lab_factory import PROMPTS, make_lab

from labctl.report.advice import costs
from labctl.report.drafts import quality_loss
from labctl.report.figures import figures_of
from labctl.report.greedy import (
    greedy_divergences,
    greedy_words,
    loop_words,
    loops,
    repeated_share,
    same_texts_words,
    same_words,
)
from labctl.report.text_tables import looping, same_tokens, side_by_side, worst_beside_base
from labctl.steps.generate.answers import first_divergence
from labctl.steps.generate.record import Generation
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured


def text(tokens: tuple[int, ...], number: int = 1, decoding: str = "greedy") -> Generation:
    pieces = tuple(f" w{token}" for token in tokens)
    return Generation(
        prompt_number=number,
        prompt=PROMPTS[number - 1],
        decoding="greedy" if decoding == "greedy" else "sampled",
        tokens=tokens,
        text="".join(pieces),
        pieces=pieces,
        n_prompt_tokens=3,
    )


def with_texts(lab: Measured, name: str, texts: dict[int, tuple[int, ...]], decoding: str = "greedy") -> None:
    """Give a format these greedy texts; the other texts stay as they are."""
    run = lab.of(GENERATE)[name]
    kept = [one for one in run.generations if not (one.decoding == decoding and one.prompt_number in texts)]
    new = [text(tokens, number, decoding) for number, tokens in texts.items()]
    lab.of(GENERATE)[name] = replace(run, generations=(*kept, *new))


def only(lab: Measured, numbers: tuple[int, ...]) -> None:
    for name, run in lab.of(GENERATE).items():
        kept = tuple(one for one in run.generations if one.prompt_number in numbers)
        lab.of(GENERATE)[name] = replace(run, generations=kept)


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    return make_lab(tmp_path, ("F16", "Q8_0", "Q4_K_M"))


BASE = tuple(range(10))


@pytest.mark.parametrize(
    ("mine", "base", "cell", "sentence"),
    [
        (BASE, BASE, "all 10", "Its greedy text is F16's to the last token."),
        ((0, 1, 2, 99), BASE, "3 of 10", "Its greedy text leaves F16's after 3 of 10 tokens."),
        ((99, 1), BASE, "0 of 10", "Its greedy text leaves F16's after 0 of 10 tokens."),
        ((0, 1, 2), BASE, "3 of 10 (ends)", "Its greedy text ends early, after 3 of 10 tokens."),
        ((), BASE, "0 of 10 (empty)", "Its greedy text ends early, after 0 of 10 tokens."),
        ((*BASE, 5), BASE, "all 10 (goes on)", "Its greedy text goes on after all 10 tokens."),
        ((7,), (7,), "all 1", "Its greedy text is F16's to the last token."),
        ((), (), "both empty", "Its greedy text is F16's to the last token."),
        ((5,), (), "baseline's is empty", "Its greedy text goes on after 0 tokens."),
    ],
)
def test_each_way_to_leave_the_baseline_has_its_words(
    mine: tuple[int, ...], base: tuple[int, ...], cell: str, sentence: str
) -> None:
    found = first_divergence(text(mine), text(base))
    assert same_words(found) == cell
    assert greedy_words({1: found}, "F16") == sentence


def test_identical_texts_are_said_as_identical(lab: Measured) -> None:
    base = {one.prompt_number: one.tokens for one in lab.of(GENERATE)["F16"].generations if one.decoding == "greedy"}
    with_texts(lab, "Q8_0", base)
    with_texts(lab, "Q4_K_M", base | {3: (*base[3][:46], 99)})
    found = greedy_divergences(lab)
    figures = figures_of(lab)
    assert greedy_words(found["Q8_0"], "F16") == "All 5 of its greedy texts are F16's to the last token."
    mixed = "Of its 5 greedy texts 4 are F16's to the last token; 1 leaves it after 46 of 100 tokens."
    assert greedy_words(found["Q4_K_M"], "F16") == mixed
    assert mixed in costs(lab, figures, "Q4_K_M")
    listed = "so many texts are F16's to the last token: Q8_0 5 of 5 and Q4_K_M 4 of 5."
    assert listed in same_texts_words(found, "F16") and listed in quality_loss(lab, figures)
    assert "| Q8_0 | all 100 | all 100 | all 100 | all 100 | all 100 | 500 of 500 (100 %) |" in same_tokens(lab)
    assert "| Q4_K_M | all 100 | all 100 | 46 of 100 | all 100 | all 100 | 446 of 500 (89 %) |" in same_tokens(lab)
    which, table = worst_beside_base(lab, figures)
    assert which.startswith("Q4_K_M (") and table.count("\n| ") == 5
    assert "none: all 100 the same" in side_by_side(lab)


def test_no_difference_anywhere_is_no_evidence_of_one(lab: Measured) -> None:
    base = {one.prompt_number: one.tokens for one in lab.of(GENERATE)["F16"].generations if one.decoding == "greedy"}
    for name in ("Q8_0", "Q4_K_M"):
        with_texts(lab, name, base)
    figures = figures_of(lab)
    assert "every text is F16's to the last token" in quality_loss(lab, figures)
    assert "different text" not in quality_loss(lab, figures) and "leave" not in quality_loss(lab, figures)
    assert worst_beside_base(lab, figures) == ("", "")


def test_one_empty_text_of_two(lab: Measured) -> None:
    only(lab, (1, 2))
    with_texts(lab, "F16", {1: BASE, 2: ()})
    with_texts(lab, "Q8_0", {1: (), 2: ()})
    assert greedy_words(greedy_divergences(lab)["Q8_0"], "F16") == (
        "Of its 2 greedy texts 1 is F16's to the last token; 1 ends early, after 0 of 10 tokens."
    )
    assert "| Q8_0 | 0 of 10 (empty) | both empty | 0 of 10 (0 %) |" in same_tokens(lab)


def test_a_loop_is_named_with_the_baselines_share_beside_it(lab: Measured) -> None:
    knight = (1, 2, 3) + (4, 5, 6) * 20
    straight = tuple(range(63))
    with_texts(lab, "F16", {1: straight}, "sampled")
    with_texts(lab, "Q8_0", {1: straight}, "sampled")
    with_texts(lab, "Q4_K_M", {1: knight}, "sampled")
    (found,) = loops(lab)
    assert (found.format, found.prompt_number, found.decoding) == ("Q4_K_M", 1, "sampled")
    assert (found.share, found.base_share) == pytest.approx((1 - 6 / 60, 0.0))
    assert found.excerpt.startswith(" w4 w5 w6 w4")
    said = "Q4_K_M goes round in circles at Prompt 1 (sampled): 90 % of its sequences of 4 tokens stood in the text"
    assert said in loop_words([found]) and said in quality_loss(lab, figures_of(lab))
    assert "| Q4_K_M | 1 | sampled | 90 % | 0 % |" in looping(lab)


def test_a_text_that_repeats_no_more_than_the_baselines_is_not_named(lab: Measured) -> None:
    knight = (1, 2, 3) + (4, 5, 6) * 20
    for name in ("F16", "Q8_0", "Q4_K_M"):
        with_texts(lab, name, {1: knight}, "sampled")
    assert loops(lab) == [] and looping(lab) == "" and loop_words([]) == ""
    assert "circles" not in quality_loss(lab, figures_of(lab))


def test_repetition_of_short_texts_is_not_known() -> None:
    assert all(math.isnan(repeated_share(range(n))) for n in range(5))
    assert repeated_share((1, 1, 1, 1, 1)) == 0.5
    assert repeated_share(range(50)) == 0.0
