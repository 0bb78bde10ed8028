"""Which of several ready-made files to use: what is asked of it, which one to measure next, and the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from labctl.records.units import percent, rate, significant
from labctl.report.fit import GIB, FitVerdict, free_bytes
from labctl.report.text import interval, words
from labctl.steps.bench.pace import ERROR

Met = Literal["pass", "fail", "undecided"]
CLEARLY = 1.5
"""A loss that is surely larger than so many times the limit rules out files of no more bits per weight."""
_LOSS_8_5, _PER_BIT = (
    0.001,
    2.5,
)  # about what is lost at 8.5 bits a weight, and how many times as much a bit further down

ANSWER_RULE = "Taken is the smallest file that is shown to meet every limit."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is asked of a file.

    Attributes:
        ram_gib: memory of the computer, in GiB, by FIT_RULE; n_ctx: tokens of context it must have room for.
        max_loss: largest increase of perplexity over the reference, as a fraction.
        min_tps: fewest tokens per second of generation on this machine; None for any speed.
    """

    ram_gib: float
    n_ctx: int
    max_loss: float
    min_tps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What is known of a file before it is measured.

    Attributes:
        bpw: bits per weight; 0 where the file cannot be read.
        fit, need_bytes: whether it would fit, and the memory that it would need.
        tps: predicted tokens per second of generation on this machine; None where that cannot be told.
        fault: why it cannot be compared; empty if it can.
    """

    label: str
    size_bytes: int
    bpw: float = 0.0
    fit: FitVerdict = "not measured"
    need_bytes: int | None = None
    tps: float | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was measured of a file.

    Attributes:
        need_bytes: peak memory at the context that is asked for.
        loss: verdict on its increase of perplexity, None where that was not measured; the reference's is "pass".
        loss_pct, low_pct, high_pct: the increase on the text, in percent, with its 95 % interval; 0 for the reference.
        tps, low_tps, high_tps: tokens per second of generation, with a 95 % interval; None where not known.
        fault: why it could not be measured; empty if it was.
    """

    label: str
    size_bytes: int
    bpw: float
    fit: FitVerdict = "not measured"
    need_bytes: int | None = None
    loss: Met | None = None
    loss_pct: float = 0.0
    low_pct: float = 0.0
    high_pct: float = 0.0
    tps: float | None = None
    low_tps: float | None = None
    high_tps: float | None = None
    fault: str = ""

    def speed(self, limits: Limits) -> Met:
        """Whether it is fast enough."""
        if limits.min_tps is None:
            return "pass"
        if self.low_tps is None or self.high_tps is None:
            return "undecided"
        return "pass" if self.low_tps >= limits.min_tps else "fail" if self.high_tps < limits.min_tps else "undecided"

    def all_met(self, limits: Limits) -> Met:
        """Whether it meets every limit."""
        fits: Met = "pass" if self.fit in ("fits", "tight") else "undecided" if self.need_bytes is None else "fail"
        found = (fits, self.loss or "undecided", self.speed(limits))
        return "fail" if "fail" in found or self.fault else "undecided" if "undecided" in found else "pass"


def left(prospects: Sequence[Prospect], outcomes: Sequence[Outcome], limits: Limits) -> list[Prospect]:
    """What is still to be measured; first the file whose loss is expected nearest to the limit.

    A loss is expected by bits per weight and by what was measured so far.
    """
    done = {one.label for one in outcomes}
    found = [one for one in prospects if one.label not in done and not why_not(one, outcomes, limits)]
    return sorted(found, key=lambda one: (abs(math.log(expected_loss(one.bpw, outcomes) / limits.max_loss)), one.label))


def why_not(one: Prospect, outcomes: Sequence[Outcome], limits: Limits) -> str:
    """Why a file need not be measured; empty if it is to be."""
    if one.fault:
        return "cannot be compared"
    if one.fit not in ("fits", "tight"):
        return one.fit
    if is_too_slow(one, limits):
        return "too slow, as predicted"
    for other in outcomes:
        if other.all_met(limits) == "pass" and one.size_bytes >= other.size_bytes:
            return f"no smaller than {other.label}, which meets every limit"
        if other.speed(limits) == "fail" and one.size_bytes >= other.size_bytes:
            return f"no smaller than {other.label}, which is too slow"
        surely = other.loss == "fail" and other.low_pct > 100 * CLEARLY * limits.max_loss
        if surely and one.bpw <= other.bpw:
            return f"no more bits than {other.label}, which loses over {100 * CLEARLY * limits.max_loss:g} %"
    return ""


def unmeasured_words(prospects: Sequence[Prospect], outcomes: Sequence[Outcome], limits: Limits) -> str:
    """The files that were not measured, with the reason, as a sentence; empty if all were."""
    done, by_reason = {one.label for one in outcomes}, dict[str, list[str]]()
    for one in prospects:
        if one.label not in done and not one.fault:
            by_reason.setdefault(why_not(one, outcomes, limits), []).append(one.label)
    listed = "; ".join(f"{words(labels)} ({reason})" for reason, labels in by_reason.items())
    return f"Not measured: {listed}." if listed else ""


def is_too_slow(one: Prospect, limits: Limits) -> bool:
    """Whether a file would be too slow even if its predicted speed is as far off as predictions usually are."""
    return limits.min_tps is not None and one.tps is not None and one.tps * (1 + ERROR) < limits.min_tps


def expected_loss(bpw: float, outcomes: Sequence[Outcome]) -> float:
    """About what a file of so many bits per weight loses, as a fraction: a guess, for the order of measuring only.

    Each bit less is a fixed factor; what was measured moves the whole line.
    """

    def guess(bits: float) -> float:
        return _LOSS_8_5 * math.pow(_PER_BIT, 8.5 - bits)

    seen = [math.log(one.loss_pct / 100 / guess(one.bpw)) for one in outcomes if one.loss and one.loss_pct > 0]
    return guess(bpw) * math.exp(sum(seen) / len(seen) if seen else 0.0)


def pick_of(outcomes: Sequence[Outcome], limits: Limits) -> Outcome | None:
    """The answer by ANSWER_RULE; None if no file is shown to meet every limit."""
    good = [one for one in outcomes if one.all_met(limits) == "pass"]
    return min(good, key=lambda one: one.size_bytes, default=None)


def answer(
    outcomes: Sequence[Outcome], limits: Limits, reference: str, apart: Callable[[str, str], bool]
) -> tuple[str, Outcome | None]:
    """The answer in words, with its uncertainty, and the file that it names; None where nothing was measured.

    Args:
        reference: label of the file that losses are counted from.
        apart: whether the perplexities of two files are told apart.
    """
    measured = [one for one in outcomes if not one.fault]
    pick = pick_of(measured, limits)
    if pick is None:
        near = min(measured, key=lambda one: _distance(one, limits), default=None)
        if near is None:
            return "No file could be measured.", None
        is_open = near.all_met(limits) == "undecided"
        head = "None is shown to meet" if is_open else "None meets"
        return f"{head} every limit; nearest is {near.label}: {described(near, limits, reference)}.", near
    others = [one for one in measured if one != pick and one.all_met(limits) != "fail"]
    same = [one.label for one in others if not apart(pick.label, one.label)]
    told = f"; {words(same)} cannot be told apart from it in perplexity" if same else ""
    maybe = [one.label for one in measured if one.size_bytes < pick.size_bytes and one.all_met(limits) == "undecided"]
    more = f" Smaller, but undecided: {words(maybe)}." if maybe else ""
    return f"Use {pick.label}: {described(pick, limits, reference)}{told}.{more}", pick


def described(one: Outcome, limits: Limits, reference: str) -> str:
    """Memory, speed and loss of a file, each with how sure it is and the limit where that is not met."""
    parts = []
    if one.need_bytes is not None:
        need, free = (significant(n_bytes / GIB, 2) for n_bytes in (one.need_bytes, free_bytes(limits.ram_gib)))
        parts.append(f"{one.fit} ({need} of {free} GiB)")
    if one.tps is not None:
        spread = (
            "no interval"
            if one.low_tps is None or one.high_tps is None
            else (f"{rate(one.low_tps)} to {rate(one.high_tps)}")
        )
        wanted = "" if one.speed(limits) == "pass" else f"; at least {limits.min_tps:g} are asked for"
        parts.append(f"{rate(one.tps)} t/s ({spread}{wanted})")
    if one.label == reference:
        parts.append("the reference itself")
    elif one.loss is not None:
        wanted = "" if one.loss == "pass" else f"; at most {100 * limits.max_loss:g} % is asked for"
        exact = one.low_pct == one.high_pct
        spread = "on all of the text" if exact else interval(one.low_pct, one.high_pct)
        parts.append(f"loss {percent(one.loss_pct)} ({spread}{wanted})")
    return ", ".join(parts)


def _distance(one: Outcome, limits: Limits) -> tuple[int, float]:
    """How far a file is from what is asked for: limits it fails, then how much it loses."""
    fails = (one.fit not in ("fits", "tight")) + (one.loss == "fail") + (one.speed(limits) == "fail")
    return fails, one.loss_pct
