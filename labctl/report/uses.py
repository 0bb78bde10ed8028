"""Q7 and Q13: the least format acceptable for each use, by allowances that the student can change in lab.toml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from labctl.lab.config import Q13_LIMITS
from labctl.records.units import significant, size_text
from labctl.report.figures import Figures, FormatFigures
from labctl.report.rules import SUMS, Answer, increase_words, is_smaller, is_worse
from labctl.report.text import NOT_MEASURED, words

BASELINE_AT_LEAST_PCT = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A use of the model; `key` begins its settings in q13_limits."""

    key: str
    name: str
    reason: str


MATHS = Use(key="math", name="Math reasoning", reason="one wrong digit spoils all that follows")
USES = (
    Use(key="chatbot", name="Chatbot", reason="another word is forgiven, a wrong turn is not"),
    Use(key="code", name="Code generation", reason="one wrong token breaks a program"),
    Use(key="creative", name="Creative writing", reason="there is no one right continuation"),
    MATHS,
)
_RULES = {
    "ppl_increase_pct": "perplexity increase at most {} % with its whole interval",
    "kld_mean": "mean KL divergence at most {} nats with its whole interval",
    "same_top_pct": "same top token as the baseline at {} % of places or more, whole interval",
    "sums_lost_pct": "at most {} percentage points fewer small sums right than the baseline, and no loss of probe"
    " answers that McNemar's test shows",
}
_NAMES = {
    "ppl_increase_pct": "increase of perplexity",
    "kld_mean": "KL divergence",
    "same_top_pct": "same top token",
    "sums_lost_pct": "small sums",
}


def reasoning(figures: Figures, base: str, limits: Mapping[str, float]) -> Answer:
    """Q7: the least format for sums, with what speaks for and against; the pick is Q13's for maths."""
    answer = _least(figures, base, MATHS, limits)
    rule = (
        f"The smallest file ({base} counts too) within the allowances that Q13 has for maths: {answer.rule}. {base}"
        f" itself must get at least {BASELINE_AT_LEAST_PCT:g} % of the sums right. Q10 asks another question, how a"
        " whole text is predicted, so its answer can be another format."
    )
    scored = {name: sums for name, row in figures.items() if (sums := row.probe(SUMS)) is not None and sums.n}
    if answer.pick is None or base not in scored:
        return Answer(rule=rule, text=f"{answer.text[0].upper()}{answer.text[1:]}.")
    pick = answer.pick
    pick_bytes = figures[pick].size_bytes
    sized = "" if pick_bytes is None else f" ({size_text(pick_bytes)})"
    text = f"{pick}{sized}: {_sums(figures[pick])} right; {base}: {_sums(figures[base])}."
    refused = [name for name in scored if name not in (pick, base) and not _within(figures, name, base, MATHS, limits)]
    if refused:
        text += f" Not acceptable: {words(f'{name} ({_sums(figures[name])})' for name in refused)}."
    ahead = [
        name
        for name, sums in scored.items()
        if name not in refused
        and pick in scored
        and sums.n_correct < scored[pick].n_correct
        and (figures[name].size_bytes or 0) > (pick_bytes or math.inf)
    ]
    if ahead:
        listed = words(f"{name} ({_sums(figures[name])})" for name in ahead)
        text += f" {listed} scored lower although larger: differences this small can be chance and give no order."
    return Answer(rule=rule, text=text, pick=pick)


def minimum_formats(figures: Figures, base: str, limits: Mapping[str, float]) -> list[tuple[str, Answer]]:
    """Q13: the smallest file within each use's allowances.

    Args:
        limits: as from `LabConfig.q13_limits`; what it leaves out has its default.
    Returns: name of the use -> the rule with its reason, and the format.
    """
    return [(use.name, _least(figures, base, use, limits)) for use in USES]


def _asked(figures: Figures, use: Use, limits: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Allowances of a use that were measured, and the names of those that were not."""
    merged = {**Q13_LIMITS, **limits}
    mine = {name: merged[f"{use.key}_{name}"] for name in _RULES if f"{use.key}_{name}" in merged}
    asked = {name: bar for name, bar in mine.items() if any(_held(row, name) is not None for row in figures.values())}
    return asked, [name for name in mine if name not in asked]


def _least(figures: Figures, base: str, use: Use, limits: Mapping[str, float]) -> Answer:
    asked, unasked = _asked(figures, use, limits)
    rule = "; ".join(_RULES[name].format(f"{bar:g}") for name, bar in asked.items())
    rule = f"{rule or 'nothing'} ({use.reason})"
    if unasked:
        rule += f"; not asked, because not measured: {words(_NAMES[name] for name in unasked)}"
    sized = {name: row.size_bytes for name, row in figures.items() if name != base and row.size_bytes is not None}
    judged = [name for name in sized if any(_held(figures[name], one) is not None for one in asked)]
    if len(figures) == 1:
        return Answer(rule=rule, text=f"this lab has no format but {base}")
    if not judged:
        return Answer(rule=rule, text="not measured")
    if "sums_lost_pct" in asked and _right_pct(figures[base]) is None:
        return Answer(rule=rule, text=f"not measured: the sums of {base}, with which all others are compared")
    if "sums_lost_pct" in asked and (_right_pct(figures[base]) or 0) < BASELINE_AT_LEAST_PCT:
        fewer = f"fewer than the {BASELINE_AT_LEAST_PCT:g} % that a comparison needs"
        return Answer(rule=rule, text=f"none: {base} itself gets only {_sums(figures[base])} right, {fewer}")
    within = [name for name in judged if is_smaller(figures[name]) and _within(figures, name, base, use, limits)]
    if not within:
        return Answer(rule=rule, text=f"{base} (no smaller file is within it)", pick=base)
    pick = min(within, key=lambda name: sized[name])
    row, reasons = figures[pick], []
    if "ppl_increase_pct" in asked:
        reasons.append(increase_words(row.increase))
    if "kld_mean" in asked and row.divergence is not None:
        reasons.append(f"KL {significant(row.divergence.kld_mean)} nats")
    if "same_top_pct" in asked and row.divergence is not None:
        reasons.append(f"same top token {row.divergence.same_top_pct:.1f} %")
    if "sums_lost_pct" in asked:
        reasons.append(f"sums {_sums(row)}")
    return Answer(rule=rule, text=f"{pick}: {', '.join(reasons)}" if reasons else pick, pick=pick)


def _within(figures: Figures, name: str, base: str, use: Use, limits: Mapping[str, float]) -> bool:
    """Whether a format keeps every allowance that could be asked."""
    return all(_meets(figures, name, base, one, bar) for one, bar in _asked(figures, use, limits)[0].items())


def _meets(figures: Figures, name: str, base: str, allowance: str, bar: float) -> bool:
    row = figures[name]
    if name == base:
        return True
    value = _held(row, allowance)
    if value is None:
        return False
    if allowance == "same_top_pct":
        return value >= bar
    if allowance == "sums_lost_pct":
        return (_right_pct(figures[base]) or 0) - value <= bar and not is_worse(row.changes)
    return value <= bar


def _held(row: FormatFigures, allowance: str) -> float | None:
    """What an allowance is held against: the worse end of an interval, or the share of sums right in percent."""
    if allowance == "ppl_increase_pct":
        return None if row.increase is None else row.increase.high_pct
    if allowance == "sums_lost_pct":
        return _right_pct(row)
    if row.divergence is None:
        return None
    return row.divergence.kld_mean_high if allowance == "kld_mean" else row.divergence.same_top_low_pct


def _right_pct(row: FormatFigures) -> float | None:
    sums = row.probe(SUMS)
    return None if sums is None or not sums.n else 100 * sums.n_correct / sums.n


def _sums(row: FormatFigures) -> str:
    sums = row.probe(SUMS)
    return NOT_MEASURED if sums is None else f"{sums.n_correct} of {sums.n}"
