"""Answers that a written rule decides from the figures: Q3, Q4, Q7, Q9, Q10, Q11, Q13 and the decision matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labctl.records import LabRecords
from labctl.report.fit import FIT_RULE, fit_table
from labctl.report.scoring import (
    Candidate,
    Score,
    normalised_scores,
    perplexity_stars,
    quality_stars,
    size_stars,
    speed_stars,
    surely_dominates,
    winner,
    winner_map,
)
from labctl.report.text import interval, known, percent, rate, significant, size, stars, words

Rows = Mapping[str, Mapping[str, Any]]
SUMS = "sums"
TOO_LITTLE = "Not measured: size, perplexity and speed of the baseline and one more format are needed."
LOST_AT_MOST_PCT = 5.0
BASELINE_AT_LEAST_PCT = 50.0
CHANCE_ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A rule, what it says here, and the format it picks (None: none)."""

    rule: str
    text: str
    pick: str | None = None


def increase_words(row: Mapping[str, Any]) -> str:
    """+2.08 % (95 % interval +1.89 to +2.26 %)."""
    low, high = row["ppl_increase_low_pct"], row["ppl_increase_high_pct"]
    spread = f"95 % interval {interval(low, high)}" if math.isfinite(high) else "one chunk gives no interval"
    return f"{percent(row['ppl_increase_pct'])} ({spread})"


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
    return Answer(rule=rule, text=" ".join(parts))


def _how_many_more(row: Mapping[str, Any]) -> str:
    if math.isnan(row["n_chunks_needed"]):
        return "it is so close to the limit that no number of chunks can be forecast to settle it."
    return (
        f"about {row['n_chunks_needed']:.0f} chunks in all would likely settle it ({row['n_pairs']:.0f} were measured)."
    )


def to_drop(rows: Rows, limit: float) -> Answer:
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
        return Answer(rule=rule, text="Not measured: no quantized format has an increase of perplexity yet.")
    if not failing:
        return Answer(rule=rule, text="None: no format is shown to exceed the limit.")
    worst, *others = failing
    text = f"{worst}: {increase_words(rows[worst])}."
    if others:
        listed = words(f"{name} ({percent(rows[name]['ppl_increase_pct'])})" for name in others)
        text += f" Also above the limit: {listed}."
        if rows[others[0]]["ppl_increase_high_pct"] >= rows[worst]["ppl_increase_low_pct"]:
            text += f" The intervals of {worst} and {others[0]} overlap, so which of the two is worse is not settled."
    return Answer(rule=rule, text=text, pick=worst)


def reasoning(rows: Rows, base: str) -> Answer:
    """Q7: the smallest format that is not shown to do worse at small sums."""
    rule = (
        "The smallest file (the baseline counts too) that answers at most"
        f" {LOST_AT_MOST_PCT:g} percentage points fewer of the small sums than {base}, and whose answers"
        " McNemar's exact test over all probe questions does not show to be worse (probability under"
        f" {100 * CHANCE_ALPHA:g} %). {base} itself must get at least {BASELINE_AT_LEAST_PCT:g} % right; otherwise"
        " no format of this model is acceptable."
    )
    share = {name: 100 * row[f"{SUMS}_correct"] / row[f"{SUMS}_n"] for name, row in rows.items() if _has_sums(row)}
    if base not in share:
        return Answer(
            rule=rule, text=f"Not measured: the sums of {base} are missing, and nothing can be compared with them."
        )
    if share[base] < BASELINE_AT_LEAST_PCT:
        return Answer(
            rule=rule,
            text=f"None: {base} itself answers only {_sums(rows[base])} correctly, so the model cannot do it.",
        )
    accepted = [
        name
        for name in share
        if known(rows[name]["size_bytes"])
        and share[base] - share[name] <= LOST_AT_MOST_PCT
        and not is_worse(rows[name])
    ]
    if not accepted:
        return Answer(rule=rule, text="None of the formats whose size is known meets the rule.")
    pick = min(accepted, key=lambda name: float(rows[name]["size_bytes"]))
    text = f"{pick} ({size(rows[pick]['size_bytes'])}): {_sums(rows[pick])} right; {base}: {_sums(rows[base])}."
    refused = [name for name in share if name not in accepted]
    if refused:
        text += f" Not acceptable: {words(f'{name} ({_sums(rows[name])})' for name in refused)}."
    ahead = [n for n in accepted if share[n] < share[pick] and rows[n]["size_bytes"] > rows[pick]["size_bytes"]]
    if ahead:
        listed = words(f"{name} ({_sums(rows[name])})" for name in ahead)
        text += f" {listed} scored lower although larger: differences this small can be chance and give no order."
    return Answer(rule=rule, text=text, pick=pick)


def is_worse(row: Mapping[str, Any]) -> bool:
    """Whether McNemar's exact test shows more answers lost than gained against the baseline."""
    return bool(row["answers_p"] < CHANCE_ALPHA and row["answers_lost"] > row["answers_gained"])


def _has_sums(row: Mapping[str, Any]) -> bool:
    return bool(row.get(f"{SUMS}_n", math.nan) > 0)


def _sums(row: Mapping[str, Any]) -> str:
    return f"{row[f'{SUMS}_correct']:.0f} of {row[f'{SUMS}_n']:.0f}"


def in_ram(records: LabRecords, rows: Rows, ram_gb: float) -> Answer:
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
        return Answer(rule=rule, text=f"None fits comfortably. Nearest is {least.format}: {least.arithmetic}")
    base = records.formats[0]
    loss = {
        row.format: 0.0 if row.format == base else rows[row.format]["ppl_increase_pct"]
        for row in fitting
        if row.format == base or known(rows[row.format]["ppl_increase_pct"])
    }
    pick = (
        min(loss, key=lambda name: float(loss[name]))
        if loss
        else max(fitting, key=lambda row: row.need_bytes or 0).format
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
    return Answer(rule=rule, text=text, pick=pick)


def production(records: LabRecords, rows: Rows, limit: float) -> Answer:
    """Q10: the smallest file that keeps the quality."""
    base = records.formats[0]
    rule = (
        f"The smallest file whose increase of perplexity is under {100 * limit:g} % with its whole 95 % interval."
        f" If no quantized format passes, stay with {base}."
    )
    passing = [name for name, row in rows.items() if row["verdict"] == "pass" and known(row["size_bytes"])]
    judged = [name for name, row in rows.items() if row["verdict"] in ("pass", "fail", "undecided")]
    if not judged:
        return Answer(rule=rule, text="Not measured: no quantized format has an increase of perplexity yet.")
    undecided = [name for name, row in rows.items() if row["verdict"] == "undecided"]
    if not passing:
        text = f"{base}: no quantized format is shown to stay under the limit."
        if undecided:
            text += f" Undecided: {words(f'{name}, {increase_words(rows[name])}' for name in undecided)}."
        return Answer(rule=rule, text=text, pick=base)
    pick = min(passing, key=lambda name: float(rows[name]["size_bytes"]))
    row = rows[pick]
    reasons = [f"perplexity {increase_words(row)}"]
    if known(row["compression_ratio"]):
        reasons.insert(
            0, f"{size(row['size_bytes'])}, {significant(row['compression_ratio'])} times smaller than {base}"
        )
    if known(row["speedup"]):
        reasons.append(f"{rate(row['tg_tps'])} tokens/second, {significant(row['speedup'])} times {base}")
    if known(row["peak_rss_bytes"]):
        reasons.append(f"{size(row['peak_rss_bytes'])} peak memory")
    text = f"{pick}: {'; '.join(reasons)}."
    smaller = [name for name in undecided if rows[name]["size_bytes"] < row["size_bytes"]]
    if smaller:
        text += f" Smaller but undecided: {words(f'{name}, {increase_words(rows[name])}' for name in smaller)}."
    if known(row["answers_p"]) and is_worse(row):
        text += f" Beware: {pick} loses {row['answers_lost']:.0f} probe answers and gains {row['answers_gained']:.0f}."
    return Answer(rule=rule, text=text, pick=pick)


def candidates(rows: Rows) -> tuple[Candidate, ...]:
    """Formats that have all three figures of the scores; none if the baseline lacks one."""
    found = tuple(
        Candidate(format=name, size_bytes=row["size_bytes"], ppl=row["ppl"], tg_tps=row["tg_tps"])
        for name, row in rows.items()
        if all(known(row[column]) for column in ("size_bytes", "ppl", "tg_tps"))
    )
    return found if found and found[0].format == next(iter(rows)) else ()


def sweet_spot(rows: Rows) -> Answer:
    """Q11: the winner of the normalised score under equal weights."""
    rule = (
        "The highest normalised score (see Q15) with size, quality and speed weighted equally, one third each. Beside"
        " it: for what share of all possible weightings it wins."
    )
    scores = normalised_scores(candidates(rows), (1 / 3, 1 / 3, 1 / 3))
    pick = winner(scores)
    if pick is None or len(scores) < 2:
        return Answer(rule=rule, text=TOO_LITTLE)
    ranked = sorted(scores, key=lambda score: -score.total)
    second = next(score for score in ranked if score.format != pick)
    best = next(score for score in ranked if score.format == pick)
    shares = winner_map(scores).shares
    text = (
        f"{pick}: score {best.total:.3f} of 1 (size {best.size_score:.2f}, quality {best.quality_score:.2f}, speed"
        f" {best.speed_score:.2f}); next is {second.format} with {second.total:.3f}."
        f" {pick} wins for {100 * shares.get(pick, 0):.0f} % of all weightings."
    )
    row = rows[pick]
    if row["verdict"] in ("fail", "undecided"):
        state = "is above" if row["verdict"] == "fail" else "is not shown to be under"
        text += (
            f" Its increase of perplexity, {increase_words(row)}, {state} the limit of Q3: the score trades that for"
        )
        text += " size and speed."
    return Answer(rule=rule, text=text, pick=pick)


def matrix(rows: Rows, scores: Sequence[Score]) -> list[list[str]]:
    """Rows of the decision matrix: format, size, perplexity, speed, quality, best for."""
    base = next(iter(rows))
    tags = best_for(rows, scores)
    return [
        [
            name,
            stars(size_stars(row["compression_ratio"])),
            stars(perplexity_stars(0.0 if name == base and known(row["ppl"]) else row["ppl_increase_pct"])),
            stars(speed_stars(row["speedup"])),
            stars(quality_stars(row["answers_kept_pct"])),
            tags[name],
        ]
        for name, row in rows.items()
    ]


def best_for(rows: Rows, scores: Sequence[Score]) -> dict[str, str]:
    """What each format comes first in, from the figures; a format that another beats in everything is named so."""
    firsts: dict[str, list[str]] = {name: [] for name in rows}
    base = next(iter(rows))
    for label, column, sign, skip in (
        ("smallest file", "size_bytes", 1, ""),
        ("lowest perplexity of the quantized", "ppl_increase_pct", 1, base),
        ("fastest generation", "tg_tps", -1, ""),
        ("fastest prompt reading", "pp_tps", -1, ""),
    ):
        values = {name: sign * row[column] for name, row in rows.items() if name != skip and known(row[column])}
        if len(values) > 1:
            firsts[min(values, key=lambda name: float(values[name]))].append(label)
    if known(rows[base]["ppl"]):
        firsts[base].append("reference quality")
    passing = [name for name, row in rows.items() if row["verdict"] == "pass" and known(row["size_bytes"])]
    if passing:
        firsts[min(passing, key=lambda name: float(rows[name]["size_bytes"]))].append("smallest file that passes Q3")
    best = winner(scores)
    if best is not None and len(scores) > 1:
        firsts[best].append("highest normalised score (Q15)")
    costs = {one.format: _costs(rows[one.format]) for one in candidates(rows)}
    named = {}
    for name, labels in firsts.items():
        better = [other for other in costs if name in costs and surely_dominates(costs[other], costs[name])]
        fallback = f"nothing: {better[0]} is at least as small, as good and as fast" if better else "no first place"
        named[name] = ", ".join(labels) or fallback
    return named


def _costs(row: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Size, perplexity and slowness as intervals; a figure without an interval may be anything."""

    def ends(low: float, high: float) -> tuple[float, float]:
        return (low, high) if math.isfinite(low) and math.isfinite(high) else (-math.inf, math.inf)

    increase = (
        (0.0, 0.0) if row["verdict"] == "baseline" else (row["ppl_increase_low_pct"], row["ppl_increase_high_pct"])
    )
    return (
        (row["size_bytes"], row["size_bytes"]),
        ends(*increase),
        ends(-row["tg_high_tps"], -row["tg_low_tps"]),
    )
