"""Perplexity with `--chunks auto`: which chunks each format needs, and when its verdict is settled.

The chunks are visited in one shuffled order. Every format gets the first 32, so that absolute perplexities stand on a
common set; from there a format goes on only while its verdict against the baseline is open, in blocks that grow by
half, and the baseline only as far as somebody needs it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from labctl.executors.child import OnProgress
from labctl.lab.lab import Lab
from labctl.records.store import write_record
from labctl.steps.perplexity.record import COMMON_CHUNKS, PerplexityRun, StopRule
from labctl.steps.perplexity.step import ALPHA, ORDER_SEED, Attempt, RiderOf, measure, nll_path, no_rider

_GROWTH = 1.5
_FIRST_BLOCKS = (8, 16, COMMON_CHUNKS)  # under a time budget: whatever it allows, all formats get alike


def settled(lab: Lab, run: PerplexityRun) -> bool:
    """Whether a format's verdict against the baseline is settled by the chunks measured so far."""
    from labctl.records.arrays import load_nll
    from labctl.steps.perplexity.increase import chunk_differences
    from labctl.steps.perplexity.scorer import chunk_order
    from labctl.steps.perplexity.sequence import settle

    nll, base = (load_nll(nll_path(lab, label)) for label in (run.format, lab.model.baseline))
    if nll is None or base is None:
        return False
    visited = chunk_order(run.n_chunks_text, ORDER_SEED)[: run.n_chunks]
    differences = chunk_differences(nll[visited], base[visited])
    return settle(differences, limit=lab.config.limit, alpha=ALPHA).verdict != "undecided"


class _Auto:
    """One adaptive run: what each format has, and what is left of the budget."""

    def __init__(
        self, lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float, rider_of: RiderOf
    ) -> None:  # fmt: skip
        self.lab = lab
        self._rider_of = rider_of
        self.labels = labels
        self.runs: dict[str, PerplexityRun] = {}
        self._attempt = attempt
        self._cost = cost / max(1, len(labels) * COMMON_CHUNKS)
        self._begun = time.monotonic()

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
        stop = None
        if until_settled:
            stop = StopRule(
                baseline_nll_path=str(nll_path(lab, lab.model.baseline)),
                limit=lab.config.limit,
                alpha=ALPHA,
                at_least=COMMON_CHUNKS,
            )

        def work(on_progress: OnProgress) -> None:
            rider = None if until_settled else self._rider_of(label)
            new = measure(
                lab, label, on_progress, n_first=n_first, stop=stop, deadline_s=self.left_s(), rider=rider
            )  # fmt: skip
            if known is not None:
                new = dataclasses.replace(
                    new,
                    wall_s=known.wall_s + new.wall_s,
                    n_tokens_evaluated=known.n_tokens_evaluated + new.n_tokens_evaluated,
                    peak_rss_bytes=max(known.peak_rss_bytes, new.peak_rss_bytes),
                )
            self.runs[label] = new

        n_new = n_first - (known.n_chunks if known is not None else 0)
        return self._attempt("perplexity", label, self._cost * max(0, n_new), work)


def run_auto(
    lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float, rider_of: RiderOf = no_rider
) -> None:  # fmt: skip
    """Measure perplexity until every verdict is settled, the text is used up, or the budget is spent.

    Args:
        labels: formats whose file is there, the baseline first.
        cost: of the whole step, for the progress display.
        rider_of: another step's part in a format's task, if it has one.
    """
    auto = _Auto(lab, attempt, labels, cost, rider_of)
    baseline = lab.model.baseline
    for size in (COMMON_CHUNKS,) if lab.config.budget_s is None else _FIRST_BLOCKS:
        for label in labels:
            if not auto.out_of_time() and (label in auto.runs or size == _first_size(lab)):
                auto.measure(label, size)
    if baseline in auto.runs:
        size = COMMON_CHUNKS
        n_text = auto.runs[baseline].n_chunks_text
        open_labels = _open(lab, auto.runs)
        while open_labels and size < n_text and not auto.out_of_time():
            size = min(n_text, int(size * _GROWTH))
            if not auto.measure(baseline, size):
                break
            done = [auto.measure(label, size, until_settled=True) for label in open_labels if not auto.out_of_time()]
            if not any(done):
                break
            open_labels = _open(lab, auto.runs)
    for label, run in auto.runs.items():
        write_record(lab.folder.record_path("perplexity", label), run)


def _first_size(lab: Lab) -> int:
    return COMMON_CHUNKS if lab.config.budget_s is None else _FIRST_BLOCKS[0]


def _open(lab: Lab, runs: dict[str, PerplexityRun]) -> list[str]:
    """Formats whose verdict is open, those with the fewest chunks first."""
    waiting = [
        label
        for label, run in runs.items()
        if label != lab.model.baseline and run.n_chunks < run.n_chunks_text and not settled(lab, run)
    ]
    return sorted(waiting, key=lambda label: runs[label].n_chunks)
