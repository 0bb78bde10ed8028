"""How well the speeds are known: speeds and ratios over rounds, their intervals, when to stop, and what to warn of."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labctl.steps.bench.record import SpeedRun, SpeedVisit, Test
from labctl.steps.intervals import ALPHA, median_ranks, student_t

PRECISE = 0.02
"""A ratio is known well enough once its 95 % interval reaches at most 2 % of it to either side."""
DRIFT = 0.10
_MANY_MINUTES = 60
MUCH = 0.10
"""A reader is told of disturbed repetitions if they are more than this share."""
TESTS: tuple[Test, ...] = ("tg", "pp")
_TASKS: dict[Test, str] = {"tg": "generating text", "pp": "reading a prompt"}

SPEED_RULE = (
    "in each round, the median time of what was not disturbed (generation: of single tokens), and of these the median"
    " over the rounds"
)
RATIO_RULE = "in each round, the baseline's median time over the format's, and of these ratios the median over all"
INTERVAL_RULE = (
    "95 % interval by order statistics over the rounds, with two to five of them by their range (Lord 1947), and none"
    " for a single round"
)
_RANGES = {2: 6.354, 3: 1.342, 4: 0.738, 5: 0.560}
"""How many ranges the median of so many normal values lies off the middle at most in 95 of 100 cases.

Source: Lord, Biometrika 34 (1947), The use of range in place of standard deviation in the t-test; there for the mean,
here for the median (numerically, 4 million samples each).
"""
_MEDIAN_SE = math.sqrt(math.pi / 2)
"""How many times as much the median of many normal values varies as their mean; of few values less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as fast one format is as another.

    Attributes:
        low, high: 95 % interval; infinitely wide for fewer than two undisturbed rounds.
        n_rounds: rounds in which neither was disturbed; 0: it rests on disturbed ones and is a rough guess.
    """

    ratio: float
    low: float
    high: float
    n_rounds: int

    @property
    def half_width(self) -> float:
        """How far the interval reaches to its wider side, as a share of the ratio."""
        return max(self.high / self.ratio, self.ratio / self.low if self.low else math.inf) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Tokens per second, by SPEED_RULE; the attributes are those of a ratio."""

    tps: float
    low: float
    high: float
    n_rounds: int


def round_seconds(visits: Sequence[SpeedVisit], test: Test, *, disturbed: bool = False) -> dict[int, float]:
    """Round -> seconds, median over a round: of a prompt, or of a single token of a generation.

    Args:
        disturbed: take all, not only what was undisturbed.
    """
    found: dict[int, list[float]] = {}
    for visit in visits:
        found.setdefault(visit.round, []).extend(visit.all_s(test) if disturbed else visit.undisturbed_s(test))
    return {number: statistics.median(seconds) for number, seconds in found.items() if seconds}


def visits_speed(visits: Sequence[SpeedVisit], test: Test, n_prompt: int) -> Speed | None:
    """Speed in some visits, by SPEED_RULE; None if nothing was timed."""
    n_tokens = n_prompt if test == "pp" else 1
    for disturbed in (False, True):
        times = round_seconds(visits, test, disturbed=disturbed)
        found = median_ratio([n_tokens / seconds for seconds in times.values()])
        if found is not None and disturbed:
            return Speed(tps=found.ratio, low=0.0, high=math.inf, n_rounds=0)
        if found is not None:
            return Speed(tps=found.ratio, low=found.low, high=found.high, n_rounds=found.n_rounds)
    return None


def visits_ratio(
    visits: Sequence[SpeedVisit], base: Sequence[SpeedVisit], test: Test, alpha: float = ALPHA
) -> Ratio | None:
    """Speed of some visits against others of the same rounds, by RATIO_RULE; None without a round that has both.

    Args:
        alpha: accepted probability that the interval is wrong.
    """
    for disturbed in (False, True):
        mine, theirs = (round_seconds(one, test, disturbed=disturbed) for one in (visits, base))
        found = median_ratio([theirs[number] / mine[number] for number in mine if number in theirs], alpha)
        if found is not None:
            return Ratio(ratio=found.ratio, low=0.0, high=math.inf, n_rounds=0) if disturbed else found
    return None


def round_ratio(run: SpeedRun, base: SpeedRun, test: Test, alpha: float = ALPHA) -> Ratio | None:
    """Speed of a format against another one's."""
    return visits_ratio(run.visits, base.visits, test, alpha)


def median_ratio(ratios: Sequence[float], alpha: float = ALPHA) -> Ratio | None:
    """The median of the rounds' ratios (or of other positive values) with its interval.

    By INTERVAL_RULE. An interval for many pairs together is wrong less often; where that is less often than the ends of
    so few rounds are, it is that of Student's t for the ratios' logarithms, by the median's standard error.
    """
    n = len(ratios)
    if n == 0:
        return None
    ordered = sorted(ratios)
    # The middle of two rounds is their geometric mean, so that the ratio of B to A is one over that of A to B.
    middle = math.sqrt(ordered[(n - 1) // 2] * ordered[n // 2])
    if n == 1:
        return Ratio(ratio=middle, low=0.0, high=math.inf, n_rounds=1)
    if 2 * 0.5**n > alpha:
        logs = [math.log(ratio) for ratio in ratios]
        by_range = _RANGES[n] * (max(logs) - min(logs)) if alpha == ALPHA else 0.0
        reach = math.exp(by_range or student_t(alpha, n - 1) * _MEDIAN_SE * statistics.stdev(logs) / math.sqrt(n))
        return Ratio(ratio=middle, low=middle / reach, high=middle * reach, n_rounds=n)
    low, high = median_ranks(n, alpha)
    return Ratio(ratio=middle, low=ordered[low], high=ordered[high], n_rounds=n)


def ratios_over(speed: Mapping[str, SpeedRun], base: str) -> dict[tuple[str, Test], Ratio]:
    """(Format, test) -> its speed over the baseline's; empty without the baseline."""
    return {
        (name, test): ratio
        for name, run in speed.items()
        for test in TESTS
        if base in speed and name != base and (ratio := round_ratio(run, speed[base], test)) is not None
    }


def due(speed: Mapping[str, SpeedRun], formats: Sequence[str], min_rounds: int) -> tuple[str, ...]:
    """What another round times: the baseline, and formats without the fewest rounds or whose ratios are not known well.

    Args:
        formats: the baseline first.
    """
    base, ratios = formats[0], ratios_over({name: speed[name] for name in formats if name in speed}, formats[0])
    few = {name for name in formats if name not in speed or len(speed[name].visits) < max(2, min_rounds)}
    wide = {name for (name, _), ratio in ratios.items() if ratio.half_width > PRECISE}
    return tuple(name for name in formats if name == base or name in few or name in wide)


def ending(
    speed: Mapping[str, SpeedRun],
    formats: Sequence[str],
    *,
    n_rounds: int,
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
    if n_rounds == 0 or any(name not in speed for name in formats):
        return ""
    if n_rounds >= max(min_rounds, max_rounds):
        return "rounds"
    left = due(speed, formats, min_rounds)
    if n_rounds >= max(2, min_rounds) and left == (formats[0],):
        return "precise"
    return "budget" if spent_s + spent_s / n_rounds * len(left) / len(formats) > budget_s else ""


def drift(run: SpeedRun, test: Test) -> float:
    """How many times as long the slowest undisturbed round took as the fastest one."""
    seconds = round_seconds(run.visits, test).values()
    return max(seconds) / min(seconds) if seconds else 1.0


def speed_warnings(speed: Mapping[str, SpeedRun], base: str, min_rounds: int, round_s: float = 0.0) -> tuple[str, ...]:
    """What a reader must know about these speeds: a busy machine, uneven rounds, ratios not known well, few rounds.

    Args:
        round_s: seconds that a round of all formats took; 0 if that is not known.
    """
    found = []
    ratios = ratios_over(speed, base)
    wide = {key: ratio for key, ratio in ratios.items() if ratio.half_width > PRECISE and math.isfinite(ratio.high)}
    found += _busy(speed)
    drifts = {(name, test): drift(run, test) for name, run in speed.items() for test in TESTS}
    name, test = max(drifts, key=lambda key: drifts[key], default=(base, TESTS[0]))
    if drifts and drifts[name, test] > 1 + DRIFT:
        text = (
            f"At {_TASKS[test]} {name} took {_factor(drifts[name, test])} times as long in one round as in another,"
            " though nothing was seen to keep its threads from computing. Perhaps the processor's clock changed, or"
            " other programs used the memory. Speeds in tokens/second may be off by as much."
        )
        if ratios and not wide and all(math.isfinite(ratio.high) for ratio in ratios.values()):
            text += f" The speed-ups compare moments of one round and are known to ± {100 * PRECISE:g} % all the same."
        found.append(text)
    if wide:
        (name, test), ratio = max(wide.items(), key=lambda one: one[1].half_width)
        found.append(
            f"{len(wide)} of {len(ratios)} speed-ups over {base} are known to worse than ± {100 * PRECISE:g} %; least"
            f" known is {name}'s at {_TASKS[test]}: {times(ratio.ratio, ratio.low, ratio.high)}."
            f" {_remedy(max(_rounds_needed(speed[one], speed[base], kind) for one, kind in wide), round_s)}"
        )
    n_rounds = max((len(run.visits) for run in speed.values()), default=0)
    if 0 < n_rounds < min_rounds:
        found.append(f"Speed was measured in {n_rounds} of at least {min_rounds} rounds: the time allowed was over.")
    return tuple(found)


def _rounds_needed(run: SpeedRun, base: SpeedRun, test: Test) -> float:
    """About how many rounds would make a ratio precise, from how it varies between those that there are."""
    mine, theirs = (round_seconds(one.visits, test) for one in (run, base))
    logs = [math.log(theirs[number] / mine[number]) for number in mine if number in theirs]
    return (1.96 * _MEDIAN_SE * statistics.stdev(logs) / PRECISE) ** 2 if len(logs) > 1 else math.inf


def _remedy(n_rounds: float, round_s: float) -> str:
    """What a longer measurement would do, in words."""
    minutes = math.ceil(n_rounds * round_s / 60) if math.isfinite(n_rounds) else 0
    if minutes > _MANY_MINUTES:
        return "On a machine as restless as this an hour would hardly be enough: close other programs, or take another."
    if minutes:
        return f"About {minutes} min would do: `labctl bench --bench-time {minutes}m`."
    return "A longer --bench-time allows more rounds: `labctl bench --bench-time 5m`."


def _busy(speed: Mapping[str, SpeedRun]) -> list[str]:
    """How much of the work other programs disturbed, and what cannot be told for it."""
    visits = [visit for run in speed.values() for visit in run.visits]
    n_all = sum(len(visit.pp_s) + len(visit.token_s) for visit in visits)
    n_left = n_all - sum(visit.n_disturbed(test) for visit in visits for test in TESTS)
    lost = [  # a single round has no interval anyhow
        f"{name}'s at {_TASKS[test]}"
        for name, run in speed.items()
        for test in TESTS
        if (now := visits_speed(run.visits, test, run.n_prompt)) is not None and now.n_rounds < min(2, len(run.visits))
    ]
    if not lost and n_left >= (1 - MUCH) * n_all:
        return []
    if not lost:
        return [
            f"Other programs used the processor: {n_left} of {n_all} repetitions were undisturbed; only these count."
        ]
    what = lost[0] if len(lost) == 1 else f"{len(lost)} speeds, among them {lost[0]}"
    return [
        f"This machine was too busy to tell {what}: {n_left} of {n_all} repetitions were undisturbed. Close other"
        " programs and run `labctl bench --force`, or allow more time with `labctl bench --bench-time 5m`."
    ]


def _factor(value: float) -> str:
    return f"{value:.{1 if value < 10 else 0}f}"


def times(ratio: float, low: float, high: float) -> str:
    """A ratio with its interval, in as many digits as the interval leaves: 1.55 (1.29 to 1.65)."""
    if not (math.isfinite(ratio) and math.isfinite(high) and low > 0):
        return f"{ratio:.1f} (no interval)"
    if high > 10 * low:  # hardly known: two digits each, whatever their sizes
        ends = (f"{end:.{max(0, 1 - math.floor(math.log10(end)))}f}" for end in (ratio, low, high))
        return "{} ({} to {})".format(*ends)
    width = (high - low) / 2
    digits = 2 if width == 0 else max(0, 1 - math.floor(math.log10(width)))
    digits = min(3, max(digits, -math.floor(math.log10(low))))  # the lower end is never rounded to nothing
    return f"{ratio:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
