"""Drafts for the questions of judgement (Q6, Q12, Q14, Q17, Q18): sentences that the figures decide."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from labctl.records.units import percent, rate, significant, size_text
from labctl.report.demo_training import training_note
from labctl.report.figures import Figures, FormatFigures
from labctl.report.gaps import content_notes
from labctl.report.greedy import greedy_divergences, loop_words, loops, same_texts_words
from labctl.report.order import Orders
from labctl.report.rules import Answer, displacement, is_worse
from labctl.report.text import cell, counted, speedup_words, words
from labctl.steps.bench.ratios import times
from labctl.steps.bench.record import Test
from labctl.steps.generate.answers import answer_changes, probe_names
from labctl.steps.generate.step import GENERATE
from labctl.steps.intervals import ALPHA, mcnemar_exact
from labctl.steps.measured import Measured
from labctl.steps.perplexity.figures import Floats, common_chunks
from labctl.steps.perplexity.increase import paired_increase
from labctl.steps.quantize.step import QUANTIZE


def quality_loss(records: Measured, figures: Figures) -> str:
    """Q6: is the loss visible, and where?"""
    base = records.formats[0]
    tested = {name: row.changes for name, row in figures.items() if name != base and row.changes is not None}
    worse = [name for name in tested if is_worse(tested[name])]
    unshown = [name for name in tested if name not in worse]
    parts = []
    if worse:
        listed = words(
            f"{name} (loses {tested[name].lost} answers that {base} has right, gains {tested[name].gained})"
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


def large_against_small(records: Measured, figures: Figures, large: str = "Q8_0", small: str = "Q4_K_M") -> str:
    """Q12: where Q8_0 beats Q4_K_M, by what the intervals of their differences show."""
    absent = [name for name in (large, small) if name not in figures]
    if absent:
        return f"This lab has no {words(absent, 'or')}, so it cannot compare the two."
    a, b = figures[large], figures[small]
    orders = Orders(records, figures)
    parts = []
    if a.increase is not None and b.increase is not None:
        numbers = f"{percent(a.increase.pct)} perplexity against {percent(b.increase.pct)}"
        if orders.ppl.better(large, small):
            parts.append(
                f"{large} stays closer to the baseline: {numbers}. That favours it where small errors count and there"
                " is room for a larger file: exact facts, code, arithmetic, or as the copy that other versions are"
                " compared with."
            )
        elif orders.ppl.better(small, large):
            parts.append(f"Perplexity speaks against {large}: {numbers}.")
        else:
            parts.append(f"Perplexity does not tell the two apart: {numbers}.")
    if a.changes is not None and b.changes is not None:
        right = {name: sum(probe.n_correct for probe in records.of(GENERATE)[name].probes) for name in (large, small)}
        numbers = f"{right[large]} right against {right[small]}"
        if orders.answers.apart(large, small):
            more = "more" if orders.answers.better(large, small) else "fewer"
            parts.append(f"On the probes {large} answers {more} correctly, beyond chance: {numbers}.")
        else:
            parts.append(f"On the probes the two are not told apart: {numbers}.")
    tests: tuple[tuple[Test, str], ...] = (
        ("pp", "reading prompts (long documents, short answers)"),
        ("tg", "generating text"),
    )
    for test, task in tests:
        order, speeds = orders.speed(test), (a.speed(test), b.speed(test))
        if (large, small) in order.pairs:
            numbers = (
                " against ".join(cell(speed, lambda speed: rate(speed.tps)) for speed in speeds) + " tokens/second"
            )
            if order.apart(large, small):
                verb = "faster" if order.better(large, small) else "slower"
                parts.append(f"{large} is {verb} at {task}: {numbers}.")
            else:
                parts.append(f"At {task} neither is shown to be faster.")
    if orders.size.better(small, large):
        parts.append(f"Its price is the file: {cell(a.size_bytes, size_text)} against {cell(b.size_bytes, size_text)}.")
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


def prediction(records: Measured, figures: Figures, nll: Mapping[str, Floats]) -> str:
    """Q14: does perplexity predict what the probes and texts show?"""
    base = records.formats[0]
    loss = {
        name: row.increase
        for name, row in figures.items()
        if name != base and row.increase is not None and row.changes is not None
    }
    both = list(loss)
    if len(both) < 3:
        return "Fewer than three formats have both perplexity and probe answers, so this lab cannot say."
    net = {name: changes.gained - changes.lost for name in both if (changes := figures[name].changes) is not None}
    correlation = spearman([loss[name].pct for name in both], [-net[name] for name in both])
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
    parts += _rank_agreement(figures, both)
    silent = [name for name in both if loss[name].low_pct > 0 and not is_worse(figures[name].changes)]
    if silent:
        worst = max(silent, key=lambda name: loss[name].pct)
        parts.append(
            f"Perplexity sees changes that the probes do not: {worst} has"
            f" {percent(loss[worst].pct)} and shows no loss of answers beyond chance."
        )
    swaps = [
        (net[b] - net[a], a, b)
        for a in both
        for b in both
        if net[b] > net[a] and a in nll and b in nll and _lower(nll[a], nll[b])
    ]
    if swaps:
        ahead, a, b = max(swaps)
        lost, gained, _ = answer_changes(records.of(GENERATE)[b], records.of(GENERATE)[a], probe_names(records))
        chance = "beyond chance" if mcnemar_exact(lost, gained) < ALPHA else "which can be chance"
        parts.append(
            f"The orders disagree: {a} has the lower perplexity, yet {b} gets {ahead} more right on the probes"
            f" ({chance})."
        )
    shown = [name for name in both if is_worse(figures[name].changes)]
    if shown:
        top = max(both, key=lambda name: loss[name].pct)
        verb = "agrees" if top in shown else "disagrees"
        parts.append(
            f"Where the probes do show a loss ({words(shown)}), perplexity {verb}: its largest increase is {top}'s."
        )
    parts += filter(None, [displacement(figures)])
    parts.append(
        "Perplexity averages over every word of one text; it does not ask whether the one word that matters in an"
        " answer is right."
    )
    return " ".join(parts)


def _rank_agreement(figures: Figures, names: Sequence[str]) -> list[str]:
    """Rank correlations between perplexity and the measures that look at every prediction."""

    def correlation(harm: Callable[[FormatFigures], float | None]) -> float:
        pairs = [
            (row.increase.pct, value)
            for row in (figures[name] for name in names)
            if row.increase is not None and (value := harm(row)) is not None
        ]
        return spearman([loss for loss, _ in pairs], [value for _, value in pairs]) if len(pairs) > 2 else math.nan

    measures: tuple[tuple[str, Callable[[FormatFigures], float | None]], ...] = (
        ("KL divergence", lambda row: row.kld_mean),
        ("top tokens that differ", lambda row: row.tops_differ_pct),
        ("greedy text that differs", lambda row: row.greedy_differs_pct),
    )
    told = [(what, rank) for what, harm in measures if not math.isnan(rank := correlation(harm))]
    if not told:
        return []
    listed = ", ".join(f"{what} {rank:.2f}" for what, rank in told)
    return [f"Rank correlation of the increase in perplexity with other measures: {listed}."]


def _lower(one: Floats, other: Floats) -> bool:
    """Whether the first has the lower perplexity with its whole paired interval."""
    return bool(common_chunks({"one": one, "other": other}).size) and paired_increase(other, one).low > 0


def surprises(records: Measured, figures: Figures, orders: Orders) -> list[str]:
    """Q17: findings that go against the expected order, by fixed checks, the least expected first."""
    base = records.formats[0]
    found = []
    for name, row in figures.items():
        if row.increase is not None and row.increase.high_pct < 0:
            found.append(f"{name} has a lower perplexity than {base}: {percent(row.increase.pct)}.")
    tests: tuple[tuple[Test, str], ...] = (("tg", "generates text"), ("pp", "reads a prompt"))
    for test, task in tests:
        order = orders.speed(test)
        slower = [(order.pairs[b, a].low, a, b) for b, a in order.shown if orders.size.better(a, b)]
        _, a, b = max(slower, default=(0.0, "", ""))
        if (ratio := orders.ratio(b, a, test)) is not None:
            found.append(
                f"{a} is the smaller file but {task} more slowly than {b}, which has"
                f" {times(ratio.ratio, ratio.low, ratio.high)} times its speed."
            )
    gains = {
        name: changes.gained - changes.lost
        for name, row in figures.items()
        if (changes := row.changes) is not None and changes.gained > changes.lost
    }
    if gains:
        listed = words(f"{name} (+{more})" for name, more in gains.items())
        shown = [name for name in gains if orders.answers.better(name, base)]
        chance = f"beyond chance for {words(shown)}" if shown else "so few can be chance"
        found.append(f"More probe answers right than {base} has: {listed}; {chance}.")
    for name, file in records.of(QUANTIZE).items():
        nominal = _nominal_bits(name)
        if name in figures and nominal is not None and file.bpw > 1.25 * nominal and content_notes(file):
            found.append(
                f"{name} holds {file.bpw:.2f} bits per weight, not about {nominal}: its largest part is"
                f" {file.main_type}."
            )
    return found


def _nominal_bits(name: str) -> int | None:
    """The number in a k-quant's or legacy quant's name."""
    digits = name.removeprefix("I").removeprefix("Q")[:1]
    return int(digits) if name.startswith(("Q", "IQ")) and digits.isdigit() else None


def surprise_draft(figures: Figures, found: Sequence[str]) -> str:
    """Q17 in a sentence or two."""
    quantized = list(figures.values())[1:]
    if all(row.increase is None and row.speedup is None and row.changes is None for row in quantized):
        return "Too little was measured to be surprised by."
    if not found:
        return (
            "Nothing measured is shown to go against the expected order (smaller is faster, and of higher perplexity)."
        )
    return f"Least expected of the figures: {found[0]}"


def for_everyone(records: Measured, figures: Figures, pick: Answer) -> str:
    """Q18: the trade-off without technical words."""
    base = records.formats[0]
    if pick.pick is None or base not in figures:
        return "Not enough was measured to tell the trade-off."
    parts = [
        "Making a language model smaller is like saving a photo with fewer colours: the file shrinks, the picture stays"
        " recognisable, and at some point you begin to see the difference."
    ]
    row = figures[pick.pick]
    if pick.pick == base:
        parts.append("Here no smaller version is proven to stay as close to the one we started from as we asked.")
    elif row.compression_ratio is not None:
        parts.append(f"The version called {pick.pick} needs {_saved(row)} less space, and {_less_certain(row)}.")
    orders = Orders(records, figures)
    least = orders.size.names[0] if orders.size.names else base
    small = figures[least]
    if least not in (base, pick.pick) and orders.size.better(least, pick.pick) and small.increase is not None:
        text = f"The smallest version, {least}, saves {_saved(small)}, but there {_less_certain(small)}"
        if small.changes is not None and small.changes.lost > 0:
            asked = sum(len(probe.answers) for probe in records.of(GENERATE)[least].probes)
            trained = ", many of them from its training," if training_note(records) else ""
            text += f", and of {counted(asked, 'test question')}{trained} it gets {small.changes.lost} wrong"
            text += " that the one we started from got right"
        parts.append(text + ".")
    order = orders.tg
    speedup = figures[order.first[0]].speedup if len(order.first) == 1 else None
    if speedup is not None and order.better(order.first[0], base):
        parts.append(f"The quickest, {order.first[0]}, writes {speedup_words(speedup)} as fast.")
    return " ".join(parts)


def _saved(row: FormatFigures) -> str:
    return cell(row.compression_ratio, lambda ratio: f"{100 * (1 - 1 / ratio):.0f} %")


def _less_certain(row: FormatFigures) -> str:
    """The loss in perplexity for a layman, no more than its interval shows."""
    if row.increase is not None and row.increase.low_pct > 0:
        return f"its uncertainty about the next word grows by {significant(row.increase.pct, 2)} %"
    return "no growth of its uncertainty about the next word is shown"
