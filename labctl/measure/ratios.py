"""How well the speeds are known: ratios to the baseline within rounds, their intervals, and what to warn of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from labctl.records_hardware import SpeedRun

PRECISE = 0.02
"""A ratio is known well enough once its 95 % interval reaches at most 2 % of it to either side."""
DRIFT = 0.10
Test = Literal["pp", "tg"]
TESTS: tuple[Test, ...] = ("tg", "pp")

RATIO_RULE = (
    "the speed against the baseline within each round (medians of the repetitions of that round), their geometric mean,"
    " and its 95 % interval by Student's t over the rounds on the logarithms"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Speed of a format against the baseline; low and high are infinitely wide for a single round."""

    ratio: float
    low: float
    high: float
    n_rounds: int

    @property
    def half_width(self) -> float:
        """How far the interval reaches above the ratio, as a share of it."""
        return self.high / self.ratio - 1


def round_seconds(run: SpeedRun, test: Test) -> dict[int, float]:
    """Round -> seconds per test, median over the repetitions of that round."""
    found: dict[int, list[float]] = {}
    for visit in run.visits:
        found.setdefault(visit.round, []).extend(visit.pp_s if test == "pp" else visit.tg_s)
    return {number: statistics.median(seconds) for number, seconds in found.items() if seconds}


def round_ratio(run: SpeedRun, base: SpeedRun, test: Test) -> Ratio | None:
    """Speed against the baseline, by RATIO_RULE; None without a round that timed both."""
    mine, theirs = round_seconds(run, test), round_seconds(base, test)
    return mean_ratio([math.log(theirs[number] / mine[number]) for number in mine if number in theirs])


def mean_ratio(logs: Sequence[float]) -> Ratio | None:
    """Geometric mean of ratios given by their logarithms, with its 95 % interval."""
    n = len(logs)
    if n == 0:
        return None
    middle = statistics.fmean(logs)
    if n == 1:
        return Ratio(ratio=math.exp(middle), low=0.0, high=math.inf, n_rounds=1)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(logs) / math.sqrt(n)
    return Ratio(ratio=math.exp(middle), low=math.exp(middle - half), high=math.exp(middle + half), n_rounds=n)


def half_widths(speed: Mapping[str, SpeedRun], base: str) -> dict[tuple[str, Test], float]:
    """(Format, test) -> how far the interval of its ratio reaches; empty without the baseline."""
    if base not in speed:
        return {}
    found = {}
    for name, run in speed.items():
        for test in TESTS:
            ratio = round_ratio(run, speed[base], test) if name != base else None
            if ratio is not None:
                found[name, test] = ratio.half_width
    return found


def ending(
    speed: Mapping[str, SpeedRun], formats: Sequence[str], *, spent_s: float, min_rounds: int, max_rounds: int,
    budget_s: float,
) -> str:  # fmt: skip
    """Why no further round is due: "rounds", "precise" or "budget"; empty while one is.

    Args:
        speed: visits of whole rounds only.
        formats: what is timed, the baseline first.
        spent_s: seconds of the rounds so far; a round that would pass the budget does not begin.
    """
    n_rounds = min((len(speed[name].visits) if name in speed else 0 for name in formats), default=0)
    if n_rounds == 0:
        return ""
    if n_rounds >= max(min_rounds, max_rounds):
        return "rounds"
    widths = half_widths({name: speed[name] for name in formats}, formats[0])
    if n_rounds >= max(2, min_rounds) and all(width <= PRECISE for width in widths.values()):
        return "precise"
    return "budget" if spent_s + spent_s / n_rounds > budget_s else ""


def drift(run: SpeedRun, test: Test) -> float:
    """How much slower the slowest round was than the fastest one, as a share."""
    seconds = round_seconds(run, test).values()
    return max(seconds) / min(seconds) - 1 if seconds else 0.0


def speed_warnings(speed: Mapping[str, SpeedRun], base: str, min_rounds: int) -> tuple[str, ...]:
    """What a reader must know about these speeds: a drifting baseline, wide intervals, too few rounds."""
    found = []
    if base in speed:
        worst, test = max((drift(speed[base], test), test) for test in TESTS)
        if worst > DRIFT:
            found.append(
                f"This machine's speed drifted while it was measured: {base}, timed in every round, was "
                f"{100 * worst:.0f} % slower in one round than in another ({test}). Trust the ratios between formats, "
                "which compare moments close to each other, more than single speeds."
            )
    wide = sorted(((width, name, test) for (name, test), width in half_widths(speed, base).items()), reverse=True)
    wide = [one for one in wide if one[0] > PRECISE and math.isfinite(one[0])]
    if wide:
        width, name, test = wide[0]
        found.append(
            f"The speeds vary more than they should: {len(wide)} of {2 * (len(speed) - 1)} ratios to {base} are known "
            f"to worse than ± {100 * PRECISE:g} %, the worst ({name}, {test}) to ± {100 * width:.1f} %. Close other "
            "programs and allow more time with bench_budget_s."
        )
    n_rounds = min((len(run.visits) for run in speed.values()), default=0)
    if 0 < n_rounds < min_rounds:
        found.append(f"Speed was measured in {n_rounds} of at least {min_rounds} rounds: the time allowed was over.")
    return tuple(found)
