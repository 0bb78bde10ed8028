"""What comparisons 10 to 12 show: speeds beside a load, predicted, and measured again."""

from __future__ import annotations

import itertools
import math
import statistics

from benchmarks.claim import Claim, by_round
from benchmarks.records import BUSY, OURS, QUIET, THEIRS, ModelResults, Section, SpeedAgain
from benchmarks.stats import (
    AGAIN_COVERED,
    AGAIN_WITHIN,
    AGAIN_WRONG,
    BUSY_PERPLEXITY,
    BUSY_RATIO,
    BUSY_UNDISTURBED,
    PREDICTED,
    ratio,
)

_NEAR = 0.03


def busy(_model: ModelResults, section: Section) -> list[Claim]:
    base = section.busy[0].format
    pairs = [pair for pair in section.busy if pair.format != base]
    known = [pair for pair in pairs if pair.is_known]
    off = max((pair.off for pair in known), default=0.0)
    slower = max((pair.undisturbed_slower for pair in section.busy if pair.undisturbed_slower), default=math.nan)
    slowed = statistics.median(pair.all_slower for pair in section.busy)
    found = [
        Claim(
            section="10",
            what="speed-ups beside a load",
            target=BUSY_RATIO.text,
            value=off,
            result=f"{off:.3f} off at most; {len(pairs) - len(known)} of {len(pairs)} undecided",
            met=BUSY_RATIO.met(off),
        ),
        Claim(
            section="10",
            what="undisturbed times beside a load, of each format and test",
            target=BUSY_UNDISTURBED.text,
            value=slower,
            result=f"{slower:.3f} at most, where all times together are {slowed:.2f} (median)",
            met=BUSY_UNDISTURBED.met(slower),
        ),
    ]
    for side, target in ((OURS, BUSY_PERPLEXITY), (THEIRS, None)):
        label = section.samples[0].format
        one = ratio(*(by_round(section.samples, side, label, state, "wall_s") for state in (BUSY, QUIET)))
        found.append(
            Claim(
                section="10",
                what=f"perplexity step beside a load, {side}",
                target=target.text if target is not None else "none: for comparison",
                value=one.value,
                result=f"{one.value:.2f} times ({one.ours:.1f} s against {one.theirs:.1f} s)",
                met=target is None or target.met(one.value),
            )
        )
    return found


def predictions(_model: ModelResults, section: Section) -> list[Claim]:
    cache = section.settings["cache_bytes"] or 0
    told = [one for one in section.predictions if one.off is not None]
    large = [one for one in told if one.size_bytes > cache]
    off = max((abs(one.off or 0.0) for one in large), default=math.nan)
    if not large:
        return []
    return [
        Claim(
            section="11",
            what="predicted tokens per second of generation",
            target=PREDICTED.text,
            value=off,
            result=f"{off:.3f} off at most, {len(large)} of {len(section.predictions)} files; {len(told) - len(large)}"
            f" in the cache, {len(section.predictions) - len(told)} of types never timed",
            met=PREDICTED.met(off),
        )
    ]


def again(_model: ModelResults, section: Section) -> list[Claim]:
    """Two quiet runs against each other, and every run beside the load against all quiet ones together."""
    by_what: dict[tuple[str, str, str], list[SpeedAgain]] = {}
    for one in section.again:
        if one.state == QUIET and one.is_known:
            by_what.setdefault(one.what, []).append(one)
    pairs = [pair for runs in by_what.values() for pair in itertools.combinations(runs, 2)]
    n_near = sum(abs(one.ratio / other.ratio - 1) <= _NEAR for one, other in pairs)
    n_covered = sum(one.low <= other.ratio <= one.high for pair in pairs for one, other in (pair, pair[::-1]))
    truth = {what: statistics.median(one.ratio for one in runs) for what, runs in by_what.items()}
    found = []
    for what, n, n_all, target in (
        ("speed-ups of two quiet runs", n_near, len(pairs), AGAIN_WITHIN),
        ("intervals of a quiet run over another one's estimate", n_covered, 2 * len(pairs), AGAIN_COVERED),
    ):
        share = n / n_all if n_all else math.nan
        result = f"{share:.3f} ({n:,} of {n_all:,})"
        found.append(
            Claim(section="12", what=what, target=target.text, value=share, result=result, met=target.met(share))
        )
    for state in (QUIET, BUSY):
        runs = [one for one in section.again if one.state == state and one.what in truth]
        told = [one for one in runs if one.sign]
        wrong = [one for one in told if (truth[one.what] - 1) * one.sign < 0]
        most = max((abs(math.log(truth[one.what])) for one in wrong), default=0.0)
        by = ", by each pair's own interval" if any(one.order_low is None for one in runs) else ""
        found.append(
            Claim(
                section="12",
                what=f"formats ranked against the median of all quiet runs, {state}{by}",
                target=AGAIN_WRONG.text,
                value=len(wrong),
                result=f"{len(wrong)} of {len(told):,} that were told apart ({len(runs):,} in all)"
                + (f"; of formats that differ by {100 * math.expm1(most):.1f} % at most" if wrong else ""),
                met=AGAIN_WRONG.met(len(wrong)),
            )
        )
    return found
