"""The combined scores, how far they order the formats, the stars and the map of winners: pure arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labctl.lab.config import Weights
from labctl.report.order import Names, Order, Pair

"""Weight of size, quality and speed, in this order."""
Leads = Mapping[Names, Weights]
"""(One, other) -> how much each term of the one is at least above the other's, by the intervals; may be negative."""

MAP_STEPS = 50

STARS_RULE = (
    "Size: how many times smaller than the baseline; 1.5 times or more gives 2 stars, 2 gives 3, 2.5 gives 4, 3 gives"
    " 5; less 1.",
    "Perplexity: the increase over the baseline; up to 0.5 % gives 5 stars, up to 2 % 4, up to 5 % 3, up to 10 % 2,"
    " more 1.",
    "Speed: the speed-up of generation over the baseline; 1.1 times or more gives 2 stars, 1.5 gives 3, 2 gives 4, 2.5"
    " gives 5; less 1.",
    "Quality: of the probe questions (short questions with known answers) that the baseline answers correctly, the"
    " share that the format answers correctly too; 99 % or more gives 5 stars, 97 % 4, 92 % 3, 80 % 2, less 1.",
    "Where the 95 % interval of a figure (of the share: Wilson's) lies in more than one band, the stars of both ends"
    " are given: ★★★ to ★★★★.",
)
"""The written rule behind `size_stars`, `perplexity_stars`, `speed_stars` and `quality_stars`, in this order."""

SCORE_RULE = (
    "size_score = 1 - size / baseline size; quality_score = baseline perplexity / perplexity, over the chunks that both"
    " were measured on; speed_score = tokens per second / baseline tokens per second, which is the speed-up of Q8;"
    " score = sum of weight x term. Not normalised: speed_score can pass 1 and decide alone."
)
NORMALISED_RULE = (
    "Each of the three terms is moved and stretched so that the worst format compared has 0 and the best has 1, the"
    " baseline included; a term that is equal for all formats counts 0.5 for all. It depends on which formats take"
    " part."
)
PLACES_RULE = (
    "One format is ahead of another only if its score is higher even where quality and speed of the two differ by the"
    " least that the intervals of that difference allow, both terms at once; formats not ahead of each other share"
    " their places."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What the scores need to know about a format.

    Attributes:
        quality: baseline perplexity / perplexity.
        speedup: generation, against the baseline.
    """

    format: str
    size_bytes: float
    quality: float
    speedup: float


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
        settled: the places of `winners` at which no other format can be first as well.
    """

    steps: int
    winners: dict[tuple[int, int], str]
    settled: frozenset[tuple[int, int]] = frozenset()

    @property
    def shares(self) -> dict[str, float]:
        """Share of the grid on which each format has the highest score, 0..1, largest first."""
        names = list(self.winners.values())
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        return {name: counts[name] / len(names) for name in sorted(counts, key=lambda name: -counts[name])}

    @property
    def settled_shares(self) -> dict[str, float]:
        """Share of the grid on which each format is the only one that can be first; in the order of `shares`."""
        surely = [name for place, name in self.winners.items() if place in self.settled]
        return {name: surely.count(name) / len(self.winners) for name in self.shares}


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
        _score(one.format, (1 - one.size_bytes / base.size_bytes, one.quality, one.speedup), weights)
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


def least_leads(candidates: Sequence[Candidate], ppl: Order, tg: Order) -> Leads:
    """How much each term of one candidate is at least above another's, for every ordered pair.

    Args:
        candidates: the formats compared, the baseline first.
        ppl, tg: the orders whose pairs say how the two differ.
    Returns: size exactly; quality and speed by the intervals, minus infinity where there is none.
    """
    if not candidates:
        return {}
    base = candidates[0]
    return {
        (one.format, other.format): (
            (other.size_bytes - one.size_bytes) / base.size_bytes,
            _least_lead(ppl, (one.format, other.format), base.format),
            _least_lead(tg, (one.format, other.format), base.format),
        )
        for one, other in itertools.permutations(candidates, 2)
    }


def _least_lead(order: Order, names: Names, base: str) -> float:
    """Least difference of two terms that are ratios to the baseline: other x (one / other - 1)."""
    between = order.pairs.get(names)
    other = Pair(ratio=1.0, low=1.0, high=1.0) if names[1] == base else order.pairs.get((names[1], base))
    if between is None or other is None or not (between.low > 0 and other.high < math.inf):
        return -math.inf
    return (between.low - 1) * (other.low if between.low > 1 else other.high)


def scaled_leads(leads: Leads, literal: Sequence[Score]) -> Leads:
    """The same for the normalised terms: divided by how far each term runs over the candidates."""
    columns = list(zip(*(score.terms for score in literal), strict=True))
    spans = [max(column) - min(column) if _differ(column) else None for column in columns]

    def scaled(lead: Weights, term: int) -> float:
        span = spans[term]
        return 0.0 if span is None else lead[term] / span

    return {names: (scaled(lead, 0), scaled(lead, 1), scaled(lead, 2)) for names, lead in leads.items()}


def score_order(scores: Sequence[Score], leads: Leads, weights: Weights) -> Order:
    """The formats by score, told apart by PLACES_RULE; of equal scores the smaller file first.

    Args:
        scores: as from `literal_scores` or `normalised_scores`; their terms count, whatever they were weighed with.
        leads: of the same terms.
    """
    ranked = sorted(scores, key=lambda score: (-round(weigh(score.terms, weights), 12), -score.size_score))
    names = tuple(score.format for score in ranked)
    pairs = itertools.combinations(names, 2)
    shown = frozenset(pair for pair in pairs if pair in leads and weigh(leads[pair], weights) > 1e-12)
    return Order(names=names, shown=shown)


def winner_map(scores: Sequence[Score], leads: Leads, steps: int = MAP_STEPS) -> WinnerMap:
    """The highest score at every point of a grid over all weights that sum to 1."""
    firsts = {
        (size, quality): score_order(
            scores, leads, (size / steps, quality / steps, (steps - size - quality) / steps)
        ).first
        for size in range(steps + 1)
        for quality in range(steps + 1 - size)
        if scores
    }
    return WinnerMap(
        steps=steps,
        winners={place: names[0] for place, names in firsts.items()},
        settled=frozenset(place for place, names in firsts.items() if len(names) == 1),
    )


def weigh(terms: Weights, weights: Weights) -> float:
    """Weighted sum of the three terms; a term without weight counts nothing, whatever it is."""
    return math.fsum(term * weight for term, weight in zip(terms, weights, strict=True) if weight)


Stars = tuple[int, int]
"""Fewest and most stars that an interval allows, from 1 to 5."""


def size_stars(compression_ratio: float) -> Stars:
    """Stars of a file that is this many times smaller than the baseline."""
    return _rising((1.5, 2.0, 2.5, 3.0), compression_ratio, compression_ratio)


def perplexity_stars(low_pct: float, high_pct: float) -> Stars:
    """Stars of a perplexity increase in percent, by its interval."""
    return _rising((-10.0, -5.0, -2.0, -0.5), -high_pct, -low_pct)


def speed_stars(low: float, high: float) -> Stars:
    """Stars of a generation's speed-up over the baseline, by its interval."""
    return _rising((1.1, 1.5, 2.0, 2.5), low, high)


def quality_stars(low_pct: float, high_pct: float) -> Stars:
    """Stars of the share of the baseline's correct answers that are still correct, by its interval in percent."""
    return _rising((80.0, 92.0, 97.0, 99.0), low_pct, high_pct)


def _rising(bars: tuple[float, ...], low: float, high: float) -> Stars:
    return 1 + sum(low >= bar for bar in bars), 1 + sum(high >= bar for bar in bars)


def _scaled(values: list[float]) -> list[float]:
    if not _differ(values):
        return [0.5] * len(values)
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def _differ(values: Sequence[float]) -> bool:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return high - low > 1e-12 * max(abs(high), abs(low))


def _score(name: str, terms: Weights, weights: Weights) -> Score:
    return Score(
        format=name, size_score=terms[0], quality_score=terms[1], speed_score=terms[2], total=weigh(terms, weights)
    )
