"""The divergence step as a rider of a perplexity task: its part there, and what is kept of what comes back."""

from __future__ import annotations

from pathlib import Path

from labctl.errors import LabError
from labctl.records.arrays import ArrayJournal, to_ranges
from labctl.steps.divergence.record import SpoolPlan, remove_spool
from labctl.steps.perplexity.record import Part, n_scored


class Comparison:
    """One format's comparison with the baseline; or the baseline itself, whose probabilities go to the spool.

    Args:
        n_rows: chunks to compare, in the order of the visit.
        kl_path: the .npy file of the divergences; None for the baseline.
        optional: a disk that fills up ends the comparison, not the measurement beside it.
    """

    def __init__(self, spool: Path, n_rows: int, n_ctx: int, kl_path: Path | None, *, optional: bool) -> None:
        self._kl = None if kl_path is None else ArrayJournal(kl_path, 2 * n_scored(n_ctx))
        self._spool, self._n_rows, self._optional = spool, n_rows, optional
        self._given_up = False

    @property
    def part(self) -> Part:
        return SpoolPlan(
            spool_path=str(self._spool),
            n_rows=self._n_rows,
            is_baseline=self._kl is None,
            compared=() if self._kl is None else to_ranges(self._kl.rows),
            optional=self._optional,
        ).part()

    def keep(self, chunk: int, values: bytes) -> None:
        if self._kl is None or self._given_up:
            return
        try:
            self._kl.add(chunk, values)
        except LabError:
            if not self.give_up():
                raise

    def give_up(self) -> bool:
        """End the comparison, if it may be, and make room: without the spool, the watcher in the child ends it, too."""
        if self._optional:
            self._given_up = True
            remove_spool(self._spool)
        return self._optional

    def finish(self, n_chunks: int) -> None:
        if self._given_up:
            remove_spool(self._spool)
        if self._kl is not None and self._kl.rows:
            self._kl.finish(n_chunks)
