"""Q7 and Q13: the least format acceptable for each use, by allowances that the student can change in lab.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labctl.lab.config import Q13_LIMITS
from labctl.report.rules import SUMS, Answer, increase_words, is_smaller, is_worse
from labctl.report.text import known, significant, size, words

Rows = Mapping[str, Mapping[str, Any]]
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
_COLUMNS = {
    "ppl_increase_pct": ("ppl_increase_high_pct", "perplexity increase at most {} % with its whole interval"),
    "kld_mean": ("kld_mean_high", "mean KL divergence at most {} nats with its whole interval"),
    "same_top_pct": ("same_top_low_pct", "same top token as the baseline at {} % of places or more, whole interval"),
    "sums_lost_pct": (
        f"{SUMS}_n",
        "at most {} percentage points fewer small sums right than the baseline, and no loss of probe answers that"
        " McNemar's test shows",
    ),
}
_NAMES = {
    "ppl_increase_pct": "increase of perplexity",
    "kld_mean": "KL divergence",
    "same_top_pct": "same top token",
    "sums_lost_pct": "small sums",
}


def reasoning(rows: Rows, base: str, limits: Mapping[str, float]) -> Answer:
    """Q7: the least format for sums, with what speaks for and against; the pick is Q13's for maths."""
    answer = _least(rows, base, MATHS, limits)
    rule = (
        f"The smallest file ({base} counts too) within the allowances that Q13 has for maths: {answer.rule}. {base}"
        f" itself must get at least {BASELINE_AT_LEAST_PCT:g} % of the sums right. Q10 asks another question, how a"
        " whole text is predicted, so its answer can be another format."
    )
    scored = [name for name in rows if _has_sums(rows[name])]
    if answer.pick is None or base not in scored:
        return Answer(rule=rule, text=f"{answer.text[0].upper()}{answer.text[1:]}.")
    pick = answer.pick
    sized = f" ({size(rows[pick]['size_bytes'])})" if known(rows[pick]["size_bytes"]) else ""
    text = f"{pick}{sized}: {_sums(rows[pick])} right; {base}: {_sums(rows[base])}."
    refused = [name for name in scored if name not in (pick, base) and not _within(rows, name, base, MATHS, limits)]
    if refused:
        text += f" Not acceptable: {words(f'{name} ({_sums(rows[name])})' for name in refused)}."
    ahead = [
        name
        for name in scored
        if name not in refused
        and rows[name][f"{SUMS}_correct"] < rows[pick][f"{SUMS}_correct"]
        and rows[name]["size_bytes"] > rows[pick]["size_bytes"]
    ]
    if ahead:
        listed = words(f"{name} ({_sums(rows[name])})" for name in ahead)
        text += f" {listed} scored lower although larger: differences this small can be chance and give no order."
    return Answer(rule=rule, text=text, pick=pick)


def minimum_formats(rows: Rows, base: str, limits: Mapping[str, float]) -> list[tuple[str, Answer]]:
    """Q13: the smallest file within each use's allowances.

    Args:
        limits: as from `LabConfig.q13_limits`; what it leaves out has its default.
    Returns: name of the use -> the rule with its reason, and the format.
    """
    return [(use.name, _least(rows, base, use, limits)) for use in USES]


def _asked(rows: Rows, use: Use, limits: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Allowances of a use that were measured, and the names of those that were not."""
    merged = {**Q13_LIMITS, **limits}
    mine = {name: merged[f"{use.key}_{name}"] for name in _COLUMNS if f"{use.key}_{name}" in merged}
    asked = {name: bar for name, bar in mine.items() if any(known(row.get(_COLUMNS[name][0])) for row in rows.values())}
    return asked, [name for name in mine if name not in asked]


def _least(rows: Rows, base: str, use: Use, limits: Mapping[str, float]) -> Answer:
    asked, unasked = _asked(rows, use, limits)
    rule = "; ".join(_COLUMNS[name][1].format(f"{bar:g}") for name, bar in asked.items())
    rule = f"{rule or 'nothing'} ({use.reason})"
    if unasked:
        rule += f"; not asked, because not measured: {words(_NAMES[name] for name in unasked)}"
    sized = {name: row for name, row in rows.items() if name != base and known(row["size_bytes"])}
    judged = [name for name, row in sized.items() if any(known(row.get(_COLUMNS[one][0])) for one in asked)]
    if len(rows) == 1:
        return Answer(rule=rule, text=f"this lab has no format but {base}")
    if not judged:
        return Answer(rule=rule, text="not measured")
    if "sums_lost_pct" in asked and not _has_sums(rows[base]):
        return Answer(rule=rule, text=f"not measured: the sums of {base}, with which all others are compared")
    if "sums_lost_pct" in asked and _right_pct(rows[base]) < BASELINE_AT_LEAST_PCT:
        fewer = f"fewer than the {BASELINE_AT_LEAST_PCT:g} % that a comparison needs"
        return Answer(rule=rule, text=f"none: {base} itself gets only {_sums(rows[base])} right, {fewer}")
    within = [name for name in judged if is_smaller(rows[name]) and _within(rows, name, base, use, limits)]
    if not within:
        return Answer(rule=rule, text=f"{base} (no smaller file is within it)", pick=base)
    pick = min(within, key=lambda name: float(rows[name]["size_bytes"]))
    row = rows[pick]
    figures = []
    if "ppl_increase_pct" in asked:
        figures.append(increase_words(row))
    if "kld_mean" in asked:
        figures.append(f"KL {significant(row['kld_mean'])} nats")
    if "same_top_pct" in asked:
        figures.append(f"same top token {row['same_top_pct']:.1f} %")
    if "sums_lost_pct" in asked:
        figures.append(f"sums {_sums(row)}")
    return Answer(rule=rule, text=f"{pick}: {', '.join(figures)}" if figures else pick, pick=pick)


def _within(rows: Rows, name: str, base: str, use: Use, limits: Mapping[str, float]) -> bool:
    """Whether a format keeps every allowance that could be asked."""
    return all(_meets(rows, name, base, one, bar) for one, bar in _asked(rows, use, limits)[0].items())


def _meets(rows: Rows, name: str, base: str, one: str, bar: float) -> bool:
    row, column = rows[name], _COLUMNS[one][0]
    if name == base:
        return True
    if not known(row.get(column)):
        return False
    if one == "same_top_pct":
        return bool(row[column] >= bar)
    if one == "sums_lost_pct":
        return _right_pct(rows[base]) - _right_pct(row) <= bar and not is_worse(row)
    return bool(row[column] <= bar)


def _has_sums(row: Mapping[str, Any]) -> bool:
    return bool(row.get(f"{SUMS}_n", 0) > 0)


def _right_pct(row: Mapping[str, Any]) -> float:
    return float(100 * row[f"{SUMS}_correct"] / row[f"{SUMS}_n"])


def _sums(row: Mapping[str, Any]) -> str:
    return f"{row[f'{SUMS}_correct']:.0f} of {row[f'{SUMS}_n']:.0f}"
