"""Drafts for the questions of judgement (Q6, Q12, Q14, Q17, Q18): sentences that the figures decide."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.report.analysis import Floats, common_chunks
from labctl.report.answers import answer_changes, probe_names
from labctl.report.demo_training import training_note
from labctl.report.gaps import content_notes
from labctl.report.greedy import greedy_divergences, loop_words, loops, same_texts_words
from labctl.report.order import Orders
from labctl.report.rules import CHANCE_ALPHA, Answer, is_worse
from labctl.report.text import counted, known, percent, rate, significant, size, speedup_words, words
from labctl.steps.intervals import mcnemar_exact
from labctl.steps.measured import LabRecords
from labctl.steps.perplexity.increase import paired_increase
from labctl.steps.speed.ratios import times

Rows = Mapping[str, Mapping[str, Any]]


def quality_loss(records: LabRecords, rows: Rows) -> str:
    """Q6: is the loss visible, and where?"""
    base = records.formats[0]
    tested = [name for name in rows if name != base and known(rows[name]["answers_p"])]
    worse = [name for name in tested if is_worse(rows[name])]
    unshown = [name for name in tested if name not in worse]
    parts = []
    if worse:
        listed = words(
            f"{name} (loses {rows[name]['answers_lost']:.0f} answers that {base} has right, gains"
            f" {rows[name]['answers_gained']:.0f})"
            for name in worse
        )
        parts.append(f"Yes, on questions with known answers a loss shows in {listed}.")
    if unshown:
        parts.append(f"For {words(unshown)} the probes show no loss beyond chance.")
    found_loops = loops(records)
    if found_loops:
        parts.append(loop_words(found_loops))
    texts = greedy_divergences(records)
    same = same_texts_words(texts, base)
    if same:
        parts.append(same)
    if any(not one.identical for by_prompt in texts.values() for one in by_prompt.values()):
        parts.append("A different text is not yet a worse one: read the samples and say what you see.")
    return " ".join(parts) or "Nothing was measured that could show a loss."


def large_against_small(records: LabRecords, rows: Rows, large: str = "Q8_0", small: str = "Q4_K_M") -> str:
    """Q12: where Q8_0 beats Q4_K_M, by what the intervals of their differences show."""
    absent = [name for name in (large, small) if name not in rows]
    if absent:
        return f"This lab has no {words(absent, 'or')}, so it cannot compare the two."
    a, b = rows[large], rows[small]
    orders = Orders(records, rows)
    parts = []
    if known(a["ppl_increase_pct"]) and known(b["ppl_increase_pct"]):
        figures = f"{percent(a['ppl_increase_pct'])} perplexity against {percent(b['ppl_increase_pct'])}"
        if orders.ppl.better(large, small):
            parts.append(
                f"{large} stays closer to the baseline: {figures}. That favours it where small errors count and there"
                " is room for a larger file: exact facts, code, arithmetic, or as the copy that other versions are"
                " compared with."
            )
        elif orders.ppl.better(small, large):
            parts.append(f"Perplexity speaks against {large}: {figures}.")
        else:
            parts.append(f"Perplexity does not tell the two apart: {figures}.")
    if known(a["answers_p"]) and known(b["answers_p"]):
        right = {name: sum(probe.n_correct for probe in records.generation[name].probes) for name in (large, small)}
        figures = f"{right[large]} right against {right[small]}"
        if orders.answers.apart(large, small):
            more = "more" if orders.answers.better(large, small) else "fewer"
            parts.append(f"On the probes {large} answers {more} correctly, beyond chance: {figures}.")
        else:
            parts.append(f"On the probes the two are not told apart: {figures}.")
    for test, task in (("pp", "reading prompts (long documents, short answers)"), ("tg", "generating text")):
        order = orders.speed(test)
        if (large, small) in order.pairs:
            figures = f"{rate(a[f'{test}_tps'])} against {rate(b[f'{test}_tps'])} tokens/second"
            if order.apart(large, small):
                verb = "faster" if order.better(large, small) else "slower"
                parts.append(f"{large} is {verb} at {task}: {figures}.")
            else:
                parts.append(f"At {task} neither is shown to be faster.")
    if orders.size.better(small, large):
        parts.append(f"Its price is the file: {size(a['size_bytes'])} against {size(b['size_bytes'])}.")
    return " ".join(parts) or f"Neither {large} nor {small} was measured."


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation, ties given their mean rank; NaN if either side is all equal."""
    ranks = []
    for values in (one, other):
        ordered = sorted(values)
        ranks.append([ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values])
    if any(len(set(column)) < 2 for column in ranks):
        return math.nan
    return statistics.correlation(*ranks)


def prediction(records: LabRecords, rows: Rows, nll: Mapping[str, Floats]) -> str:
    """Q14: does perplexity predict what the probes and texts show?"""
    base = records.formats[0]
    both = [n for n in rows if n != base and known(rows[n]["ppl_increase_pct"]) and known(rows[n]["answers_p"])]
    if len(both) < 3:
        return "Fewer than three formats have both perplexity and probe answers, so this lab cannot say."
    net = {name: rows[name]["answers_gained"] - rows[name]["answers_lost"] for name in both}
    correlation = spearman([rows[name]["ppl_increase_pct"] for name in both], [-net[name] for name in both])
    parts = []
    if math.isnan(correlation):
        parts.append(
            "All formats answer the probes equally well, so the probes cannot confirm the order of perplexity."
        )
    else:
        parts.append(
            f"Over {len(both)} formats, the order by perplexity and the order by probe answers lost have a rank"
            f" correlation of {correlation:.2f} (1 is the same order, 0 none; with so few formats a rough figure)."
        )
    parts += _rank_agreement(rows, both)
    silent = [n for n in both if rows[n]["ppl_increase_low_pct"] > 0 and not is_worse(rows[n])]
    if silent:
        worst = max(silent, key=lambda name: float(rows[name]["ppl_increase_pct"]))
        parts.append(
            f"Perplexity sees changes that the probes do not: {worst} has"
            f" {percent(rows[worst]['ppl_increase_pct'])} and shows no loss of answers beyond chance."
        )
    swaps = [
        (net[b] - net[a], a, b)
        for a in both
        for b in both
        if net[b] > net[a] and a in nll and b in nll and _lower(nll[a], nll[b])
    ]
    if swaps:
        ahead, a, b = max(swaps)
        lost, gained, _ = answer_changes(records.generation[b], records.generation[a], probe_names(records))
        chance = "beyond chance" if mcnemar_exact(lost, gained) < CHANCE_ALPHA else "which can be chance"
        parts.append(
            f"The orders disagree: {a} has the lower perplexity, yet {b} gets {ahead:.0f} more right on the probes"
            f" ({chance})."
        )
    shown = [name for name in both if is_worse(rows[name])]
    if shown:
        top = max(both, key=lambda name: float(rows[name]["ppl_increase_pct"]))
        verb = "agrees" if top in shown else "disagrees"
        parts.append(
            f"Where the probes do show a loss ({words(shown)}), perplexity {verb}: its largest increase is {top}'s."
        )
    parts.append(
        "Perplexity averages over every word of one text; it does not ask whether the one word that matters in an"
        " answer is right."
    )
    return " ".join(parts)


def _rank_agreement(rows: Rows, names: Sequence[str]) -> list[str]:
    """Rank correlations between perplexity and the measures that look at every prediction."""
    found = [
        (what, correlation)
        for what, column, sign in (
            ("KL divergence", "kld_mean", 1),
            ("top tokens that differ", "same_top_pct", -1),
            ("greedy text that differs", "greedy_same_pct", -1),
        )
        if (chosen := [name for name in names if known(rows[name].get(column))]) and len(chosen) > 2
        if not math.isnan(
            correlation := spearman(
                [rows[name]["ppl_increase_pct"] for name in chosen], [sign * rows[name][column] for name in chosen]
            )
        )
    ]
    if not found:
        return []
    return ["Rank correlation of the increase in perplexity with other measures: "
            + ", ".join(f"{what} {correlation:.2f}" for what, correlation in found) + "."]  # fmt: skip


def _lower(one: Floats, other: Floats) -> bool:
    """Whether the first has the lower perplexity with its whole paired interval."""
    return bool(common_chunks({"one": one, "other": other}).size) and paired_increase(other, one).low > 0


def surprises(records: LabRecords, rows: Rows, orders: Orders) -> list[str]:
    """Q17: findings that go against the expected order, by fixed checks, the least expected first."""
    base = records.formats[0]
    found = []
    for name, row in rows.items():
        if name != base and known(row["ppl_increase_high_pct"]) and row["ppl_increase_high_pct"] < 0:
            found.append(f"{name} has a lower perplexity than {base}: {percent(row['ppl_increase_pct'])}.")
    for test, task in (("tg", "generates text"), ("pp", "reads a prompt")):
        order = orders.speed(test)
        slower = [(order.pairs[b, a].low, a, b) for b, a in order.shown if orders.size.better(a, b)]
        if slower:
            _, a, b = max(slower)
            pair = order.pairs[b, a]
            found.append(
                f"{a} is the smaller file but {task} more slowly than {b}, which has"
                f" {times(pair.ratio, pair.low, pair.high)} times its speed."
            )
    gains = [name for name in rows if name != base and rows[name]["answers_gained"] > rows[name]["answers_lost"]]
    if gains:
        listed = words(f"{n} (+{rows[n]['answers_gained'] - rows[n]['answers_lost']:.0f})" for n in gains)
        shown = [name for name in gains if orders.answers.better(name, base)]
        chance = f"beyond chance for {words(shown)}" if shown else "so few can be chance"
        found.append(f"More probe answers right than {base} has: {listed}; {chance}.")
    for name, file in records.files.items():
        nominal = _nominal_bits(name)
        if name in rows and nominal is not None and file.bpw > 1.25 * nominal and content_notes(file):
            found.append(
                f"{name} holds {file.bpw:.2f} bits per weight, not about {nominal}: its largest part is"
                f" {file.main_type}."
            )
    return found


def _nominal_bits(name: str) -> int | None:
    """The number in a k-quant's or legacy quant's name."""
    digits = name.removeprefix("I").removeprefix("Q")[:1]
    return int(digits) if name.startswith(("Q", "IQ")) and digits.isdigit() else None


def surprise_draft(rows: Rows, found: Sequence[str]) -> str:
    """Q17 in a sentence or two."""
    columns = ("ppl_increase_pct", "speedup", "answers_p")
    compared = [name for name in list(rows)[1:] if any(known(rows[name][column]) for column in columns)]
    if not compared:
        return "Too little was measured to be surprised by."
    if not found:
        return (
            "Nothing measured is shown to go against the expected order (smaller is faster, and of higher perplexity)."
        )
    return f"Least expected of the figures: {found[0]}"


def for_everyone(records: LabRecords, rows: Rows, pick: Answer) -> str:
    """Q18: the trade-off without technical words."""
    base = records.formats[0]
    if pick.pick is None or base not in rows:
        return "Not enough was measured to tell the trade-off."
    parts = [
        "Making a language model smaller is like saving a photo with fewer colours: the file shrinks, the picture stays"
        " recognisable, and at some point you begin to see the difference."
    ]
    row = rows[pick.pick]
    if pick.pick == base:
        parts.append("Here no smaller version is proven to stay as close to the one we started from as we asked.")
    elif known(row["compression_ratio"]):
        parts.append(f"The version called {pick.pick} needs {_saved(row)} less space, and {_less_certain(row)}.")
    orders = Orders(records, rows)
    least = orders.size.names[0] if orders.size.names else base
    small = rows[least]
    if least not in (base, pick.pick) and orders.size.better(least, pick.pick) and known(small["ppl_increase_pct"]):
        text = f"The smallest version, {least}, saves {_saved(small)}, but there {_less_certain(small)}"
        if known(small["answers_p"]) and small["answers_lost"] > 0:
            asked = sum(len(probe.answers) for probe in records.generation[least].probes)
            trained = ", many of them from its training," if training_note(records) else ""
            text += f", and of {counted(asked, 'test question')}{trained} it gets {small['answers_lost']:.0f} wrong"
            text += " that the one we started from got right"
        parts.append(text + ".")
    order = orders.tg
    if len(order.first) == 1 and order.better(order.first[0], base):
        parts.append(f"The quickest, {order.first[0]}, writes {speedup_words(rows[order.first[0]])} as fast.")
    return " ".join(parts)


def _saved(row: Mapping[str, Any]) -> str:
    return f"{100 * (1 - 1 / row['compression_ratio']):.0f} %"


def _less_certain(row: Mapping[str, Any]) -> str:
    """The loss in perplexity for a layman, no more than its interval shows."""
    if row["ppl_increase_low_pct"] > 0:
        return f"its uncertainty about the next word grows by {significant(row['ppl_increase_pct'], 2)} %"
    return "no growth of its uncertainty about the next word is shown"
