"""The decision matrix: stars by a written rule, and what each format is best for."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.report.board import Boards
from labctl.report.figures import Figures
from labctl.report.order import Order, Orders, beaten_by, tells_little
from labctl.report.rules import Answer, smallest_passing
from labctl.report.scoring import perplexity_stars, quality_stars, size_stars, speed_stars
from labctl.report.text import cell, stars, words


def matrix(figures: Figures, orders: Orders, boards: Boards, uses: Sequence[tuple[str, Answer]]) -> list[list[str]]:
    """Rows of the decision matrix: format, size, perplexity, speed, quality, best for.

    Args:
        uses: the answers to Q13.
    """
    tags = best_for(figures, orders, boards, uses)
    lines = []
    for name, row in figures.items():
        increase = cell(row.increase, lambda change: stars(perplexity_stars(change.low_pct, change.high_pct)))
        lines.append(
            [
                name,
                cell(row.compression_ratio, lambda ratio: stars(size_stars(ratio))),
                stars(perplexity_stars(0.0, 0.0)) if row.verdict == "baseline" else increase,
                cell(row.speedup, lambda ratio: stars(speed_stars(ratio.low, ratio.high))),
                cell(row.kept, lambda kept: stars(quality_stars(kept.low_pct, kept.high_pct))),
                tags[name],
            ]
        )
    return lines


def best_for(figures: Figures, orders: Orders, boards: Boards, uses: Sequence[tuple[str, Answer]]) -> dict[str, str]:
    """What each format comes first in, alone or tied, and the uses it is the least format for (Q13)."""
    found: dict[str, list[str]] = {name: [] for name in figures}
    base = next(iter(figures))
    quantized = [name for name in figures if name != base]
    for label, order in (
        ("smallest file", orders.size),
        ("lowest perplexity of the quantized", orders.ppl.among(quantized)),
        ("fastest generation", orders.tg),
        ("fastest prompt reading", orders.pp),
        ("highest literal score (Q15)", boards.literal.order()),
        ("highest normalised score (Q15)", boards.normalised.order()),
    ):
        for name, text in _firsts(label, order).items():
            found[name].append(text)
    if figures[base].ppl is not None:
        found[base].append("reference quality")
    passing = smallest_passing(figures)
    if passing is not None:
        found[passing].append("smallest file that passes Q3")
    named = {}
    for name, labels in found.items():
        served = [use.lower() for use, answer in uses if answer.pick == name]
        labels += [f"least format for {words(served)} (Q13)"] if served else []
        better = beaten_by(name, (orders.size, orders.ppl, orders.tg)) if name in orders.size.names else None
        fallback = f"nothing: {better} is at least as small, as good and as fast" if better else "no first place"
        named[name] = "; ".join(labels) or fallback
    return named


def _firsts(label: str, order: Order) -> dict[str, str]:
    """Who comes first: alone, or tied with named others; a tie of more than half of the formats tells nothing."""
    first = order.first
    if len(order.names) < 2 or tells_little(order):
        return {}
    return {
        name: f"{label}{f', tied with {words(other for other in first if other != name)}' if len(first) > 1 else ''}"
        for name in first
    }
