"""Scores and their order, stars, and maps of winners."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.report.order import Order, Pair, order_of
from labctl.report.scoring import (
    Candidate,
    Leads,
    Stars,
    least_leads,
    literal_scores,
    normalised_scores,
    perplexity_stars,
    quality_stars,
    scaled_leads,
    score_order,
    size_stars,
    speed_stars,
    winner_map,
)
from labctl.report.text import stars as words_of_stars
from labctl.steps.intervals import wilson

WEIGHTS = (0.3, 0.4, 0.3)
BASE = Candidate(format="F16", size_bytes=1000, quality=1, speedup=1)
HALF = Candidate(format="Q8_0", size_bytes=500, quality=0.8, speedup=2.5)
SMALL = Candidate(format="Q4_0", size_bytes=250, quality=0.5, speedup=1.5)
candidate_lists = st.lists(
    st.builds(
        Candidate,
        format=st.sampled_from(("a", "b", "c", "d")),
        size_bytes=st.integers(1, 10**12),
        quality=st.floats(0.01, 2),
        speedup=st.floats(0.01, 100),
    ),
    min_size=1,
    max_size=8,
)


def test_literal_score_as_the_course_writes_it() -> None:
    base, half, _ = literal_scores((BASE, HALF, SMALL), WEIGHTS)
    assert base.terms == (0.0, 1.0, 1.0)
    assert base.total == pytest.approx(0.7)
    assert half.terms == (0.5, 0.8, 2.5)
    assert half.total == pytest.approx(0.3 * 0.5 + 0.4 * 0.8 + 0.3 * 2.5)
    assert literal_scores((), WEIGHTS) == ()


def test_normalised_score_runs_from_zero_to_one() -> None:
    base, half, small = normalised_scores((BASE, HALF, SMALL), WEIGHTS)
    assert base.terms == (0.0, 1.0, 0.0)
    assert half.terms == pytest.approx((2 / 3, (0.8 - 0.5) / 0.5, 1))
    assert small.terms == pytest.approx((1, 0, 1 / 3))
    (alone,) = normalised_scores((BASE,), WEIGHTS)
    assert alone.terms == (0.5, 0.5, 0.5)


@given(candidate_lists)
def test_normalised_terms_stay_in_their_range(candidates: list[Candidate]) -> None:
    for score in normalised_scores(candidates, WEIGHTS):
        assert all(0 <= term <= 1 for term in score.terms)
        assert -1e-9 <= score.total <= 1 + 1e-9


def leads_of(found: tuple[Candidate, ...], factor: float = 1.0) -> Leads:
    """Leads where every ratio of two figures is known to this factor; 1 is exactly."""

    def order(values: dict[str, float]) -> Order:
        pairs = {}
        for a, b in itertools.permutations(values, 2):
            ratio = values[a] / values[b]
            pairs[a, b] = Pair(ratio=ratio, low=ratio / factor, high=ratio * factor)
        return order_of(values, pairs)

    return least_leads(
        found, order({one.format: one.quality for one in found}), order({one.format: one.speedup for one in found})
    )


ALL = (BASE, HALF, SMALL)


def test_winner_changes_with_the_weights_and_ties_go_to_the_smaller() -> None:
    literal = literal_scores(ALL, WEIGHTS)
    scores, leads = normalised_scores(ALL, WEIGHTS), scaled_leads(leads_of(ALL), literal)
    assert score_order(scores, leads, (0, 1, 0)).first == ("F16",)
    assert score_order(scores, leads, (1, 0, 0)).first == ("Q4_0",)
    assert score_order(scores, leads, (0, 0, 1)).first == ("Q8_0",)
    assert score_order((), {}, WEIGHTS).first == ()
    twin = Candidate(format="twin", size_bytes=400, quality=0.8, speedup=2.5)
    found = (BASE, HALF, twin)
    order = score_order(literal_scores(found, WEIGHTS), leads_of(found), (0, 0.5, 0.5))
    assert order.first == ("twin", "Q8_0") and order.ranks == {"twin": (1, 2), "Q8_0": (1, 2), "F16": (3, 3)}


def test_a_lead_is_one_only_beyond_what_the_intervals_can_move() -> None:
    """Q8_0 leads Q4_0 by 0.3 x -0.25 + 0.4 x 0.3 + 0.3 x 1.0 = 0.345 literally; F16 stands far behind."""
    scores = literal_scores(ALL, WEIGHTS)
    for factor, first in ((1.0, ("Q8_0",)), (1.05, ("Q8_0",)), (1.5, ("Q8_0", "Q4_0"))):
        assert score_order(scores, leads_of(ALL, factor), WEIGHTS).first == first
    lead = leads_of(ALL, 1.05)["Q8_0", "Q4_0"]
    assert lead == pytest.approx((-0.25, 0.5 / 1.05 * (1.6 / 1.05 - 1), 1.5 / 1.05 * (5 / 3 / 1.05 - 1)))
    assert leads_of(ALL, 1.05)["F16", "Q4_0"][1] == pytest.approx(0.5 / 1.05 * (2 / 1.05 - 1))


@given(candidate_lists, st.floats(1, 2), st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)))
def test_leads_hold_for_every_truth_inside_the_intervals(
    candidates: list[Candidate], factor: float, ends: tuple[float, float, float]
) -> None:
    """Move the figures of all formats inside their intervals: a lead that is claimed stays one."""
    base = replace(candidates[0], format="F16", quality=1.0, speedup=1.0)
    found = (base, *{one.format: one for one in candidates}.values())
    leads, half = leads_of(found, factor), math.sqrt(factor)
    moved = tuple(
        replace(
            one,
            quality=one.quality * half ** (2 * ends[place % 3] - 1) if place else one.quality,
            speedup=one.speedup * half ** (2 * ends[(place + 1) % 3] - 1) if place else one.speedup,
        )
        for place, one in enumerate(found)
    )
    totals = {score.format: score.total for score in literal_scores(moved, WEIGHTS)}
    for one, other in score_order(literal_scores(found, WEIGHTS), leads, WEIGHTS).shown:
        assert totals[one] >= totals[other] - 1e-9 * abs(totals[other])


def test_open_intervals_give_no_place_but_to_size() -> None:
    blind = {names: (terms[0], -math.inf, -math.inf) for names, terms in leads_of(ALL).items()}
    scores = literal_scores(ALL, WEIGHTS)
    assert set(score_order(scores, blind, WEIGHTS).first) == {"F16", "Q8_0", "Q4_0"}
    assert score_order(scores, blind, (1, 0, 0)).first == ("Q4_0",)
    alone = Order(names=(), shown=frozenset())
    assert least_leads(ALL, alone, alone)["Q8_0", "Q4_0"] == (-0.25, -math.inf, -math.inf)


def test_map_covers_the_triangle_and_its_corners() -> None:
    scores, leads = normalised_scores(ALL, WEIGHTS), scaled_leads(leads_of(ALL), literal_scores(ALL, WEIGHTS))
    found = winner_map(scores, leads, steps=10)
    assert len(found.winners) == 66
    assert found.winners[(10, 0)] == "Q4_0"
    assert found.winners[(0, 10)] == "F16"
    assert found.winners[(0, 0)] == "Q8_0"
    assert math.fsum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert found.settled_shares == found.shares
    wide = winner_map(scores, scaled_leads(leads_of(ALL, 1.5), literal_scores(ALL, WEIGHTS)), steps=10)
    assert wide.winners == found.winners
    assert math.fsum(wide.settled_shares.values()) < 0.5
    assert winner_map((), {}).winners == {}


@pytest.mark.parametrize(
    ("found", "stars"),
    [
        (size_stars(1.0), (1, 1)),
        (size_stars(1.5), (2, 2)),
        (size_stars(2.99), (4, 4)),
        (size_stars(3.0), (5, 5)),
        (perplexity_stars(-1.0, -0.5), (5, 5)),
        (perplexity_stars(0.4, 0.5), (5, 5)),
        (perplexity_stars(1.9, 2.1), (3, 4)),
        (perplexity_stars(10.01, 12.0), (1, 1)),
        (perplexity_stars(-100.0, math.inf), (1, 5)),
        (speed_stars(0.4, 0.5), (1, 1)),
        (speed_stars(1.1, 1.4), (2, 2)),
        (speed_stars(0.431, 15.733), (1, 5)),
        (speed_stars(2.5, 2.6), (5, 5)),
        (quality_stars(79.9, 79.9), (1, 1)),
        (quality_stars(96.9, 99.0), (3, 5)),
        (quality_stars(100.0, 100.0), (5, 5)),
    ],
)
def test_stars_follow_the_written_rule(found: Stars, stars: Stars) -> None:
    assert found == stars


def test_stars_in_words() -> None:
    assert words_of_stars((3, 3)) == "★★★☆☆" and words_of_stars((3, 4)) == "★★★ to ★★★★"
    assert words_of_stars((1, 5)) == "not settled"


def test_one_lost_answer_and_five_are_no_different_stars() -> None:
    """1 against 5 of 281 is what McNemar's test calls chance."""
    one, five = (quality_stars(*(100 * end for end in wilson(281 - lost, 281))) for lost in (1, 5))
    assert one == (4, 5) and five == (3, 5)
