"""Perplexity with `--chunks auto`: which chunks each format needs, and when its verdict is settled.

The chunks are visited in one shuffled order. Every format gets the first 12, so that absolute perplexities stand on a
common set; from there a format goes on only while its verdict on this text is open, in blocks that grow by half, and
the baseline only as far as somebody needs it. The verdict that is forecast to be cheapest comes first. One that would
cost many times what was spent is given up, unless the lab is asked to settle all.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labctl.executors.base import OnProgress
from labctl.records.arrays import FloatArray, load_rows
from labctl.steps.base import Running
from labctl.steps.perplexity.increase import chunk_differences
from labctl.steps.perplexity.record import COMMON_CHUNKS, PerplexityRun
from labctl.steps.perplexity.scorer import chunk_order
from labctl.steps.perplexity.sequence import chunks_to_settle, is_futile, settle
from labctl.steps.perplexity.step import ORDER_SEED, PERPLEXITY, RiderOf, measure, nll_path, no_rider

if TYPE_CHECKING:
    from labctl.steps.perplexity.keep import Enough

_GROWTH = 1.5
_FIRST_BLOCK = 4  # under a time budget: whatever it allows, all formats get alike


def block_end(n_chunks: int) -> int:
    """Where the block ends that this chunk (from 1) is in: 12, 18, 27, 41, ...; the same for every run and format."""
    size = COMMON_CHUNKS
    while size < n_chunks:
        size = math.ceil(_GROWTH * size)
    return size


def next_block(
    differences: Mapping[str, FloatArray], n_text: int, limit: float, patience: float
) -> tuple[str, int] | None:
    """Which format reads on, and up to how many chunks: the one whose verdict is forecast to be the cheapest.

    What the baseline has to read for it does not count: then a run that was killed while it did goes on as it would
    have.

    Args:
        differences: format -> (n,) float64, nats: its chunk differences in the order of the visit.
        limit: largest acceptable increase, as a fraction.
        patience: a verdict is given up once its forecast is so many times the chunks that the format has.
    Returns: None when every verdict on this text stands or is given up.
    """
    costs = {}
    for name, values in differences.items():
        if values.size < n_text and np.isfinite(values).all():
            n_needed = chunks_to_settle(values, n_text, limit) if values.size > 1 else COMMON_CHUNKS
            is_open = settle(values, n_text, limit).verdict == "undecided"
            if is_open and not is_futile(values, n_text, limit, patience):
                costs[name] = n_needed - values.size
    if not costs:
        return None
    name = min(costs, key=costs.__getitem__)
    return name, min(n_text, block_end(differences[name].size + 1))


class _Auto:
    """One adaptive run: what each format has, and what is left of the budget."""

    def __init__(self, running: Running, rider_of: RiderOf) -> None:
        self.lab = running.lab
        self._rider_of = rider_of
        self._running = running
        self.runs: dict[str, PerplexityRun] = {}
        self._begun = time.monotonic()

    @property
    def n_text(self) -> int:
        """Chunks of the text."""
        return self.runs[self.lab.model.baseline].n_chunks_text

    def left_s(self) -> float | None:
        budget = self.lab.config.budget_s
        return None if budget is None else budget - (time.monotonic() - self._begun)

    def out_of_time(self) -> bool:
        left = self.left_s()
        return left is not None and left <= 0

    def measure(self, label: str, n_first: int, *, until_settled: bool = False) -> bool:
        """Bring a format to its first n chunks, or to a settled verdict before that."""
        lab = self.lab
        known = self.runs.get(label)

        def work(on_progress: OnProgress) -> None:
            enough = self._enough() if until_settled else None
            rider = None if until_settled else self._rider_of(label)
            new = measure(
                lab, label, on_progress, n_first=n_first, enough=enough, deadline_s=self.left_s(), rider=rider
            )
            if known is not None:
                new = dataclasses.replace(
                    new,
                    wall_s=known.wall_s + new.wall_s,
                    n_tokens_evaluated=known.n_tokens_evaluated + new.n_tokens_evaluated,
                    peak_rss_bytes=max(known.peak_rss_bytes, new.peak_rss_bytes),
                )
            self.runs[label] = new

        n_new = n_first - (known.n_chunks if known is not None else 0)
        case = PERPLEXITY.case(lab, label)
        expected_s = PERPLEXITY.expected_s(lab, case, self._running.rates) * max(0, n_new) / COMMON_CHUNKS
        return self._running.attempt(PERPLEXITY.name, case, expected_s, work)

    def rows(self, name: str) -> FloatArray:
        """NLL of a format's chunks in the order of the visit: (n_chunks, n_scored), nats; NaN where not measured."""
        nll = load_rows(nll_path(self.lab, name))
        order = chunk_order(self.n_text, ORDER_SEED)
        return np.zeros((0, 0)) if nll is None else nll[order]

    def differences(self, name: str) -> FloatArray:
        """A format's chunk differences from the baseline in the order of the visit, as far as both were read."""
        return chunk_differences(self.rows(name), self.rows(self.lab.model.baseline))

    def begun_block(self, name: str, n_common: int) -> int:
        """Where the block ends that a run was killed in, of a format that is still open; 0 if it is in none."""
        differences = self.differences(name)
        n, end = differences.size, min(self.n_text, block_end(differences.size))
        if n <= n_common or n == end or not np.isfinite(differences).all():
            return 0
        return end if settle(differences, self.n_text, self.lab.config.limit).verdict == "undecided" else 0

    def _enough(self) -> Enough:
        """A format has enough chunks once its verdict on this text is settled."""
        base = self.rows(self.lab.model.baseline)

        def enough(nll: FloatArray) -> bool:
            differences = chunk_differences(nll, base[: len(nll)])
            return settle(differences, self.n_text, self.lab.config.limit).verdict != "undecided"

        return enough


def run_auto(
    running: Running, labels: Sequence[str], rider_of: RiderOf = no_rider, n_common: int = COMMON_CHUNKS
) -> None:
    """Measure perplexity until every verdict is settled, the text is used up, or the budget is spent.

    Args:
        labels: formats whose file is there, the baseline first.
        rider_of: another step's part in a format's task, if it has one.
        n_common: chunks that every format gets: more of them where the other step looks at more.
    """
    lab = running.lab
    auto = _Auto(running, rider_of)
    baseline = lab.model.baseline
    first_sizes = (n_common,) if lab.config.budget_s is None else (_FIRST_BLOCK, n_common)
    for size in first_sizes:
        for name in labels:
            if not auto.out_of_time() and (name in auto.runs or size == first_sizes[0]):
                auto.measure(name, size)
    patience = math.inf if lab.config.settle else lab.config.patience
    waiting = [name for name in auto.runs if name != baseline] if baseline in auto.runs else []
    begun = [(name, size) for name in waiting if (size := auto.begun_block(name, n_common))]
    while waiting and not auto.out_of_time():
        if begun:
            name, size = begun.pop()
        else:
            differences = {name: auto.differences(name) for name in waiting}
            block = next_block(differences, auto.n_text, lab.config.limit, patience)
            if block is None:
                break
            name, size = block
        if auto.runs[baseline].n_chunks < size and not auto.measure(baseline, size):
            break
        if not auto.out_of_time() and not auto.measure(name, size, until_settled=True):
            waiting.remove(name)
    for name, run in auto.runs.items():
        PERPLEXITY.write(lab.folder, PERPLEXITY.case(lab, name), run)
