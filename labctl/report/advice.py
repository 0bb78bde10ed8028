"""The one-page recommendation: why this format, what it costs, for whom another is better, what limits this run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from labctl.records.base import Machine
from labctl.records.units import percent, rate, significant, size_text
from labctl.report.demo_training import unseen_changes
from labctl.report.figures import Figures
from labctl.report.findings import chunk_words, machines, versions
from labctl.report.gaps import Gap, provenances
from labctl.report.greedy import greedy_divergences, greedy_words, loop_words, loops
from labctl.report.order import SMALLER, Orders, tied
from labctl.report.rules import Answer, displacement, increase_words, judged, not_smaller, open_beyond
from labctl.report.text import cell, counted, speedup_words, words
from labctl.steps.bench.record import Test
from labctl.steps.bench.step import BENCH
from labctl.steps.intervals import ALPHA
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.step import PERPLEXITY


def named_format(text: str, formats: Sequence[str]) -> str | None:
    """The one format of the lab that a student's answer names; None if it names none, or several."""
    found = {name for name in formats if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, re.IGNORECASE)}
    return found.pop() if len(found) == 1 else None


def by_the_figures(figures: Figures, name: str, limit: float) -> str:
    """What this run measured of the format that the student's answer names."""
    row = figures[name]
    parts = [] if row.size_bytes is None else [size_text(row.size_bytes)]
    if row.increase is not None:
        bar = f"the limit of {100 * limit:g} %"
        where = {"pass": f"under {bar}", "fail": f"above {bar}"}.get(str(row.verdict), f"not settled against {bar}")
        parts.append(f"perplexity {increase_words(row.increase)}, {where}")
    if (speed := row.speed("tg")) is not None:
        parts.append(f"{rate(speed.tps)} tokens per second")
    if (changes := row.changes) is not None and changes.lost + changes.gained > 0:
        parts.append(f"{changes.lost} known answers lost and {changes.gained} gained")
    return f"{name} in this run: {'; '.join(parts)}." if parts else f"{name} was not measured in this run."


def why(figures: Figures, pick: str | None, base: str, limit: float) -> list[str]:
    """What speaks for the rule's pick, measured against the baseline."""
    if pick is None or pick == base:
        reasons = [f"{base} is the baseline: no smaller file is shown to keep its quality within {100 * limit:g} %."]
        if same := not_smaller(figures):
            reasons.append(f"{words(same)} {'is' if len(same) == 1 else 'are'} no smaller than {base}.")
        return reasons
    row, before, reasons = figures[pick], figures[base], []
    if row.compression_ratio is not None:
        reasons.append(
            f"It is {significant(row.compression_ratio)} times smaller than {base}:"
            f" {cell(row.size_bytes, size_text)} instead of {cell(before.size_bytes, size_text)}."
        )
    if row.verdict == "pass" and row.increase is not None:
        reasons.append(
            f"Its perplexity changes by {increase_words(row.increase)}: under the limit of {100 * limit:g} %"
            + ("." if row.increase.beyond == "pass" else ", which is not settled for text like it.")
        )
    if (speed := row.speed("tg")) is not None and speed.speedup is not None:
        ratio = speedup_words(speed.speedup)
        reasons.append(f"It generates {rate(speed.tps)} tokens per second, {ratio} {base}'s speed.")
    if row.peak_rss_bytes is not None and before.peak_rss_bytes is not None:
        reasons.append(
            f"It needs {size_text(row.peak_rss_bytes)} of memory at its peak,"
            f" {base} {size_text(before.peak_rss_bytes)}."
        )
    return reasons


def costs(records: Measured, figures: Figures, pick: str | None) -> list[str]:
    """What the pick gives up: against the baseline in quality, against smaller files in size."""
    base = records.formats[0]
    if pick is None:
        return []
    row, prices = figures[pick], []
    if pick != base and (changes := row.changes) is not None:
        chance = "more than chance explains" if changes.p < ALPHA else "no more than chance explains"
        prices.append(
            f"Of the questions with known answers it loses {changes.lost} that {base} has right and gains"
            f" {changes.gained}: {chance}."
            if changes.lost or changes.gained
            else f"On questions with known answers it costs nothing: it has the same ones right as {base}."
        )
        trained = unseen_changes(records, pick)
        prices += [trained] if trained else []
    texts = greedy_divergences(records).get(pick)
    if texts:
        prices.append(greedy_words(texts, base))
    circles = loop_words([loop for loop in loops(records) if loop.format == pick])
    prices += [circles] if circles else []
    smaller = {
        name: (row.size_bytes or 0) - other.size_bytes
        for name, other in figures.items()
        if name != base and other.size_bytes is not None and (row.size_bytes or 0) >= SMALLER * other.size_bytes
    }
    if smaller:
        least = max(smaller, key=lambda name: smaller[name])
        increase = figures[least].increase
        price = f", at {increase_words(increase)}" if increase is not None else ""
        prices.append(f"{size_text(smaller[least])} could still be saved with {least}{price}.")
    return prices


def others(figures: Figures, orders: Orders, pick: str | None, base: str, answers: Mapping[str, Answer]) -> list[str]:
    """For whom another format is better, where the figures say so.

    Args:
        answers: the rules' answers: "reasoning" (Q7), "ram" (Q9) and "balance" (Q11).
    """
    found = []
    needs: tuple[tuple[Test, str, str], ...] = (
        ("tg", "you wait for long answers", "tokens per second"),
        ("pp", "you have long documents read", "tokens per second of prompt"),
    )
    for test, need, unit in needs:
        order = orders.speed(test)
        first = order.first
        if first and pick is not None and all(order.better(name, pick) for name in first):
            speeds = sorted(speed.tps for name in first if (speed := figures[name].speed(test)) is not None)
            ends = dict.fromkeys(rate(speed) for speed in (speeds[0], speeds[-1]))
            found.append(f"If {need}: {tied(first)}, {' to '.join(ends)} {unit}.")
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
    closer = [name for name in figures if name != base and pick is not None and orders.ppl.better(name, pick)]
    if closer:
        best = orders.ppl.among(closer).first
        row = figures[best[0]]
        sized = "" if row.size_bytes is None else f", {size_text(row.size_bytes)}"
        found.append(
            f"If you want to stay closest to {base}: {tied(best)}, {cell(row.increase_pct, percent)} perplexity{sized}."
        )
    return found


def caveats(
    records: Measured, figures: Figures, machine: Machine | None, missing: Sequence[Gap], limit: float
) -> list[str]:
    """What limits these figures: text, chunks, machine, versions, what is undecided or missing."""
    found = []
    if records.text is not None and records.of(PERPLEXITY):
        covered = chunk_words(figures, records)
        other = "" if records.text.kind == "wikitext-2" else ", and does not compare with published WikiText-2 figures"
        found.append(
            f"Perplexity was measured on one text, {records.text.name}{f', {covered}' if covered else ''}; it speaks"
            f" for text of that kind{other}."
        )
    if records.warnings:
        found.append("The speeds come with warnings: they stand at Part 4 of the worksheet.")
    undecided = judged(figures, "undecided")
    if undecided:
        found.append(
            f"{words(undecided)}: whether the increase is under {100 * limit:g} % is not settled by these chunks."
        )
    if beyond := open_beyond(figures):
        found.append(f"{words(beyond)}: the verdict holds for this text; for text like it, it is not settled.")
    if moved := displacement(figures):
        found.append(moved)
    timed = bool(records.of(BENCH)) or bool(records.of(MEMORY))
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
