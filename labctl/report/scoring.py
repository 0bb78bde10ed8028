"""The combined scores, the stars, the Pareto front and the map of winners: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Weights = tuple[float, float, float]
"""Weight of size, quality and speed, in this order."""

MAP_STEPS = 50

STARS_RULE = (
    "Size: how many times smaller than the baseline; 1.5 times or more gives 2 stars, 2 gives 3, 2.5 gives 4, 3 gives"
    " 5; less 1.",
    "Perplexity: the increase over the baseline; up to 0.5 % gives 5 stars, up to 2 % 4, up to 5 % 3, up to 10 % 2,"
    " more 1.",
    "Speed: generated tokens per second against the baseline; 1.1 times or more gives 2 stars, 1.5 gives 3, 2 gives 4,"
    " 2.5 gives 5; less 1.",
    "Quality: of the probe questions (short questions with known answers) that the baseline answers correctly, the"
    " share that the format answers correctly too; 99 % or more gives 5 stars, 97 % 4, 92 % 3, 80 % 2, less 1.",
)
"""The written rule behind `size_stars`, `perplexity_stars`, `speed_stars` and `quality_stars`, in this order."""

SCORE_RULE = (
    "size_score = 1 - size / baseline size; quality_score = baseline perplexity / perplexity;"
    " speed_score = tokens per second / baseline tokens per second;"
    " score = sum of weight x term. Not normalised: speed_score can pass 1 and decide alone."
)
NORMALISED_RULE = (
    "Each of the three terms is moved and stretched so that the worst format compared has 0 and the best has 1, the"
    " baseline included; a term that is equal for all formats counts 0.5 for all. It depends on which formats take"
    " part."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the scores need to know about a format."""

    format: str
    size_bytes: float
    ppl: float
    tg_tps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A format's three terms and their weighted sum."""

    format: str
    size_score: float
    quality_score: float
    speed_score: float
    total: float

    @property
    def terms(self) -> tuple[float, float, float]:
        return (self.size_score, self.quality_score, self.speed_score)


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerMap:
    """Who has the highest score for every way to divide the weights.

    Attributes:
        steps: the grid divides each side of the triangle of weights into this many steps.
        winners: (size, quality) weights in steps -> format; speed has the rest.
    """

    steps: int
    winners: dict[tuple[int, int], str]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the grid each winner has, 0..1, largest first."""
        names = list(self.winners.values())
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        return {name: counts[name] / len(names) for name in sorted(counts, key=lambda name: -counts[name])}


def literal_scores(candidates: Sequence[Candidate], weights: Weights) -> tuple[Score, ...]:
    """The worksheet's score, as the course writes it.

    Args:
        candidates: the formats compared, the baseline first.
        weights: of size, quality and speed.
    Returns: one score a candidate, in the same order.
    """
    if not candidates:
        return ()
    base = candidates[0]
    return tuple(
        _score(
            one.format,
            (1 - one.size_bytes / base.size_bytes, base.ppl / one.ppl, one.tg_tps / base.tg_tps),
            weights,
        )
        for one in candidates
    )


def normalised_scores(candidates: Sequence[Candidate], weights: Weights) -> tuple[Score, ...]:
    """The same score with each term scaled to 0..1 over the formats compared (NORMALISED_RULE).

    Args:
        candidates: the formats compared, the baseline first.
        weights: of size, quality and speed.
    Returns: one score a candidate, in the same order.
    """
    literal = literal_scores(candidates, weights)
    columns = [_scaled([score.terms[term] for score in literal]) for term in range(3)]
    return tuple(
        _score(score.format, (columns[0][row], columns[1][row], columns[2][row]), weights)
        for row, score in enumerate(literal)
    )


def winner(scores: Sequence[Score], weights: Weights | None = None) -> str | None:
    """The format with the highest score; of equal ones the one with the better size term.

    Args:
        scores: as from `literal_scores` or `normalised_scores`.
        weights: other weights to apply to the same terms; None takes the scores' own totals.
    """
    if not scores:
        return None
    return max(
        scores,
        key=lambda score: (
            round(score.total if weights is None else weigh(score.terms, weights), 12),
            score.size_score,
        ),
    ).format


def winner_map(scores: Sequence[Score], steps: int = MAP_STEPS) -> WinnerMap:
    """The winner at every point of a grid over all weights that sum to 1."""
    return WinnerMap(
        steps=steps,
        winners={
            (size, quality): winner(scores, (size / steps, quality / steps, (steps - size - quality) / steps)) or ""
            for size in range(steps + 1)
            for quality in range(steps + 1 - size)
            if scores
        },
    )


def weigh(terms: Weights, weights: Weights) -> float:
    """Weighted sum of the three terms."""
    return math.fsum(term * weight for term, weight in zip(terms, weights, strict=True))


def pareto_front(costs: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Which points no other point beats: none is at least as good in everything and better in something.

    Args:
        costs: one row a point, lower is better in every column; rows with a NaN take no part.
    Returns: indexes of the points on the front, ascending.
    """
    known = [index for index, row in enumerate(costs) if not any(math.isnan(value) for value in row)]
    return tuple(index for index in known if not any(dominates(costs[other], costs[index]) for other in known))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse than `other` and somewhere better; lower is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


Interval = tuple[float, float]
"""Lowest and highest value that fits a measurement; twice the same for a figure that is exact."""


def surely_dominates(one: Sequence[Interval], other: Sequence[Interval]) -> bool:
    """Whether `one` is shown to be nowhere worse than `other` and somewhere better; lower is better.

    Intervals that overlap show nothing.
    """
    pairs = list(zip(one, other, strict=True))
    return all(a[1] <= b[0] for a, b in pairs) and any(a[1] < b[0] for a, b in pairs)


def sure_pareto_front(costs: Sequence[Sequence[Interval]]) -> tuple[int, ...]:
    """Which points no other point is shown to beat.

    Args:
        costs: one row a point, an interval a column, lower is better.
    Returns: indexes of the points on the front, ascending.
    """
    return tuple(
        index
        for index, row in enumerate(costs)
        if not any(surely_dominates(other, row) for place, other in enumerate(costs) if place != index)
    )


def size_stars(compression_ratio: float) -> int | None:
    """Stars of a file that is this many times smaller than the baseline; None if not measured."""
    return _rising(compression_ratio, (1.5, 2.0, 2.5, 3.0))


def perplexity_stars(ppl_increase_pct: float) -> int | None:
    """Stars of a perplexity increase in percent; None if not measured."""
    return None if math.isnan(ppl_increase_pct) else 1 + sum(ppl_increase_pct <= bar for bar in (0.5, 2.0, 5.0, 10.0))


def speed_stars(speedup: float) -> int | None:
    """Stars of a generation speed against the baseline's; None if not measured."""
    return _rising(speedup, (1.1, 1.5, 2.0, 2.5))


def quality_stars(kept_pct: float) -> int | None:
    """Stars of the share of the baseline's correct answers that are still correct, in percent; None if not measured."""
    return _rising(kept_pct, (80.0, 92.0, 97.0, 99.0))


def _rising(value: float, bars: tuple[float, ...]) -> int | None:
    return None if math.isnan(value) else 1 + sum(value >= bar for bar in bars)


def _scaled(values: list[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high - low <= 1e-12 * max(abs(high), abs(low)):
        return [0.5] * len(values)
    return [(value - low) / (high - low) for value in values]


def _score(name: str, terms: Weights, weights: Weights) -> Score:
    return Score(
        format=name, size_score=terms[0], quality_score=terms[1], speed_score=terms[2], total=weigh(terms, weights)
    )
