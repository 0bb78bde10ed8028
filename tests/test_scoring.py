"""Scores, stars, Pareto fronts and maps of winners."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.report.scoring import (
    Candidate,
    dominates,
    literal_scores,
    normalised_scores,
    pareto_front,
    perplexity_stars,
    quality_stars,
    size_stars,
    speed_stars,
    sure_pareto_front,
    surely_dominates,
    winner,
    winner_map,
)

WEIGHTS = (0.3, 0.4, 0.3)
BASE = Candidate(format="F16", size_bytes=1000, ppl=10, tg_tps=20)
HALF = Candidate(format="Q8_0", size_bytes=500, ppl=12.5, tg_tps=50)
SMALL = Candidate(format="Q4_0", size_bytes=250, ppl=20, tg_tps=30)
candidate_lists = st.lists(
    st.builds(
        Candidate,
        format=st.sampled_from(("a", "b", "c", "d")),
        size_bytes=st.integers(1, 10**12),
        ppl=st.floats(1, 1e5),
        tg_tps=st.floats(0.01, 1e5),
    ),
    min_size=1,
    max_size=8,
)


def test_literal_score_as_the_course_writes_it() -> None:
    base, half, _ = literal_scores((BASE, HALF, SMALL), WEIGHTS)
    assert base.terms == (0, 1, 1)
    assert base.total == pytest.approx(0.7)
    assert half.terms == (0.5, 0.8, 2.5)
    assert half.total == pytest.approx(0.3 * 0.5 + 0.4 * 0.8 + 0.3 * 2.5)
    assert literal_scores((), WEIGHTS) == ()


def test_normalised_score_runs_from_zero_to_one() -> None:
    base, half, small = normalised_scores((BASE, HALF, SMALL), WEIGHTS)
    assert base.terms == (0, 1, 0)
    assert half.terms == pytest.approx((2 / 3, (0.8 - 0.5) / 0.5, 1))
    assert small.terms == pytest.approx((1, 0, 1 / 3))
    (alone,) = normalised_scores((BASE,), WEIGHTS)
    assert alone.terms == (0.5, 0.5, 0.5)


@given(candidate_lists)
def test_normalised_terms_stay_in_their_range(candidates: list[Candidate]) -> None:
    for score in normalised_scores(candidates, WEIGHTS):
        assert all(0 <= term <= 1 for term in score.terms)
        assert -1e-9 <= score.total <= 1 + 1e-9


def test_winner_changes_with_the_weights_and_ties_go_to_the_smaller() -> None:
    scores = normalised_scores((BASE, HALF, SMALL), WEIGHTS)
    assert winner(scores, (0, 1, 0)) == "F16"
    assert winner(scores, (1, 0, 0)) == "Q4_0"
    assert winner(scores, (0, 0, 1)) == "Q8_0"
    assert winner(()) is None
    twin = Candidate(format="twin", size_bytes=400, ppl=12.5, tg_tps=50)
    assert winner(literal_scores((BASE, HALF, twin), (0, 0.5, 0.5))) == "twin"


def test_map_covers_the_triangle_and_its_corners() -> None:
    scores = normalised_scores((BASE, HALF, SMALL), WEIGHTS)
    found = winner_map(scores, steps=10)
    assert len(found.winners) == 66
    assert found.winners[(10, 0)] == "Q4_0"
    assert found.winners[(0, 10)] == "F16"
    assert found.winners[(0, 0)] == "Q8_0"
    assert math.fsum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert winner_map(()).winners == {}


def test_pareto_front_leaves_out_the_beaten() -> None:
    assert pareto_front([(1, 5), (2, 3), (3, 4), (4, 1), (math.nan, 0)]) == (0, 1, 3)
    assert pareto_front([(1, 1), (1, 1)]) == (0, 1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_everything_off_the_front_is_beaten_by_something_on_it(costs: list[tuple[int, int, int]]) -> None:
    front = pareto_front(costs)
    assert front
    for index, row in enumerate(costs):
        beaten = any(dominates(costs[other], row) for other in front)
        assert beaten == (index not in front)


@pytest.mark.parametrize(
    ("found", "stars"),
    [
        (size_stars(1.0), 1),
        (size_stars(1.5), 2),
        (size_stars(2.99), 4),
        (size_stars(3.0), 5),
        (perplexity_stars(-1.0), 5),
        (perplexity_stars(0.5), 5),
        (perplexity_stars(2.0), 4),
        (perplexity_stars(10.01), 1),
        (speed_stars(0.5), 1),
        (speed_stars(1.1), 2),
        (speed_stars(2.5), 5),
        (quality_stars(79.9), 1),
        (quality_stars(97.0), 4),
        (quality_stars(100.0), 5),
        (quality_stars(math.nan), None),
        (perplexity_stars(math.nan), None),
    ],
)
def test_stars_follow_the_written_rule(found: int | None, stars: int | None) -> None:
    assert found == stars


def test_overlapping_intervals_dominate_nothing() -> None:
    small_good, large_bad = ((1, 1), (2, 3)), ((2, 2), (4, 5))
    assert surely_dominates(small_good, large_bad)
    assert not surely_dominates(small_good, ((2, 2), (2.5, 5)))
    assert not surely_dominates(small_good, small_good)
    assert not surely_dominates(((1, 1), (-math.inf, math.inf)), large_bad)
    assert surely_dominates(((1, 1), (3, 3)), ((2, 2), (3, 3)))
    assert sure_pareto_front([small_good, large_bad, ((2, 2), (2.5, 5))]) == (0, 2)


intervals = st.tuples(st.integers(0, 9), st.integers(0, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(st.tuples(intervals, intervals), min_size=1, max_size=10))
def test_the_sure_front_holds_the_plain_one(costs: list[tuple[tuple[int, int], ...]]) -> None:
    """Whatever the true figures are inside their intervals, a point off the sure front is beaten."""
    front = sure_pareto_front(costs)
    for ends in (0, 1):
        assert set(front) >= {
            index
            for index in pareto_front([[one[ends] for one in row] for row in costs])
            if not any(surely_dominates(other, costs[index]) for other in costs)
        }
    for index in set(range(len(costs))) - set(front):
        assert any(surely_dominates(costs[other], costs[index]) for other in front)
