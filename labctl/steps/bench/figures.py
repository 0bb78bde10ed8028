"""Figures of the speed tests: medians with their intervals, and ratios to the baseline within rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from labctl.steps.bench.ratios import TESTS, Ratio, round_ratio, visits_speed
from labctl.steps.bench.record import SpeedRun, Test
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedFigures:
    """One test of one format.

    Attributes:
        tps: tokens per second, by SPEED_RULE.
        low_tps, high_tps: its 95 % interval; None for fewer than two undisturbed rounds.
        ms: milliseconds for the whole prompt or the whole text.
        speedup: times the baseline's speed, by RATIO_RULE; None without rounds that both were timed in.
    """

    tps: float
    low_tps: float | None
    high_tps: float | None
    ms: float
    speedup: Ratio | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFigures:
    """Both tests of one format.

    Attributes:
        token_p50_ms, token_p95_ms, token_p99_ms: latency of one generated token, percentiles over all undisturbed
            tokens; None where tokens were not timed one by one.
        n_samples: repetitions of the generation test, n_undisturbed of them undisturbed.
        n_rounds: rounds that the speed-ups rest on; None without any.
    """

    tg: SpeedFigures | None
    pp: SpeedFigures | None
    token_p50_ms: float | None
    token_p95_ms: float | None
    token_p99_ms: float | None
    n_samples: int
    n_undisturbed: int
    n_rounds: int | None

    def test(self, test: Test) -> SpeedFigures | None:
        """The figures of a test: "tg" or "pp"."""
        return self.tg if test == "tg" else self.pp


def bench_figures(records: Measured) -> dict[str, BenchFigures]:
    """Format -> its figures."""
    base = records.of(BENCH).get(records.formats[0])
    return {name: _figures(run, base) for name, run in records.of(BENCH).items()}


def _figures(run: SpeedRun, base: SpeedRun | None) -> BenchFigures:
    ratios = {test: _speedup(run, base, test) for test in TESTS}
    n_rounds = [ratio.n_rounds for ratio in ratios.values() if ratio is not None]
    has_tokens = any(seconds for visit in run.visits for seconds in visit.token_s)
    n_samples = sum(len(visit.tg_s) for visit in run.visits)
    return BenchFigures(
        tg=_test(run, "tg", ratios["tg"]),
        pp=_test(run, "pp", ratios["pp"]),
        token_p50_ms=1000 * run.token_percentile_s(50) if has_tokens else None,
        token_p95_ms=1000 * run.token_percentile_s(95) if has_tokens else None,
        token_p99_ms=1000 * run.token_percentile_s(99) if has_tokens else None,
        n_samples=n_samples,
        n_undisturbed=n_samples - sum(visit.n_disturbed("tg") for visit in run.visits),
        n_rounds=min(n_rounds) if n_rounds else None,
    )


def _test(run: SpeedRun, test: Test, speedup: Ratio | None) -> SpeedFigures | None:
    speed = visits_speed(run.visits, test, run.n_prompt)
    if speed is None:
        return None
    low, high = (speed.low, speed.high) if math.isfinite(speed.high) else (None, None)
    return SpeedFigures(
        tps=speed.tps, low_tps=low, high_tps=high, ms=1000 * run.n_tokens(test) / speed.tps, speedup=speedup
    )


def _speedup(run: SpeedRun, base: SpeedRun | None, test: Test) -> Ratio | None:
    ratio = None if base is None else round_ratio(run, base, test)
    if ratio is None or run is not base:
        return ratio
    return Ratio(ratio=1.0, low=1.0, high=1.0, n_rounds=ratio.n_rounds)  # to itself nothing is unsure
