"""The worksheet's tables of perplexity and divergence (Q2, Q3, Q6), and how the chunks of the text were used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from labctl.records.units import percent, significant
from labctl.report.figures import Figures, FormatFigures
from labctl.report.order import Order
from labctl.report.text import NOT_MEASURED, cell, counted, faint, interval, table, words
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.measured import Measured
from labctl.steps.perplexity.figures import IncreaseFigures, PerplexityFigures
from labctl.steps.perplexity.record import COMMON_CHUNKS, PerplexityRun
from labctl.steps.perplexity.step import PERPLEXITY

_FEW_PAIRS = 5  # that a sentence still names


def perplexities(figures: Figures) -> str:
    """Q2."""
    return table(
        ("Format", "Perplexity ± standard error", "Increase", "95 % interval for text like this", "Chunks"),
        (
            (
                name,
                cell(row.perplexity, _ppl),
                *(("baseline",) * 2 if row.verdict == "baseline" else _increase(row)),
                cell(row.perplexity, lambda texts: str(texts.n_chunks)),
            )
            for name, row in figures.items()
        ),
    )


def _ppl(texts: PerplexityFigures) -> str:
    return NOT_MEASURED if texts.ppl is None else f"{texts.ppl:.4f} ± {texts.ppl_se:.4f}"


def _increase(row: FormatFigures) -> tuple[str, str]:
    """The increase and its interval as cells."""
    return (increase_cell(row), cell(row.increase, lambda increase: interval(increase.low_pct, increase.high_pct)))


def increase_cell(row: FormatFigures) -> str:
    """The increase; faint where it is no more than arithmetic."""
    shown = cell(row.increase_pct, percent)
    return faint(shown) if row.increase_is_noise else shown


def perplexity_notes(records: Measured, figures: Figures) -> list[str]:
    """What a chunk is, how many each format was measured on and why, and how the interval is made."""
    runs = {name: records.of(PERPLEXITY)[name] for name, row in figures.items() if row.perplexity is not None}
    if not runs:
        return []
    base = records.formats[0]
    some = next(iter(runs.values()))
    notes = [
        f"A chunk is a piece of the text of {counted(some.n_ctx, 'token')}, read from its start; its last"
        f" {counted(some.n_scored_per_chunk, 'token')} are scored. {_chunks_used(runs, figures, base)}"
    ]
    if base not in runs:
        return [*notes, f"There is no increase without the perplexity of {base}, the baseline."]
    judged = {name: increase for name in runs if (increase := figures[name].increase) is not None}
    if judged:
        notes.append(_interval_made(runs, list(judged), base))
    if any(math.isinf(increase.high_pct) for increase in judged.values()):
        notes.append("Where the interval is open, it has no bounds: one chunk gives none.")
    texts = [row.perplexity for row in figures.values() if row.perplexity is not None]
    shared, most = min(one.n_chunks_common for one in texts), max(one.n_chunks for one in texts)
    if judged and shared < most:
        notes.append(
            f"The perplexities are taken over the {counted(shared, 'chunk')} that all formats share; each increase over"
            f" all chunks that the format shares with {base}, so it can differ a little from the ratio of the"
            " perplexities."
        )
    return notes


def _chunks_used(runs: Mapping[str, PerplexityRun], figures: Figures, base: str) -> str:
    counts = {name: texts.n_chunks for name in runs if (texts := figures[name].perplexity) is not None}
    n_text = next(iter(runs.values())).n_chunks_text
    floor, most = min(counts.values()), max(counts.values())
    who = "Every format was" if len(runs) > 1 else f"{next(iter(runs))} was"
    if floor == n_text:
        return f"{who} measured on the whole text, {counted(n_text, 'chunk')}."
    if not any(run.order_seed is not None for run in runs.values()):
        if floor == most:
            return f"{who} measured on the first {floor} of {counted(n_text, 'chunk')}."
        return f"The formats were measured on {floor} to {most} of {counted(n_text, 'chunk')}, as the table says."
    text = (
        f"Chunks come in one shuffled order, the same for all formats. {who} measured on the first {floor} of {n_text}"
    )
    others = [name for name in runs if figures[name].increase is not None]
    still_open = [name for name in others if figures[name].verdict == "undecided"]
    at_the_end = (
        f"Still open at the end: {words(still_open)}." if still_open else "In the end every verdict was settled."
    )
    if floor == most or not others:
        by_then = "By then every verdict was settled." if others and not still_open else at_the_end if others else ""
        return f"{text}. {by_then}".rstrip()
    longer = [name for name in others if counts[name] > max(floor, COMMON_CHUNKS)]
    if floor < COMMON_CHUNKS or not longer:
        return f"{text}, some on more, as the table says. {at_the_end}"
    listed = words(f"{name} to {counts[name]}" for name in longer)
    why = "its verdict was" if len(longer) == 1 else "their verdicts were"
    return f"{text}; {listed} went on because {why} still open then. {at_the_end}"


def _interval_made(runs: Mapping[str, PerplexityRun], judged: list[str], base: str) -> str:
    sequential = [name for name in judged if runs[name].could_stop]
    plain = [name for name in judged if name not in sequential]
    note = (
        f"The interval is paired: a format and {base} read the same chunks, and it is the interval of their mean"
        " difference (in nats a token, then turned into percent), so that what makes a chunk hard for both drops out."
        " Chunks count as independent of each other."
    )
    student = "Student's t over the chunks"
    holds = (
        "bounds that hold at every look at once, because measuring may stop at any look (a confidence sequence: Wang"
        " and Ramdas 2023, arXiv 2310.03722, with Hall's correction for skewness, 1992); they are wider than"
        f" {student} and need not be symmetric"
    )
    if not sequential:
        return f"{note} Method: {student}."
    if not plain:
        return f"{note} Method: {holds}."
    return f"{note} Method: {holds}; for {words(plain)}: {student}."


def pairs(order: Order) -> tuple[str, str]:
    """Every two formats against each other (Q4): the table, and which of them are not told apart; empty for one."""
    names = order.names
    if not any(pair in order.pairs for pair in itertools.combinations(names, 2)):
        return "", ""
    rows = [
        (worse, *(_pair(order, better, worse) for better in names[:place]), *["-"] * (len(names) - 1 - place))
        for place, worse in enumerate(names)
        if place
    ]
    known = [pair for pair in itertools.combinations(names, 2) if pair in order.pairs]
    same = [f"{a} and {b}" for a, b in known if not order.apart(a, b)]
    told = "All of them are told apart."
    if same:
        few = len(same) <= _FEW_PAIRS
        told = f"Not told apart: {'; '.join(same)}." if few else f"{len(same)} of {len(known)} are not told apart."
    return table(("Format", *names[:-1]), rows), told


def _pair(order: Order, better: str, worse: str) -> str:
    """How far one format's perplexity lies above another's; faint where the interval leaves it open."""
    pair = order.pairs.get((better, worse))
    if pair is None:
        return NOT_MEASURED
    shown = interval(100 * (pair.low - 1), 100 * (pair.high - 1))
    return shown if order.apart(better, worse) else faint(shown)


def divergences(figures: Figures) -> str:
    """Evidence for Q6 and Q14: how far the predictions are from the baseline's; empty if nothing was measured."""
    runs = {name: row.divergence for name, row in figures.items() if row.divergence is not None}
    if not runs:
        return ""
    return table(
        ("Format", "KL divergence, mean", "95 % interval", "median", "p90", "p99", "max", "Same top token"),
        (
            (
                name,
                faint(f"{run.kld_mean:.5f}") if figures[name].divergence_is_noise else f"{run.kld_mean:.5f}",
                f"{run.kld_mean_low:.5f} to {run.kld_mean_high:.5f}" if math.isfinite(run.kld_mean_high) else "open",
                *(f"{value:.4f}" for value in (run.kld_median, run.kld_p90, run.kld_p99, run.kld_max)),
                f"{run.same_top_pct:.2f} % ({run.same_top_low_pct:.2f} to {run.same_top_high_pct:.2f} %)",
            )
            for name, run in runs.items()
        ),
    )


def noise_note(figures: Figures, base: str) -> str:
    """What arithmetic alone changes, and so which differences mean nothing; empty where it was not measured."""
    noise = next((row.noise for row in figures.values() if row.noise is not None), None)
    if noise is None:
        return ""
    again = (
        f"The noise of arithmetic: {counted(noise.n_chunks, 'chunk')} of the text were computed by {base} twice, the"
        f" second time {noise.n_at_once} tokens at once, which changes no weight and only the order of the sums."
    )
    if noise.is_none:
        return f"{again} The digits are the same: on this machine the arithmetic adds nothing to a difference."
    found = (
        f"The two are apart by a KL divergence of {significant(noise.kld_mean, 2)} nats a token, and have the same top"
        f" token at {noise.same_top_pct:.2f} % of {counted(noise.n_tokens, 'token')}."
    )
    floors = {name: row.noise_pct for name, row in figures.items() if row.noise_pct is not None}
    if floors:
        low, high = significant(min(floors.values()), 2), significant(max(floors.values()), 2)
        found += (
            f" Over as many chunks as the increases rest on, that alone moves a perplexity by up to about"
            f" {low if low == high else f'{low} to {high}'} %."
        )
    below = [name for name, row in figures.items() if row.increase_is_noise or row.divergence_is_noise]
    if not floors and all(row.kld_mean is None for row in figures.values()):
        return f"{again} {found}"  # nothing was compared
    if not below:
        return f"{again} {found} Every difference in the tables is larger."
    return (
        f"{again} {found} What is not larger stands in small grey print ({words(below)}): it tells no more of a format"
        " than of the order of the sums."
    )


def divergence_note(records: Measured) -> str:
    """What the divergence table counts."""
    run = next(iter(records.of(DIVERGENCE).values()), None)
    if run is None:
        return ""
    base = records.formats[0]
    return (
        f"KL divergence from {base}, in nats a token: how much the format's probabilities for the next token differ"
        f" from {base}'s, 0 for none. Same top token: share of places where both find the same token most likely. Over"
        f" {counted(run.n_tokens, 'token')} in {counted(run.n_chunks, 'chunk')}; intervals by chunk."
    )


def verdicts(figures: Figures) -> str:
    """Q3: for the text that was read, and for text like it."""
    return table(
        ("Format", "Increase", "On this text, 95 % interval", "Verdict", "Text like it, 95 % interval", "Verdict"),
        (
            (
                name,
                increase_cell(row),
                cell(row.increase, _on_text),
                row.verdict or NOT_MEASURED,
                cell(row.increase, lambda increase: interval(increase.low_pct, increase.high_pct)),
                cell(row.increase, lambda increase: increase.beyond),
            )
            for name, row in figures.items()
            if row.verdict != "baseline"
        ),
        left=(0, 3, 5),
    )


def _on_text(increase: IncreaseFigures) -> str:
    if increase.is_exact:
        return "all of it read"
    return interval(increase.text_low_pct, increase.text_high_pct)
