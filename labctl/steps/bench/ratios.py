"""How well the speeds are known: ratios within rounds, their intervals, when to stop, and what to warn of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from labctl.steps.bench.record import SpeedRun, SpeedVisit
from labctl.steps.intervals import median_ranks

PRECISE = 0.02
"""A ratio is known well enough once its 95 % interval reaches at most 2 % of it to either side."""
DRIFT = 0.10
STALLS = 0.25
Test = Literal["pp", "tg"]
TESTS: tuple[Test, ...] = ("tg", "pp")
_TASKS: dict[Test, str] = {"tg": "generating text", "pp": "reading a prompt"}

RATIO_RULE = (
    "in each round, the median time of the baseline over the median time of the format (generation: over the single"
    " tokens, so that a stalled token changes nothing), and of these ratios the median over the rounds; its 95 %"
    " interval by order statistics, or with two to five rounds by their range (Lord 1947); one round gives none"
)
_RANGES = {2: 6.354, 3: 1.342, 4: 0.738, 5: 0.560}
"""How many ranges the median of so many normal values lies off the middle at most in 95 of 100 cases.

Source: Lord, Biometrika 34 (1947), The use of range in place of standard deviation in the t-test; there for the mean,
here for the median (numerically, 4 million samples each).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as fast one format is as another; low and high are infinitely wide for a single round."""

    ratio: float
    low: float
    high: float
    n_rounds: int

    @property
    def half_width(self) -> float:
        """How far the interval reaches to its wider side, as a share of the ratio."""
        return max(self.high / self.ratio, self.ratio / self.low if self.low else math.inf) - 1


def round_seconds(visits: Sequence[SpeedVisit], test: Test, *, by_token: bool = True) -> dict[int, float]:
    """Round -> seconds, median over the repetitions of a round: of a prompt, or of a single token of a generation.

    Args:
        by_token: False takes whole generations, for visits that did not record their tokens.
    """
    found: dict[int, list[float]] = {}
    for visit in visits:
        if test == "pp":
            seconds = list(visit.pp_s)
        elif by_token:
            seconds = [second for repetition in visit.token_s for second in repetition]
        else:
            seconds = list(visit.tg_s)
        found.setdefault(visit.round, []).extend(seconds)
    return {number: statistics.median(seconds) for number, seconds in found.items() if seconds}


def has_tokens(visits: Sequence[SpeedVisit]) -> bool:
    """Whether every visit recorded its single tokens."""
    return all(any(visit.token_s) for visit in visits)


def visits_ratio(visits: Sequence[SpeedVisit], base: Sequence[SpeedVisit], test: Test) -> Ratio | None:
    """Speed of some visits against others of the same rounds, by RATIO_RULE; None without a round that has both."""
    by_token = has_tokens(visits) and has_tokens(base)
    mine, theirs = (round_seconds(one, test, by_token=by_token) for one in (visits, base))
    return median_ratio([theirs[number] / mine[number] for number in mine if number in theirs])


def round_ratio(run: SpeedRun, base: SpeedRun, test: Test) -> Ratio | None:
    """Speed of a format against another one's."""
    return visits_ratio(run.visits, base.visits, test)


def median_ratio(ratios: Sequence[float]) -> Ratio | None:
    """The median of the rounds' ratios with its 95 % interval, by RATIO_RULE."""
    n = len(ratios)
    if n == 0:
        return None
    ordered = sorted(ratios)
    # The middle of two rounds is their geometric mean, so that the ratio of B to A is one over that of A to B.
    middle = math.sqrt(ordered[(n - 1) // 2] * ordered[n // 2])
    if n == 1:
        return Ratio(ratio=middle, low=0.0, high=math.inf, n_rounds=1)
    if n in _RANGES:
        reach = (ordered[-1] / ordered[0]) ** _RANGES[n]
        return Ratio(ratio=middle, low=middle / reach, high=middle * reach, n_rounds=n)
    low, high = median_ranks(n)
    return Ratio(ratio=middle, low=ordered[low], high=ordered[high], n_rounds=n)


def half_widths(speed: Mapping[str, SpeedRun], base: str) -> dict[tuple[str, Test], float]:
    """(Format, test) -> how far the interval of its ratio reaches; empty without the baseline."""
    return {key: ratio.half_width for key, ratio in _ratios(speed, base).items()}


def _ratios(speed: Mapping[str, SpeedRun], base: str) -> dict[tuple[str, Test], Ratio]:
    return {
        (name, test): ratio
        for name, run in speed.items()
        for test in TESTS
        if base in speed and name != base and (ratio := round_ratio(run, speed[base], test)) is not None
    }


def ending(
    speed: Mapping[str, SpeedRun],
    formats: Sequence[str],
    *,
    spent_s: float,
    min_rounds: int,
    max_rounds: int,
    budget_s: float,
) -> str:
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
    """How many times as long the slowest round took as the fastest one."""
    seconds = round_seconds(run.visits, test, by_token=False).values()
    return max(seconds) / min(seconds) if seconds else 1.0


def stalls(run: SpeedRun) -> float:
    """How many times as long generations took as their tokens usually do: 1 where no token was held up."""
    if not run.tg_tps or not has_tokens(run.visits):
        return 1.0
    return 1 / (run.tg_median_tps * run.token_percentile_s(50))


def speed_warnings(speed: Mapping[str, SpeedRun], base: str, min_rounds: int) -> tuple[str, ...]:
    """What a reader must know about these speeds: rounds and tokens held up, ratios not known well, few rounds."""
    found = []
    ratios = _ratios(speed, base)
    wide = {key: ratio for key, ratio in ratios.items() if ratio.half_width > PRECISE and math.isfinite(ratio.high)}
    drifts = {(name, test): drift(run, test) for name, run in speed.items() for test in TESTS}
    name, test = max(drifts, key=lambda key: drifts[key], default=(base, TESTS[0]))
    if drifts and drifts[name, test] > 1 + DRIFT:
        text = (
            f"At {_TASKS[test]} {name} took {_factor(drifts[name, test])} times as long in one round as in another:"
            " something else used the processor, or its clock changed. Speeds in tokens/second may be off by as much."
        )
        if ratios and not wide and all(math.isfinite(ratio.high) for ratio in ratios.values()):
            text += f" The speed-ups compare moments of one round and are known to ± {100 * PRECISE:g} % all the same."
        found.append(text)
    name = max(speed, key=lambda one: stalls(speed[one]), default="")
    if name and stalls(speed[name]) > 1 + STALLS:
        found.append(
            f"Tokens were held up: {name} took {_factor(stalls(speed[name]))} times as long as its tokens usually take,"
            " because something else used the processor. Its tokens/second are too low by as much; the speed-ups rest"
            " on single tokens and suffer less."
        )
    if wide:
        (name, test), ratio = max(wide.items(), key=lambda one: one[1].half_width)
        found.append(
            f"{len(wide)} of {len(ratios)} speed-ups over {base} are known to worse than ± {100 * PRECISE:g} %; least"
            f" known is {name}'s at {_TASKS[test]}: {times(ratio.ratio, ratio.low, ratio.high)}. Close other programs"
            " and run `labctl bench --force`; a longer --bench-time allows more rounds."
        )
    n_rounds = min((len(run.visits) for run in speed.values()), default=0)
    if 0 < n_rounds < min_rounds:
        found.append(f"Speed was measured in {n_rounds} of at least {min_rounds} rounds: the time allowed was over.")
    return tuple(found)


def _factor(value: float) -> str:
    return f"{value:.{1 if value < 10 else 0}f}"


def times(ratio: float, low: float, high: float) -> str:
    """A ratio with its interval, in as many digits as the interval leaves: 1.55 (1.29 to 1.65)."""
    if not (math.isfinite(ratio) and math.isfinite(high) and low > 0):
        return f"{ratio:.1f} (one round, no interval)"
    if high > 10 * low:  # hardly known: two digits each, whatever their sizes
        ends = (f"{end:.{max(0, 1 - math.floor(math.log10(end)))}f}" for end in (ratio, low, high))
        return "{} ({} to {})".format(*ends)
    width = (high - low) / 2
    digits = 2 if width == 0 else max(0, 1 - math.floor(math.log10(width)))
    digits = min(3, max(digits, -math.floor(math.log10(low))))  # the lower end is never rounded to nothing
    return f"{ratio:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
