"""Which formats are told apart in a figure, and which can be first: what every table, rule, chart and page asks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from labctl.report.figures import Figures
from labctl.report.text import words
from labctl.steps.bench.ratios import Ratio, round_ratio
from labctl.steps.bench.record import Test
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.answers import answer_changes, probe_names
from labctl.steps.generate.step import GENERATE
from labctl.steps.intervals import ALPHA, mcnemar_exact
from labctl.steps.measured import Measured
from labctl.steps.perplexity.figures import Floats, load_nll
from labctl.steps.perplexity.increase import chunk_differences, paired_increase
from labctl.steps.perplexity.record import COMMON_CHUNKS
from labctl.steps.perplexity.step import PERPLEXITY

Names = tuple[str, str]
SMALLER = 1.01
"""A file is smaller only if another is at least so many times as large: headers alone differ by less."""

ORDER_RULE = (
    "Formats are told apart only where an interval of the difference itself says so. Perplexity: both formats on the"
    " same chunks. Speed: the ratio of the two within rounds. Both: 95 % for all pairs of formats at once (Bonferroni)."
    " Answers: McNemar's exact test, 5 %. Size: at least 1 %. Not told apart does not mean equal."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """How many times as good the first format of a pair is as the second, with an interval by ORDER_RULE."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How far the formats are ordered in one figure.

    Attributes:
        names: formats that were measured, the best estimate first.
        shown: (better, worse): pairs that are told apart.
        pairs: the ratio of every ordered pair, where the figure is one that has ratios.
    """

    names: tuple[str, ...]
    shown: frozenset[Names]
    pairs: Mapping[Names, Pair] = field(default_factory=dict)

    def better(self, one: str, other: str) -> bool:
        """Whether the first is shown to be better than the second."""
        return (one, other) in self.shown

    def apart(self, one: str, other: str) -> bool:
        """Whether the two are told apart at all."""
        return self.better(one, other) or self.better(other, one)

    @property
    def first(self) -> tuple[str, ...]:
        """Formats that none is shown to beat, the best estimate first: one is a first place, several are a tie."""
        return tuple(name for name in self.names if not any(self.better(other, name) for other in self.names))

    def at_least(self, one: str, other: str) -> bool:
        """Whether the first is shown to be no worse than the second."""
        return (one, other) in self.pairs and self.pairs[one, other].low >= 1

    @property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """Format -> best and worst place it can have, from 1."""
        return {
            name: (
                1 + sum(self.better(other, name) for other in self.names),
                len(self.names) - sum(self.better(name, other) for other in self.names),
            )
            for name in self.names
        }

    def among(self, names: Iterable[str]) -> Order:
        """The order of these formats only."""
        kept = set(names)
        return Order(names=tuple(name for name in self.names if name in kept), shown=self.shown, pairs=self.pairs)


def order_of(values: Mapping[str, float], pairs: Mapping[Names, Pair]) -> Order:
    """An order by figures of which higher is better, told apart where a pair's whole interval lies above 1."""
    return Order(
        names=tuple(sorted(values, key=lambda name: -values[name])),
        shown=frozenset(names for names, pair in pairs.items() if pair.low > 1),
        pairs=pairs,
    )


class Orders:
    """The orders of one lab, each worked out when first asked for."""

    def __init__(self, records: Measured, figures: Figures) -> None:
        self.records, self.figures = records, figures

    @cached_property
    def size(self) -> Order:
        """By file size, the smallest first."""
        sizes = {name: row.size_bytes for name, row in self.figures.items() if row.size_bytes is not None}
        ratios = {(a, b): sizes[b] / sizes[a] for a, b in itertools.permutations(sizes, 2)}
        return Order(
            names=tuple(sorted(sizes, key=lambda name: sizes[name])),
            shown=frozenset(names for names, ratio in ratios.items() if ratio >= SMALLER),
            pairs={names: Pair(ratio=ratio, low=ratio, high=ratio) for names, ratio in ratios.items()},
        )

    @cached_property
    def ppl(self) -> Order:
        """By perplexity, the lowest first, the baseline among them."""
        nll = {name: values for name, values in load_nll(self.records).items() if name in self.figures}
        n_pairs = max(1, math.comb(len(nll), 2))
        pairs: dict[Names, Pair] = {}
        for a, b in itertools.combinations(nll, 2):
            pair = self._perplexity_pair((a, b), nll, ALPHA / n_pairs)
            if pair is not None:
                pairs[a, b], pairs[b, a] = pair, _turned(pair)
        worse = {name: 0.0 if name == self.records.formats[0] else self.figures[name].increase_pct for name in nll}
        if None in worse.values():
            worse = {name: self.figures[name].ppl for name in nll}
        return order_of({name: -value for name, value in worse.items() if value is not None}, pairs)

    def _perplexity_pair(self, names: Names, nll: Mapping[str, Floats], alpha: float) -> Pair | None:
        """How many times as high the second's perplexity is as the first's."""
        one, other = (nll[name] for name in names)
        if not (np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)).any():
            return None
        increase = paired_increase(other, one, 1 - alpha)
        low, high = increase.low, increase.high
        runs = [self.records.of(PERPLEXITY)[name] for name in names]
        seeds = {run.order_seed for run in runs if run.order_seed is not None and run.could_stop}
        if seeds:  # the end of a run hung on its figures: only bounds that hold at every look are true
            from labctl.steps.perplexity.sequence import confidence_sequence, shuffled_chunks

            visited = shuffled_chunks(runs[0].n_chunks_text, seeds.pop())
            low, high = confidence_sequence(chunk_differences(other[visited], one[visited]), alpha, COMMON_CHUNKS)
        return Pair(ratio=1 + increase.increase, low=1 + low, high=1 + high)

    @cached_property
    def tg(self) -> Order:
        """By generation speed, the fastest first."""
        return self._speed("tg")

    @cached_property
    def pp(self) -> Order:
        """By speed of reading a prompt, the fastest first."""
        return self._speed("pp")

    def speed(self, test: Test) -> Order:
        """The order of a test: "tg" or "pp"."""
        return self.tg if test == "tg" else self.pp

    def ratio(self, one: str, other: str, test: Test) -> Ratio | None:
        """How many times as fast the first is as the second, with the 95 % interval of this pair alone."""
        runs = self.records.of(BENCH)
        return round_ratio(runs[one], runs[other], test) if one in runs and other in runs else None

    def _speed(self, test: Test) -> Order:
        runs = {name: run for name, run in self.records.of(BENCH).items() if name in self.figures}
        pairs: dict[Names, Pair] = {}
        alpha = ALPHA / max(1, math.comb(len(runs), 2))
        for a, b in itertools.combinations(runs, 2):
            ratio = round_ratio(runs[a], runs[b], test, alpha)
            if ratio is not None:
                pairs[a, b] = _pair_of(ratio)
                pairs[b, a] = _turned(pairs[a, b])
        timed = {name: speed for name in runs if (speed := self.figures[name].speed(test)) is not None}
        ratios = {name: speed.speedup.ratio for name, speed in timed.items() if speed.speedup is not None}
        return order_of(ratios if len(ratios) == len(runs) else {n: speed.tps for n, speed in timed.items()}, pairs)

    @cached_property
    def answers(self) -> Order:
        """By right answers to the probe questions, the most first."""
        runs = {name: run for name, run in self.records.of(GENERATE).items() if name in self.figures and run.probes}
        probes = probe_names(self.records)
        shown = set()
        for a, b in itertools.permutations(runs, 2):
            lost, gained, _ = answer_changes(runs[a], runs[b], probes)
            if gained > lost and mcnemar_exact(lost, gained) < ALPHA:
                shown.add((a, b))
        right = {name: sum(probe.n_correct for probe in run.probes) for name, run in runs.items()}
        return Order(names=tuple(sorted(right, key=lambda name: -right[name])), shown=frozenset(shown))


def beaten_by(name: str, orders: Sequence[Order]) -> str | None:
    """A format that is shown to be no worse in any of these and better in one; None if there is none."""
    others = [other for other in orders[0].names if other != name and all(other in order.names for order in orders)]
    return next(
        (
            other
            for other in others
            if all(order.at_least(other, name) for order in orders)
            and any(order.better(other, name) for order in orders)
        ),
        None,
    )


def front(orders: Sequence[Order]) -> tuple[str, ...]:
    """The Pareto front: formats measured in all of these that none is shown to beat, in the first's order."""
    measured = [name for name in orders[0].names if all(name in order.names for order in orders)]
    return tuple(name for name in measured if beaten_by(name, orders) is None)


def tells_little(order: Order) -> bool:
    """Whether more than half of several formats can be first: then naming them is no finding."""
    return len(order.names) > 1 and len(order.first) > max(1, len(order.names) // 2)


def tied(names: Iterable[str], last: str = "or") -> str:
    """First places as words: "Q4_K_M", or "Q6_K or Q4_K_M (not told apart)"."""
    listed = list(names)
    return words(listed, last) + (" (not told apart)" if len(listed) > 1 else "")


def _pair_of(ratio: Ratio) -> Pair:
    return Pair(ratio=ratio.ratio, low=ratio.low, high=ratio.high)


def _turned(pair: Pair) -> Pair:
    """The same from the other side."""
    ratio, low, high = (1 / end if end else math.inf for end in (pair.ratio, pair.high, pair.low))
    return Pair(ratio=ratio, low=low, high=high)
