"""The worksheet's tables and sentences that weigh formats against each other: trade-offs and the combined score."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from labctl.lab.config import Weights
from labctl.records.units import rate, size_text
from labctl.report.board import Board, Boards
from labctl.report.figures import Figures, FormatFigures
from labctl.report.greedy import greedy_divergences
from labctl.report.order import Order, tied
from labctl.report.perplexity_tables import increase_cell
from labctl.report.rules import Answer, increase_words, is_smaller, not_smaller
from labctl.report.scoring import MAP_STEPS, PLACES_RULE, weigh
from labctl.report.text import NOT_MEASURED, cell, interval, table, words
from labctl.steps.measured import Measured


def compared(figures: Figures, names: Sequence[str]) -> str:
    """Q12: the chosen formats beside each other."""
    return summary({name: figures[name] for name in names if name in figures})


def summary(figures: Figures) -> str:
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
                cell(row.size_bytes, size_text),
                "baseline" if row.verdict == "baseline" else _increase(row),
                row.verdict or NOT_MEASURED,
                cell(row.speed("tg"), lambda speed: rate(speed.tps)),
                cell(row.speed("pp"), lambda speed: rate(speed.tps)),
                cell(row.peak_rss_bytes, size_text),
                cell(row.changes, lambda changes: f"{changes.lost} / {changes.gained}"),
            )
            for name, row in figures.items()
        ),
    )


def _increase(row: FormatFigures) -> str:
    bounds = "" if row.increase is None else f" ({interval(row.increase.low_pct, row.increase.high_pct)})"
    return increase_cell(row) + bounds


def prediction(records: Measured, figures: Figures) -> str:
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
                increase_cell(row),
                cell(row.changes, lambda changes: str(changes.lost)),
                cell(row.changes, lambda changes: str(changes.gained)),
                f"{statistics.fmean(one.n_same for one in same[name].values()):.1f}"
                if same.get(name)
                else NOT_MEASURED,
            )
            for name, row in list(figures.items())[1:]
        ),
    )


def scores(figures: Figures, boards: Boards) -> str:
    """Q15: terms, totals and places of both scores."""
    found = {score.format for score in boards.literal.scores}
    places = [board.order().ranks for board in boards.both]
    header = ("Format", "size_score", "quality_score", "speed_score", "Literal score", "Place")
    lines = []
    for name, row in figures.items():
        if name not in found:
            reason = NOT_MEASURED if found and is_smaller(row) else f"no smaller than {next(iter(figures))}"
            lines.append([name, *[reason if found else NOT_MEASURED] * 8])
            continue
        literal, scaled = (board.score(name) for board in boards.both)
        lines.append(
            [
                name,
                *(f"{term:.3f}" for term in literal.terms),
                f"{literal.total:.3f}",
                place(places[0][name]),
                " / ".join(f"{term:.2f}" for term in scaled.terms),
                f"{scaled.total:.3f}",
                place(places[1][name]),
            ]
        )
    return table((*header, "Normalised terms", "Normalised score", "Place"), lines)


def place(ends: tuple[int, int]) -> str:
    """A place in an order, or the places that it can be: 1, or 1 to 3."""
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def sweet_spot(figures: Figures, boards: Boards) -> Answer:
    """Q11: the highest normalised score under equal weights."""
    rule = (
        "The highest normalised score (see Q15) with size, quality and speed weighted equally, one third each."
        f" {PLACES_RULE} Beside it: who has the highest score for what share of all weightings."
    )
    board = boards.normalised
    if not boards.comparable:
        return Answer(rule=rule, text=too_little(figures))
    order = board.order((1 / 3, 1 / 3, 1 / 3))
    text = _leader(board, order, (1 / 3, 1 / 3, 1 / 3))
    text = f"{text[0].upper()}{text[1:]}"
    shares, surely = (getattr(board.map(MAP_STEPS), kind) for kind in ("shares", "settled_shares"))
    listed = words(f"{name} for {100 * share:.0f} %" for name, share in shares.items() if share >= 0.005)
    settled = math.fsum(surely.values())
    text += f" Over all weightings the highest score is that of {listed}; {_settled_words(settled)}."
    pick = order.first[0] if len(order.first) == 1 else None
    for name in order.first if pick else ():
        row = figures[name]
        if row.verdict in ("fail", "undecided"):
            state = "is above" if row.verdict == "fail" else "is not shown to be under"
            text += (
                f" Its increase of perplexity, {increase_words(row.increase)}, {state} the limit of Q3: the score"
                " trades that for size and speed."
            )
    return Answer(rule=rule, text=text, pick=pick)


def _settled_words(share: float) -> str:
    if share > 0.995:
        return "the intervals leave no other first place"
    if share < 0.005:
        return "by the intervals none of these first places is settled"
    return f"by the intervals the first place is settled for {100 * share:.0f} % of them"


def _leader(board: Board, order: Order, weights: Weights) -> str:
    """Who has the highest score, and whether that is settled."""
    totals = {score.format: weigh(score.terms, weights) for score in board.scores}
    first, others = order.first[0], [name for name in order.names if name != order.first[0]]
    if len(order.first) > 1:
        listed = words((f"{name} ({totals[name]:.3f})" for name in order.first), "or")
        return f"not settled, {listed}: the intervals of quality and speed allow each of them the first place."
    return (
        f"{first} with {totals[first]:.3f}, ahead of {others[0]} with {totals[others[0]]:.3f} by more than the"
        " intervals of quality and speed can move."
    )


def too_little(figures: Figures) -> str:
    """Why there is no score, as a sentence."""
    return f"There is nothing to rank: {missing_words(figures)}."


def missing_words(figures: Figures) -> str:
    """What keeps formats out of the scores: figures that are missing, or no space saved; empty if all take part."""
    base = next(iter(figures))
    if len(figures) == 1:
        return f"{base} is the only format of this lab"
    groups: dict[str, list[str]] = {}
    for name, row in figures.items():
        needed = {"size": row.size_bytes, "perplexity": row.ppl, "speed": row.speed("tg")}
        missing = [what for what, value in needed.items() if value is None]
        if missing:
            reason = f"{words(missing)} {'is' if len(missing) == 1 else 'are'} not measured"
            groups.setdefault(reason, []).append(name)
    parts = [
        reason + ("" if len(names) == len(figures) else f" for {words(names)}") for reason, names in groups.items()
    ]
    same = not_smaller(figures)
    parts += [f"{words(same)} {'is' if len(same) == 1 else 'are'} no smaller than {base}"] if same else []
    return "; ".join(parts)


def score_words(figures: Figures, boards: Boards) -> str:
    """Q15 in words, with how sure the lead is."""
    if not boards.comparable:
        return too_little(figures)
    return " ".join(
        f"{head}: {_leader(board, board.order(), board.weights)}"
        for head, board in (("Literal score", boards.literal), ("Normalised score", boards.normalised))
    )


def change_words(figures: Figures, boards: Boards, weights: Weights) -> str:
    """Q16 in words, for both scores."""
    if not boards.comparable:
        return too_little(figures)
    parts = []
    for head, board in (("Literal score", boards.literal), ("Normalised score", boards.normalised)):
        before, after = (board.order(one).first for one in (None, weights))
        if not set(before) & set(after):
            text = f"yes, from {tied(before)} to {tied(after)}"
        elif set(before) == set(after):
            text = f"no, it stays {before[0]}" if len(before) == 1 else f"not settled, before and after: {tied(after)}"
        else:
            text = f"not settled: before {tied(before)}, after {tied(after)}"
        parts.append(f"{head}: {text}.")
    return " ".join(parts)


def winners(board: Board, steps: int = 5) -> str:
    """Q16: who can be first, for weights in steps of 20 %."""
    share = 100 // steps

    def first(size_steps: int, speed_steps: int) -> str:
        if size_steps + speed_steps > steps:
            return ""
        names = board.order((size_steps / steps, (steps - size_steps - speed_steps) / steps, speed_steps / steps)).first
        return " / ".join(names) if len(names) < 4 else f"{names[0]} or {len(names) - 1} others"

    return table(
        ("Size weight \\ speed weight", *(f"{share * speed} %" for speed in range(steps + 1))),
        ((f"{share * s} %", *(first(s, speed) for speed in range(steps + 1))) for s in range(steps + 1)),
    )


def shares(boards: Boards) -> str:
    """Q16: share of all weightings at which each format has the highest score, and at which that is settled."""
    maps = [board.map(MAP_STEPS) for board in boards.both]
    names = [score.format for score in boards.literal.scores if any(score.format in one.shares for one in maps)]
    return table(
        ("Format", "Literal: highest", "settled", "Normalised: highest", "settled"),
        (
            (name, *(f"{100 * found.get(name, 0):.0f} %" for one in maps for found in (one.shares, one.settled_shares)))
            for name in names
        ),
    )
