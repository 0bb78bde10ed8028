"""Q13: the least format acceptable for each use, by allowances that the student can change in lab.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labctl.config import Q13_LIMITS
from labctl.report.rules import BASELINE_AT_LEAST_PCT, SUMS, Answer, increase_words, is_worse
from labctl.report.text import known, significant, words

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A use of the model; `key` begins its settings in q13_limits."""

    key: str
    name: str
    reason: str


USES = (
    Use(key="chatbot", name="Chatbot", reason="another word is forgiven, a wrong turn is not"),
    Use(key="code", name="Code generation", reason="one wrong token breaks a program"),
    Use(key="creative", name="Creative writing", reason="there is no one right continuation"),
    Use(key="math", name="Math reasoning", reason="one wrong digit spoils all that follows"),
)
_COLUMNS = {
    "ppl_increase_pct": ("ppl_increase_high_pct", "perplexity increase at most {} % with its whole interval"),
    "kld_mean": ("kld_mean_high", "mean KL divergence at most {} nats with its whole interval"),
    "same_top_pct": ("same_top_low_pct", "same top token as the baseline at {} % of places or more, whole interval"),
    "sums_lost_pct": (f"{SUMS}_n", "at most {} percentage points fewer small sums right than the baseline"),
}


def minimum_formats(rows: Rows, base: str, limits: Mapping[str, float]) -> list[tuple[str, Answer]]:
    """The smallest file within each use's allowances.

    Args:
        limits: as from `LabConfig.q13_limits`; what it leaves out has its default.
    Returns: name of the use -> the rule with its reason, and the format.
    """
    merged = {**Q13_LIMITS, **limits}
    found = []
    for use in USES:
        mine = {name: merged[f"{use.key}_{name}"] for name in _COLUMNS if f"{use.key}_{name}" in merged}
        asked = {name: bar for name, bar in mine.items() if _is_measured(rows, name)}
        unasked = [name for name in mine if name not in asked]
        rule = "; ".join(_COLUMNS[name][1].format(f"{bar:g}") for name, bar in asked.items())
        rule = f"{rule or 'nothing'} ({use.reason})"
        if unasked:
            rule += f"; not asked, because not measured: {words(name.replace('_', ' ') for name in unasked)}"
        found.append((use.name, _least(rows, base, asked, rule)))
    return found


def _is_measured(rows: Rows, name: str) -> bool:
    return any(known(row.get(_COLUMNS[name][0])) for row in rows.values())


def _least(rows: Rows, base: str, asked: Mapping[str, float], rule: str) -> Answer:
    sized = {name: row for name, row in rows.items() if name != base and known(row["size_bytes"])}
    judged = [name for name, row in sized.items() if any(known(row.get(_COLUMNS[one][0])) for one in asked)]
    if not judged:
        return Answer(rule=rule, text="not measured")
    if "sums_lost_pct" in asked and not _can_add(rows[base]):
        return Answer(
            rule=rule, text=f"none: {base} itself gets fewer than half of the sums right, or has none measured"
        )
    within = [name for name in judged if all(_meets(rows, name, base, one, bar) for one, bar in asked.items())]
    if not within:
        return Answer(rule=rule, text=f"{base} (no quantized format is within it)", pick=base)
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
        figures.append(f"sums {row[f'{SUMS}_correct']:.0f} of {row[f'{SUMS}_n']:.0f}")
    return Answer(rule=rule, text=f"{pick}: {', '.join(figures)}" if figures else pick, pick=pick)


def _can_add(row: Mapping[str, Any]) -> bool:
    n = row.get(f"{SUMS}_n", 0)
    return bool(known(n) and n > 0 and 100 * row[f"{SUMS}_correct"] / n >= BASELINE_AT_LEAST_PCT)


def _meets(rows: Rows, name: str, base: str, one: str, bar: float) -> bool:
    row, column = rows[name], _COLUMNS[one][0]
    if not known(row.get(column)):
        return False
    if one == "same_top_pct":
        return bool(row[column] >= bar)
    if one == "sums_lost_pct":
        mine, theirs = (100 * r[f"{SUMS}_correct"] / r[f"{SUMS}_n"] for r in (row, rows[base]))
        return bool(theirs - mine <= bar) and not is_worse(row)
    return bool(row[column] <= bar)
