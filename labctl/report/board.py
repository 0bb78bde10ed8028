"""The two scores of a lab: the course's own and the normalised one, and how far each orders the formats."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.lab.config import Weights
from labctl.report.figures import Figures
from labctl.report.order import Order, Orders
from labctl.report.rules import is_smaller
from labctl.report.scoring import (
    Candidate,
    Leads,
    Score,
    WinnerMap,
    least_leads,
    literal_scores,
    normalised_scores,
    scaled_leads,
    score_order,
    winner_map,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One score of the formats, at the lab's weights and at any others.

    Attributes:
        name: "literal" or "normalised".
        leads: what the terms of any two differ by at least.
    """

    name: str
    scores: tuple[Score, ...]
    weights: Weights
    leads: Leads

    def order(self, weights: Weights | None = None) -> Order:
        """The formats by score; None for the lab's weights."""
        return score_order(self.scores, self.leads, weights or self.weights)

    def score(self, name: str) -> Score:
        """The score of a format that takes part."""
        return next(score for score in self.scores if score.format == name)

    def map(self, steps: int) -> WinnerMap:
        """Who wins at which weights."""
        return winner_map(self.scores, self.leads, steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boards:
    """Both scores; the course's literal one comes first wherever the two stand together."""

    literal: Board
    normalised: Board

    @property
    def both(self) -> tuple[Board, Board]:
        return self.literal, self.normalised

    @property
    def comparable(self) -> bool:
        """Whether there are two formats to compare at all."""
        return len(self.literal.scores) > 1


def candidates(figures: Figures) -> tuple[Candidate, ...]:
    """Formats that have all three figures of the scores and save space; none if the baseline lacks a figure."""
    base = next(iter(figures))
    compared = []
    for name, row in figures.items():
        increase_pct = 0.0 if row.verdict == "baseline" else row.increase_pct
        if row.size_bytes is None or increase_pct is None or row.speedup is None:
            continue
        if name == base or is_smaller(row):
            quality = 1 / (1 + increase_pct / 100)
            compared.append(
                Candidate(format=name, size_bytes=row.size_bytes, quality=quality, speedup=row.speedup.ratio)
            )
    return tuple(compared) if compared and compared[0].format == base else ()


def boards(figures: Figures, orders: Orders, weights: Weights) -> Boards:
    """Both scores of a lab at these weights."""
    compared = candidates(figures)
    literal, scaled = literal_scores(compared, weights), normalised_scores(compared, weights)
    leads = least_leads(compared, orders.ppl, orders.tg)
    return Boards(
        literal=Board(name="literal", scores=literal, weights=weights, leads=leads),
        normalised=Board(name="normalised", scores=scaled, weights=weights, leads=scaled_leads(leads, literal)),
    )
