"""The worksheet's tables and sentences that weigh formats against each other: trade-offs and the combined score."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.records import LabRecords
from labctl.report.greedy import greedy_divergences
from labctl.report.rules import TOO_LITTLE
from labctl.report.scoring import Score, Weights, winner, winner_map
from labctl.report.tables import cell, count
from labctl.report.text import NOT_MEASURED, interval, known, percent, rate, size, table

Rows = Mapping[str, Mapping[str, Any]]


def compared(rows: Rows, names: Sequence[str]) -> str:
    """Q12: the chosen formats beside each other."""
    return summary({name: rows[name] for name in names if name in rows})


def summary(rows: Rows) -> str:
    """One line a format with the figures that decide."""
    return table(
        (
            "Format",
            "Size",
            "Perplexity increase (interval)",
            "Verdict",
            "Tokens/second",
            "Prompt, tokens/second",
            "Peak memory",
            "Answers lost / gained",
        ),
        (
            (
                name,
                cell(row["size_bytes"], size(row["size_bytes"])),
                "baseline" if row["verdict"] == "baseline" else cell(row["ppl_increase_pct"], _increase(row)),
                row["verdict"] or NOT_MEASURED,
                cell(row["tg_tps"], rate(row["tg_tps"])),
                cell(row["pp_tps"], rate(row["pp_tps"])),
                cell(row["peak_rss_bytes"], size(row["peak_rss_bytes"])),
                cell(row["answers_p"], f"{row['answers_lost']:.0f} / {row['answers_gained']:.0f}"),
            )
            for name, row in rows.items()
        ),
    )


def _increase(row: Mapping[str, Any]) -> str:
    low, high = row["ppl_increase_low_pct"], row["ppl_increase_high_pct"]
    return f"{percent(row['ppl_increase_pct'])} ({interval(low, high) if math.isfinite(high) else 'one chunk'})"


def prediction(records: LabRecords, rows: Rows) -> str:
    """Q14: perplexity beside what the texts and probes show."""
    same = greedy_divergences(records)
    return table(
        (
            "Format",
            "Increase of perplexity",
            "Probe answers lost",
            "gained",
            "Greedy tokens the same, mean over prompts",
        ),
        (
            (
                name,
                cell(row["ppl_increase_pct"], percent(row["ppl_increase_pct"])),
                count(row, "answers_lost"),
                count(row, "answers_gained"),
                f"{statistics.fmean(one.n_same for one in same[name].values()):.1f}"
                if same.get(name)
                else NOT_MEASURED,
            )
            for name, row in list(rows.items())[1:]
        ),
    )


def scores(rows: Rows, literal: Sequence[Score], scaled: Sequence[Score]) -> str:
    """Q15: terms and totals of both scores."""
    found = {one.format: (one, other) for one, other in zip(literal, scaled, strict=True)}
    return table(
        (
            "Format",
            "size_score",
            "quality_score",
            "speed_score",
            "Literal score",
            "Normalised terms",
            "Normalised score",
        ),
        (
            (
                name,
                *(f"{term:.3f}" for term in found[name][0].terms),
                f"{found[name][0].total:.3f}",
                " / ".join(f"{term:.2f}" for term in found[name][1].terms),
                f"{found[name][1].total:.3f}",
            )
            if name in found
            else (name, *[NOT_MEASURED] * 6)
            for name in rows
        ),
    )


def score_words(rows: Rows, literal: Sequence[Score], scaled: Sequence[Score], weights: Weights) -> str:
    """Q15 in words, with how sure the lead is."""
    first, normal = winner(literal), winner(scaled)
    if first is None or normal is None or len(literal) < 2:
        return TOO_LITTLE
    best = next(score for score in literal if score.format == first)
    second = max((score for score in literal if score.format != first), key=lambda score: score.total)
    text = f"{first} with {best.total:.3f}, before {second.format} with {second.total:.3f}"
    text += f"; normalised, {'also ' if normal == first else ''}{normal}."
    row, other = rows[first], rows[second.format]
    if known(row["tg_low_tps"]) and known(other["tg_high_tps"]):
        base_tps = rows[literal[0].format]["tg_tps"]
        slack = weights[2] * (row["tg_tps"] - row["tg_low_tps"] + other["tg_high_tps"] - other["tg_tps"]) / base_tps
        lead = best.total - second.total
        text += (
            f" The lead of {lead:.3f} is larger than what the spread of the speeds can move ({slack:.3f})."
            if lead > slack
            else f" The lead of {lead:.3f} is within what the spread of the speeds can move ({slack:.3f}): not settled."
        )
    return text


def change_words(literal: Sequence[Score], scaled: Sequence[Score], weights: Weights) -> str:
    """Q16 in words, for both scores."""
    parts = []
    for name, found in (("Literal score", literal), ("Normalised score", scaled)):
        before, after = winner(found), winner(found, weights)
        if before is None or len(found) < 2:
            return TOO_LITTLE
        parts.append(f"{name}: {f'yes, from {before} to {after}' if after != before else f'no, it stays {before}'}.")
    return " ".join(parts)


def winners(scaled: Sequence[Score], steps: int = 5) -> str:
    """Q16: the winner for weights in steps of 20 %."""
    if len(scaled) < 2:
        return ""
    found = winner_map(scaled, steps).winners
    share = 100 // steps
    return table(
        ("Size weight \\ speed weight", *(f"{share * speed} %" for speed in range(steps + 1))),
        (
            (f"{share * s} %", *(found.get((s, steps - s - speed), "") for speed in range(steps + 1)))
            for s in range(steps + 1)
        ),
    )


def shares(literal: Sequence[Score], scaled: Sequence[Score]) -> str:
    """Q16: share of the triangle of weights that each format wins."""
    maps = [winner_map(found).shares for found in (literal, scaled)]
    names = [score.format for score in literal if any(score.format in found for found in maps)]
    return table(
        ("Format", "Literal score", "Normalised score"),
        ((name, *(f"{100 * found.get(name, 0):.0f} %" for found in maps)) for name in names),
    )
