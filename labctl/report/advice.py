"""The one-page recommendation: why this format, what it costs, for whom another is better, what limits this run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.records.base import Machine
from labctl.report.demo_training import unseen_changes
from labctl.report.findings import chunk_words, machines, versions
from labctl.report.gaps import Gap, provenances
from labctl.report.greedy import greedy_divergences, greedy_words, loop_words, loops
from labctl.report.order import SMALLER, Orders, tied
from labctl.report.rules import CHANCE_ALPHA, Answer, increase_words, not_smaller
from labctl.report.text import counted, known, percent, rate, significant, size, speedup_words, words
from labctl.steps.measured import LabRecords

Rows = Mapping[str, Mapping[str, Any]]


def named_format(text: str, formats: Sequence[str]) -> str | None:
    """The one format of the lab that a student's answer names; None if it names none, or several."""
    found = {name for name in formats if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, re.IGNORECASE)}
    return found.pop() if len(found) == 1 else None


def by_the_figures(rows: Rows, name: str, limit: float) -> str:
    """What this run measured of the format that the student's answer names."""
    row = rows[name]
    parts = [size(row["size_bytes"])] if known(row["size_bytes"]) else []
    if known(row["ppl_increase_pct"]):
        bar = f"the limit of {100 * limit:g} %"
        where = {"pass": f"under {bar}", "fail": f"above {bar}"}.get(row["verdict"], f"not settled against {bar}")
        parts.append(f"perplexity {increase_words(row)}, {where}")
    if known(row["tg_tps"]):
        parts.append(f"{rate(row['tg_tps'])} tokens per second")
    if known(row["answers_p"]) and row["answers_lost"] + row["answers_gained"] > 0:
        parts.append(f"{row['answers_lost']:.0f} known answers lost and {row['answers_gained']:.0f} gained")
    return f"{name} in this run: {'; '.join(parts)}." if parts else f"{name} was not measured in this run."


def why(rows: Rows, pick: str | None, base: str, limit: float) -> list[str]:
    """What speaks for the rule's pick, measured against the baseline."""
    if pick is None or pick == base:
        found = [f"{base} is the baseline: no smaller file is shown to keep its quality within {100 * limit:g} %."]
        if same := not_smaller(rows):
            found.append(f"{words(same)} {'is' if len(same) == 1 else 'are'} no smaller than {base}.")
        return found
    row, found = rows[pick], []
    if known(row["compression_ratio"]):
        found.append(
            f"It is {significant(row['compression_ratio'])} times smaller than {base}:"
            f" {size(row['size_bytes'])} instead of {size(rows[base]['size_bytes'])}."
        )
    if row["verdict"] == "pass":
        found.append(
            f"Its perplexity changes by {percent(row['ppl_increase_pct'])},"
            f" {percent(row['ppl_increase_high_pct'])} at the upper end of the 95 % interval: under the limit of"
            f" {100 * limit:g} %."
        )
    if known(row["speedup"]):
        found.append(f"It generates {rate(row['tg_tps'])} tokens per second, {speedup_words(row)} {base}'s speed.")
    if known(row["peak_rss_bytes"]) and known(rows[base]["peak_rss_bytes"]):
        found.append(
            f"It needs {size(row['peak_rss_bytes'])} of memory at its peak, {base}"
            f" {size(rows[base]['peak_rss_bytes'])}."
        )
    return found


def costs(records: LabRecords, rows: Rows, pick: str | None) -> list[str]:
    """What the pick gives up: against the baseline in quality, against smaller files in size."""
    base = records.formats[0]
    if pick is None:
        return []
    row, found = rows[pick], []
    if pick != base and known(row["answers_p"]):
        lost, gained = row["answers_lost"], row["answers_gained"]
        chance = "more than chance explains" if row["answers_p"] < CHANCE_ALPHA else "no more than chance explains"
        found.append(
            f"Of the questions with known answers it loses {lost:.0f} that {base} has right and gains {gained:.0f}:"
            f" {chance}."
            if lost or gained
            else f"On questions with known answers it costs nothing: it has the same ones right as {base}."
        )
        trained = unseen_changes(records, pick)
        found += [trained] if trained else []
    texts = greedy_divergences(records).get(pick)
    if texts:
        found.append(greedy_words(texts, base))
    circles = loop_words([loop for loop in loops(records) if loop.format == pick])
    found += [circles] if circles else []
    smaller = {
        name: float(row["size_bytes"] - one["size_bytes"])
        for name, one in rows.items()
        if name != base and row["size_bytes"] >= SMALLER * one["size_bytes"]
    }
    if smaller:
        least = max(smaller, key=lambda name: smaller[name])
        price = f", at {increase_words(rows[least])}" if known(rows[least]["ppl_increase_pct"]) else ""
        found.append(f"{size(smaller[least])} could still be saved with {least}{price}.")
    return found


def others(rows: Rows, orders: Orders, pick: str | None, base: str, answers: Mapping[str, Answer]) -> list[str]:
    """For whom another format is better, where the figures say so.

    Args:
        answers: the rules' answers: "reasoning" (Q7), "ram" (Q9) and "balance" (Q11).
    """
    found = []
    for test, need, unit in (
        ("tg", "you wait for long answers", "tokens per second"),
        ("pp", "you have long documents read", "tokens per second of prompt"),
    ):
        order = orders.speed(test)
        first = order.first
        if first and pick is not None and all(order.better(name, pick) for name in first):
            found.append(f"If {need}: {tied(first)}, {rate(rows[first[0]][f'{test}_tps'])} {unit}.")
    reasoning, balance, ram = answers["reasoning"].pick, answers["balance"].pick, answers["ram"].pick
    if reasoning is not None and reasoning != pick:
        found.append(
            f"If small sums are what counts: {reasoning} is the smallest file that passes the rule of Q7, which asks"
            " for sums instead of perplexity."
        )
    if balance is not None and balance != pick:
        found.append(f"If you weigh size, quality and speed alike: {balance} has the highest normalised score (Q11).")
    if ram is not None and ram not in (pick, base):
        found.append(f"If you have 8 GB of memory: {ram}, by the rule of Q9.")
    closer = [name for name in rows if name != base and pick is not None and orders.ppl.better(name, pick)]
    if closer:
        best = orders.ppl.among(closer).first
        sized = f", {size(rows[best[0]]['size_bytes'])}" if known(rows[best[0]]["size_bytes"]) else ""
        found.append(
            f"If you want to stay closest to {base}: {tied(best)}, {percent(rows[best[0]]['ppl_increase_pct'])}"
            f" perplexity{sized}."
        )
    return found


def caveats(
    records: LabRecords, rows: Rows, machine: Machine | None, missing: Sequence[Gap], limit: float
) -> list[str]:
    """What limits these figures: text, chunks, machine, versions, what is undecided or missing."""
    found = []
    if records.text is not None and records.perplexity:
        covered = chunk_words(rows, records)
        other = "" if records.text.kind == "wikitext-2" else ", and does not compare with published WikiText-2 figures"
        found.append(
            f"Perplexity was measured on one text, {records.text.name}{f', {covered}' if covered else ''}; it speaks"
            f" for text of that kind{other}."
        )
    if records.warnings:
        found.append("The speeds come with warnings: they stand at Part 4 of the worksheet.")
    undecided = [name for name, row in rows.items() if row["verdict"] == "undecided"]
    if undecided:
        found.append(
            f"{words(undecided)}: whether the increase is under {100 * limit:g} % is not settled by these chunks."
        )
    timed = records.speed or records.memory
    for one in (machines(records) or ((machine,) if machine else ())) if timed else ():
        found.append(
            f"Speed and memory hold for this machine and these settings: {one.cpu_model},"
            f" {counted(one.n_cores_physical, 'core')}, {one.ram_bytes / 1024**3:.1f} GiB RAM, {one.os}"
            f"{f', {one.limits}' if one.limits else ''}."
        )
    made = ", ".join(f"{package} {version}" for package, version in versions(records).items())
    dated = provenances(records)
    if made and dated:
        found.append(f"Made with {made}; newest record {dated[-1].created_at[:10]}.")
    if missing:
        found.append('Not everything was measured: see "What is missing" in the worksheet.')
    return found
