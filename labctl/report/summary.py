"""What a run found, in one line for the terminal."""

from __future__ import annotations

from labctl.records.units import significant
from labctl.report.figures import Figures
from labctl.report.rules import increase_words, is_smaller, judged, not_smaller, price_words, production
from labctl.report.text import words
from labctl.steps.measured import Measured


def answer_line(records: Measured, figures: Figures, limit: float) -> str:
    """Which format to use, by the rule of Q10; empty as long as nothing is measured that decides it."""
    bar = f"{100 * limit:g} %"
    pick = production(records, figures, limit).pick
    if pick is None:
        return ""
    base, row = records.formats[0], figures[pick]
    if pick != base and row.verdict == "pass":
        ratio = row.compression_ratio
        parts = [] if ratio is None else [f"{significant(ratio, 2)}x smaller than {base}"]
        parts.append(f"perplexity {increase_words(row.increase)}")
        return f"Use {pick}: {', '.join(parts)}; passes the limit of {bar}."
    undecided = [name for name in judged(figures, "undecided") if is_smaller(figures[name])]
    listed = "; ".join(
        f"{name}, {increase_words(increase)}: {price_words(increase)}"
        for name in undecided
        if (increase := figures[name].increase) is not None
    )
    open_ = f" Undecided: {listed}." if listed else ""
    if same := [name for name in not_smaller(figures) if figures[name].verdict == "pass"]:
        listed = f"{words(same)} {'is' if len(same) == 1 else 'are'}"
        return f"Keep {base}: {listed} no smaller, and no smaller file is shown to stay under {bar}.{open_}"
    return f"No smaller file is shown to stay under the limit of {bar}: keep {base}.{open_}"
