"""Answers that a written rule decides from the figures: Q3, Q4, Q9 and Q10."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labctl.report.fit import FIT_RULE, TOO_LONG, TOO_LONG_WORDS, fit_table
from labctl.report.order import SMALLER, Orders
from labctl.report.text import interval, known, percent, rate, significant, size, speedup_words, words
from labctl.steps.measured import LabRecords

Rows = Mapping[str, Mapping[str, Any]]
SUMS = "sums"
CHANCE_ALPHA = 0.05
NO_INCREASE = "Not measured: no quantized format has an increase of perplexity yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A rule, what it says here, and the format it picks (None: none)."""

    rule: str
    text: str
    pick: str | None = None


def increase_words(row: Mapping[str, Any]) -> str:
    """+2.08 % (95 % interval +1.89 to +2.26 %)."""
    low, high = row["ppl_increase_low_pct"], row["ppl_increase_high_pct"]
    return f"{percent(row['ppl_increase_pct'])} (95 % interval {interval(low, high)})"


def under_limit(rows: Rows, limit: float) -> Answer:
    """Q3: the verdict of every format."""
    bar = f"{100 * limit:g} %"
    rule = (
        f"Pass: the whole 95 % interval of the increase lies under {bar}. Fail: the whole interval lies above."
        " Undecided: the interval contains the limit, so the measurement does not settle it."
    )
    parts = [
        f"{head}: {words(names)}."
        for word, head in (("pass", "Pass"), ("undecided", "Undecided"), ("fail", "Fail"))
        if (names := [name for name, row in rows.items() if row["verdict"] == word])
    ]
    missing = [name for name, row in rows.items() if row["verdict"] is None]
    parts += [f"Not measured: {words(missing)}."] if missing else []
    for name, row in rows.items():
        if row["verdict"] == "undecided":
            parts.append(f"{name}: {increase_words(row)}; {_how_many_more(row)}")
    return Answer(rule=rule, text=" ".join(parts) or NO_INCREASE)


def _how_many_more(row: Mapping[str, Any]) -> str:
    if math.isnan(row["n_chunks_needed"]):
        return "it is so close to the limit that no number of chunks can be forecast to settle it."
    measured = f"{row['n_pairs']:.0f} {'was' if row['n_pairs'] == 1 else 'were'} measured"
    if row["n_chunks_needed"] <= row["n_pairs"]:
        return f"more chunks like them would settle it ({measured})."
    return f"about {row['n_chunks_needed']:.0f} chunks like these in all would settle it ({measured})."


def is_smaller(row: Mapping[str, Any]) -> bool:
    """Whether the file saves space against the baseline; not so where every tensor stayed as it was."""
    return not row["compression_ratio"] < SMALLER


def not_smaller(rows: Rows) -> list[str]:
    """Quantized formats that save nothing."""
    return [name for name in list(rows)[1:] if not is_smaller(rows[name])]


def smallest_passing(rows: Rows) -> str | None:
    """The smallest quantized format whose increase is under the limit with its whole interval, and that saves space."""
    passing = [
        n for n, row in rows.items() if row["verdict"] == "pass" and known(row["compression_ratio"]) and is_smaller(row)
    ]
    return min(passing, key=lambda name: float(rows[name]["size_bytes"]), default=None)


def to_drop(rows: Rows, orders: Orders, limit: float) -> Answer:
    """Q4: the format with the largest proven loss."""
    rule = (
        f"Drop the format with the largest increase among those that fail the {100 * limit:g} % limit with their whole"
        " interval; name the others that fail as well. If none fails, perplexity alone gives no reason to drop one."
    )
    failing = sorted(
        (name for name, row in rows.items() if row["verdict"] == "fail"),
        key=lambda name: -rows[name]["ppl_increase_pct"],
    )
    judged = [name for name, row in rows.items() if row["verdict"] in ("pass", "fail", "undecided")]
    if not judged:
        return Answer(rule=rule, text=NO_INCREASE)
    if not failing:
        return Answer(rule=rule, text="None: no format is shown to exceed the limit.")
    worst, *others = failing
    text = f"{worst}: {increase_words(rows[worst])}."
    if others:
        listed = words(f"{name} ({percent(rows[name]['ppl_increase_pct'])})" for name in others)
        text += f" Also above the limit: {listed}."
        close = [name for name in others if not orders.ppl.better(name, worst)]
        if close:
            text += f" Which of {words([worst, *close])} is the worst is not settled."
    return Answer(rule=rule, text=text, pick=worst)


def is_worse(row: Mapping[str, Any]) -> bool:
    """Whether McNemar's exact test shows more answers lost than gained against the baseline."""
    return bool(row["answers_p"] < CHANCE_ALPHA and row["answers_lost"] > row["answers_gained"])


def in_ram(records: LabRecords, rows: Rows, orders: Orders, ram_gb: float) -> Answer:
    """Q9: the most faithful format that fits comfortably."""
    rule = (
        f"{FIT_RULE} Of the formats that fit, take the one with the lowest perplexity (the baseline counts as an"
        " increase of 0 %); where perplexity is not measured, the largest file."
    )
    table = fit_table(records, ram_gb)
    fitting = [row for row in table if row.verdict == "fits"]
    if all(row.verdict == "not measured" for row in table):
        return Answer(rule=rule, text="Not measured: there is no peak memory of any format.")
    if not fitting:
        least = min((row for row in table if row.need_bytes is not None), key=lambda row: row.need_bytes or 0)
        head = TOO_LONG_WORDS if least.verdict == TOO_LONG else "None fits comfortably."
        return Answer(rule=rule, text=f"{head} Nearest is {least.format}: {least.arithmetic}")
    base = records.formats[0]
    usable = [row for row in fitting if row.format == base or is_smaller(rows[row.format])] or fitting
    loss = {
        row.format: 0.0 if row.format == base else rows[row.format]["ppl_increase_pct"]
        for row in usable
        if row.format == base or known(rows[row.format]["ppl_increase_pct"])
    }
    pick = (
        min(loss, key=lambda name: float(loss[name]))
        if loss
        else max(usable, key=lambda row: row.need_bytes or 0).format
    )
    chosen = next(row for row in fitting if row.format == pick)
    text = f"{pick}. {chosen.arithmetic}"
    measured = [row for row in table if row.verdict != "not measured"]
    if len(fitting) == len(measured):
        text += (
            f" Every format measured fits in {ram_gb:g} GB, so memory does not decide for this model: choose by quality"
            " and speed (Q10)."
        )
    else:
        out = words(f"{row.format} ({row.verdict})" for row in measured if row.verdict != "fits")
        text += f" Ruled out: {out}."
        close = [name for name in loss if name != pick and not orders.ppl.apart(pick, name)]
        if close:
            text += f" Not told apart from it in perplexity: {words(close)}."
    return Answer(rule=rule, text=text, pick=pick)


def production(records: LabRecords, rows: Rows, limit: float) -> Answer:
    """Q10: the smallest file that keeps the quality."""
    base = records.formats[0]
    rule = (
        f"The smallest file whose increase of perplexity is under {100 * limit:g} % with its whole 95 % interval, and"
        f" which is at least {100 * (SMALLER - 1):.0f} % smaller than {base}. If there is none, stay with {base}."
    )
    judged = [name for name, row in rows.items() if row["verdict"] in ("pass", "fail", "undecided")]
    if not judged:
        return Answer(rule=rule, text=NO_INCREASE)
    undecided = [name for name, row in rows.items() if row["verdict"] == "undecided"]
    pick, same = smallest_passing(rows), not_smaller(rows)
    if pick is None:
        text = f"{base}: no smaller file is shown to stay under the limit."
        if same:
            text += f" {words(same)} {'saves' if len(same) == 1 else 'save'} no space against {base}."
        if undecided:
            text += f" Undecided: {words(f'{name}, {increase_words(rows[name])}' for name in undecided)}."
        return Answer(rule=rule, text=text, pick=base)
    row = rows[pick]
    reasons = [f"perplexity {increase_words(row)}"]
    if known(row["compression_ratio"]):
        reasons.insert(
            0, f"{size(row['size_bytes'])}, {significant(row['compression_ratio'])} times smaller than {base}"
        )
    if known(row["speedup"]):
        reasons.append(f"{rate(row['tg_tps'])} tokens/second, {speedup_words(row)} {base}")
    if known(row["peak_rss_bytes"]):
        reasons.append(f"{size(row['peak_rss_bytes'])} peak memory")
    text = f"{pick}: {'; '.join(reasons)}."
    smaller = [name for name in undecided if rows[name]["size_bytes"] < row["size_bytes"]]
    if smaller:
        text += f" Smaller but undecided: {words(f'{name}, {increase_words(rows[name])}' for name in smaller)}."
    if known(row["answers_p"]) and is_worse(row):
        text += f" Beware: {pick} loses {row['answers_lost']:.0f} probe answers and gains {row['answers_gained']:.0f}."
    return Answer(rule=rule, text=text, pick=pick)
