"""Every sentence claims no more than the records: invented labs are written up, each kind of claim is worked out again.

A checker finds the sentences of its kind and recomputes what they say with code of its own (claims*.py, claim_labs.py).
What no checker knows must at least be possible: no nan, no negative size, no interval that leaves out its own figure.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from kit.claim_labs import STEPS, Format, Plan, lab_of, plans
from kit.claims import CHECKERS, Checker, nothing_impossible, the_pick, written
from kit.claims_figures import (
    chunks_are_told_as_they_were,
    grey_is_no_more_than_noise,
    smaller_is_smaller,
    stars_lie_in_their_band,
    the_pick_passes_and_saves,
    verdicts_follow,
)
from kit.claims_texts import (
    a_distance_without_direction_has_none,
    answers_lost_are_lost,
    texts_are_the_same_where_said_so,
)
from kit.lab_factory import empty_lab

from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE


def checked(plan: Plan) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        lab = lab_of(plan, Path(folder))
        docs = written(lab)
        return {checker.__name__: checker(lab, docs) for checker in CHECKERS}


BASE = Format(name="F16")
RICH = Plan(
    formats=(
        BASE,
        Format(name="Q8_0", size=1.87, ppl=0.98, tps=1.3, text="ends"),
        Format(name="Q6_K", size=2.4, ppl=1.01, tps=1.8, text="leaves", right=(189, 80)),
        Format(name="Q4_K_M", size=3.02, ppl=1.3, tps=2.6, text="loops", right=(150, 60)),
        Format(name="Q3_K_M", size=3.4, ppl=1.5, tps=0.5, text="goes on"),
    ),
    noise=(0.04, 8e-6),
)
GONE_ON = Plan(
    formats=(BASE, Format(name="Q8_0", ppl=1.021, spread_pct=0.5), Format(name="Q6_K", chunks=33)), adaptive=True
)
IDENTICAL = Plan(formats=(BASE, Format(name="Q8_0", size=1.002, text="same"), Format(name="Q4_K_M", text="same")))
NO_ROUNDS = Plan(formats=(BASE, Format(name="Q6_K", size=2.4, missing=(GENERATE, BENCH))), rounds=1)


# Not shrunk: a failing plan is read as it is, and shrinking it would write hundreds of reports.
@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(plans())
@example(RICH)
@example(GONE_ON)
@example(IDENTICAL)
@example(NO_ROUNDS)
@example(Plan(formats=(BASE,)))
@example(Plan(formats=(Format(name="F16", missing=STEPS), Format(name="Q6_K"))))
@example(Plan(formats=(BASE, Format(name="Q6_K", size=2.4, ppl=1.01, chunks=2, spread_pct=30, stall=12)), rounds=1))
@example(Plan(formats=(BASE, Format(name="Q6_K", size=2.4, ppl=0.98, chunks=1)), n_cores=1))
def test_no_sentence_claims_more_than_the_records(plan: Plan) -> None:
    checked(plan)


def test_every_checker_finds_sentences_to_check() -> None:
    """A checker whose sentences were reworded would pass for ever."""
    found = [checked(plan) for plan in (RICH, GONE_ON, IDENTICAL)]
    idle = {name for name in found[0] if not any(counts[name] for counts in found)}
    assert not idle


def test_a_lab_before_anything_was_run_claims_nothing(tmp_path: Path) -> None:
    lab = empty_lab(tmp_path)
    docs = written(lab)
    assert the_pick(docs) is None
    for checker in CHECKERS:
        checker(lab, docs)


@pytest.mark.parametrize(
    ("before", "after", "checker"),
    [
        ("Pass: Q8_0", "Pass: Q4_K_M", verdicts_follow),
        ("all 100", "100 of 100", texts_are_the_same_where_said_so),
        ("it loses 1 that", "it loses 2 that", answers_lost_are_lost),
        ("2.40 times smaller", "2.60 times smaller", smaller_is_smaller),
        ("★★★☆☆", "★★★★★", stars_lie_in_their_band),
        ("Use Q6_K for production", "Use Q4_K_M for production", the_pick_passes_and_saves),
        (" 40 |", " 32 |", chunks_are_told_as_they_were),
        ("<sub>+1.00 %</sub>", "+1.00 %", grey_is_no_more_than_noise),
        ("was lost and 0 gained", "was lost and 1 gained", a_distance_without_direction_has_none),
        ("could still", "is -3 bytes and could still", nothing_impossible),
    ],
)
def test_a_checker_sees_a_false_sentence(tmp_path: Path, before: str, after: str, checker: Checker) -> None:
    lab = lab_of(RICH, tmp_path)
    docs = written(lab)
    checker(lab, docs)
    assert any(before in text for text in docs.values())
    with pytest.raises(AssertionError):
        checker(lab, {name: text.replace(before, after) for name, text in docs.items()})
