"""Figures of the noise step: below which size a difference from the baseline is no more than arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from labctl.steps.measured import Measured
from labctl.steps.noise.record import NoiseRun
from labctl.steps.noise.step import NOISE


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFigures:
    """How far the baseline is from itself.

    Attributes:
        kld_mean: of the repetition, nats a token.
        spread: root mean square over chunks of the difference of their mean NLL, nats a token.
        same_top_pct: share of tokens at which both ways find the same token most likely.
        n_at_once: tokens computed at once the second time.
    """

    kld_mean: float
    spread: float
    same_top_pct: float
    n_chunks: int
    n_tokens: int
    n_at_once: int

    @property
    def is_none(self) -> bool:
        """Whether both ways gave the same digits."""
        return self.kld_mean == 0 and self.spread == 0

    def increase_pct(self, n_chunks: int) -> float:
        """How far an increase over so many chunks may be from 0 by arithmetic alone: twice its standard error.

        The differences of chunks are taken as noise around 0.
        """
        return 100 * math.expm1(2 * self.spread / math.sqrt(n_chunks))


def noise_figures(records: Measured) -> NoiseFigures | None:
    """The baseline's noise; None where it was not measured."""
    run: NoiseRun | None = records.of(NOISE).get(records.formats[0])
    if run is None or not run.is_whole:
        return None
    return NoiseFigures(
        kld_mean=sum(run.klds) / len(run.klds),
        spread=math.sqrt(sum(value * value for value in run.differences) / len(run.differences)),
        same_top_pct=100 * sum(run.same_tops) / run.n_tokens,
        n_chunks=len(run.klds),
        n_tokens=run.n_tokens,
        n_at_once=run.n_at_once,
    )
