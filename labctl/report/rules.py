"""Answers that a written rule decides from the figures: Q3, Q4, Q9 and Q10."""

from __future__ import annotations

import math
from dataclasses import dataclass

from labctl.records.units import percent, rate, significant, size_text, time_text
from labctl.report.figures import Figures, FormatFigures
from labctl.report.fit import FIT_RULE, TOO_LONG, TOO_LONG_WORDS, fit_table
from labctl.report.order import SMALLER, Orders
from labctl.report.text import NOT_MEASURED, counted, interval, speedup_words, words
from labctl.steps.generate.figures import Changes
from labctl.steps.intervals import ALPHA
from labctl.steps.measured import Measured
from labctl.steps.perplexity.figures import IncreaseFigures

SUMS = "sums"
VERDICTS = ("pass", "fail", "undecided")
NO_INCREASE = "Not measured: no quantized format has an increase of perplexity yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A rule, what it says here, and the format it picks (None: none)."""

    rule: str
    text: str
    pick: str | None = None


def displacement(figures: Figures) -> str:
    """That near the baseline a distance has no direction, by the answers that changed; empty where they show one.

    Source: arXiv 2606.19558: near the baseline neither perplexity nor KL divergence ranks formats by what they can do.
    """
    near = [name for name in judged(figures, "pass") if figures[name].changes is not None]
    found = [changes for name in near if (changes := figures[name].changes) is not None]
    if not near or any(changes.p < ALPHA for changes in found):
        return ""
    lost, gained = sum(one.lost for one in found), sum(one.gained for one in found)
    who = f"{words(near)}, which {'passes' if len(near) == 1 else 'pass'} the limit"
    changed = (
        f"{counted(lost, 'known answer')} {'was' if lost == 1 else 'were'} lost and {gained:,} gained, in no format"
        " more one way than chance allows"
    )
    return (
        "Near the baseline perplexity and KL divergence say how far a format has moved, not whether it can do less:"
        f" with {who}, {changed if lost or gained else 'no known answer changed'}."
    )


def increase_words(increase: IncreaseFigures | None) -> str:
    """The increase on the text measured: +2.08 % on all of the text, or +1.88 % (95 % interval +1.28 to +2.48 %)."""
    if increase is None:
        return NOT_MEASURED
    if increase.is_exact:
        return f"{percent(increase.pct)} on all of the text"
    return f"{percent(increase.pct)} (95 % interval {interval(increase.text_low_pct, increase.text_high_pct)})"


def price_words(increase: IncreaseFigures | None) -> str:
    """What settling an open verdict costs: about 530 more chunks (4 min) would settle it for this text: ..."""
    if increase is None or increase.n_chunks_needed is None:
        return "more chunks would settle it for this text: labctl perplexity --settle"
    more = increase.n_chunks_needed - increase.n_pairs
    time = "" if increase.s_needed is None else f" ({time_text(increase.s_needed)})"
    return f"about {counted(more, 'more chunk')}{time} would settle it for this text: labctl perplexity --settle"


def judged(figures: Figures, *verdicts: str) -> list[str]:
    """Formats with one of these verdicts."""
    return [name for name, row in figures.items() if row.verdict in verdicts]


def under_limit(figures: Figures, limit: float) -> Answer:
    """Q3: the verdict of every format."""
    bar = f"{100 * limit:g} %"
    rule = (
        f"Pass: on this text the increase lies under {bar}; all of the text was read, or the whole 95 % interval for it"
        " lies under. Fail: it lies above. Undecided: the interval contains the limit, so what was read does not settle"
        " it. Beside it stands the same for text like this one, of which the whole text is only a sample."
    )
    parts = [
        f"{head}: {words(names)}."
        for word, head in (("pass", "Pass"), ("undecided", "Undecided"), ("fail", "Fail"))
        if (names := judged(figures, word))
    ]
    missing = [name for name, row in figures.items() if row.verdict is None]
    parts += [f"Not measured: {words(missing)}."] if missing else []
    for name in judged(figures, "undecided"):
        increase = figures[name].increase
        parts.append(f"{name}, {increase_words(increase)}: {price_words(increase)}.")
    if beyond := open_beyond(figures):
        parts.append(
            f"For text like this one it is not settled for {words(beyond)}: what holds here need not hold there."
        )
    return Answer(rule=rule, text=" ".join(parts) or NO_INCREASE)


def open_beyond(figures: Figures) -> list[str]:
    """Formats with a verdict on this text that is not settled for text like it."""
    return [
        name
        for name in judged(figures, "pass", "fail")
        if (increase := figures[name].increase) is not None and increase.beyond == "undecided"
    ]


def is_smaller(row: FormatFigures) -> bool:
    """Whether the file saves space against the baseline; not so where every tensor stayed as it was."""
    return row.compression_ratio is None or row.compression_ratio >= SMALLER


def not_smaller(figures: Figures) -> list[str]:
    """Quantized formats that save nothing."""
    return [name for name in list(figures)[1:] if not is_smaller(figures[name])]


def smallest_passing(figures: Figures) -> str | None:
    """The smallest quantized format whose increase on this text is under the limit, and that saves space."""
    passing = {
        name: row.size_bytes
        for name in judged(figures, "pass")
        if (row := figures[name]).compression_ratio is not None and is_smaller(row) and row.size_bytes is not None
    }
    return min(passing, key=lambda name: passing[name], default=None)


def to_drop(figures: Figures, orders: Orders, limit: float) -> Answer:
    """Q4: the format with the largest proven loss."""
    rule = (
        f"Drop the format with the largest increase among those that fail the {100 * limit:g} % limit on the text"
        " measured; name the others that fail as well. If none fails, perplexity alone gives no reason to drop one."
    )
    loss = {name: increase.pct for name in judged(figures, "fail") if (increase := figures[name].increase) is not None}
    failing = sorted(loss, key=lambda name: -loss[name])
    if not judged(figures, *VERDICTS):
        return Answer(rule=rule, text=NO_INCREASE)
    if not failing:
        return Answer(rule=rule, text="None: no format is shown to exceed the limit.")
    worst, *others = failing
    text = f"{worst}: {increase_words(figures[worst].increase)}."
    if others:
        listed = words(f"{name} ({percent(loss[name])})" for name in others)
        text += f" Also above the limit: {listed}."
        close = [name for name in others if not orders.ppl.better(name, worst)]
        if close:
            text += f" Which of {words([worst, *close])} is the worst is not settled."
    return Answer(rule=rule, text=text, pick=worst)


def is_worse(changes: Changes | None) -> bool:
    """Whether McNemar's exact test shows more answers lost than gained against the baseline."""
    return changes is not None and changes.p < ALPHA and changes.lost > changes.gained


def in_ram(records: Measured, figures: Figures, orders: Orders, ram_gb: float) -> Answer:
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
        head = TOO_LONG_WORDS if least.verdict == TOO_LONG else "None fits comfortably."
        return Answer(rule=rule, text=f"{head} Nearest is {least.format}: {least.arithmetic}")
    base = records.formats[0]
    usable = [row for row in fitting if row.format == base or is_smaller(figures[row.format])] or fitting
    loss = {
        row.format: 0.0 if increase is None else increase.pct
        for row in usable
        if (increase := figures[row.format].increase) is not None or row.format == base
    }
    pick = min(loss, key=lambda name: loss[name]) if loss else max(usable, key=lambda row: row.need_bytes or 0).format
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
        close = [name for name in loss if name != pick and not orders.ppl.apart(pick, name)]
        if close:
            text += f" Not told apart from it in perplexity: {words(close)}."
    return Answer(rule=rule, text=text, pick=pick)


def production(records: Measured, figures: Figures, limit: float) -> Answer:
    """Q10: the smallest file that keeps the quality."""
    base = records.formats[0]
    rule = (
        f"The smallest file whose increase of perplexity is under {100 * limit:g} % on the text measured, and"
        f" which is at least {100 * (SMALLER - 1):.0f} % smaller than {base}. If there is none, stay with {base}."
    )
    if not judged(figures, *VERDICTS):
        return Answer(rule=rule, text=NO_INCREASE)
    undecided = judged(figures, "undecided")
    pick, same = smallest_passing(figures), not_smaller(figures)
    if pick is None:
        text = f"{base}: no smaller file is shown to stay under the limit."
        if same:
            text += f" {words(same)} {'saves' if len(same) == 1 else 'save'} no space against {base}."
        if undecided:
            text += f" Undecided: {words(f'{name}, {increase_words(figures[name].increase)}' for name in undecided)}."
        return Answer(rule=rule, text=text, pick=base)
    row = figures[pick]
    reasons = [f"perplexity {increase_words(row.increase)}"]
    if row.size_bytes is not None and row.compression_ratio is not None:
        ratio = significant(row.compression_ratio)
        reasons.insert(0, f"{size_text(row.size_bytes)}, {ratio} times smaller than {base}")
    if (speed := row.speed("tg")) is not None and speed.speedup is not None:
        reasons.append(f"{rate(speed.tps)} tokens/second, {speedup_words(speed.speedup)} {base}")
    if row.peak_rss_bytes is not None:
        reasons.append(f"{size_text(row.peak_rss_bytes)} peak memory")
    text = f"{pick}: {'; '.join(reasons)}."
    smaller = [name for name in undecided if (figures[name].size_bytes or math.inf) < (row.size_bytes or 0)]
    if smaller:
        listed = words(f"{name}, {increase_words(figures[name].increase)}" for name in smaller)
        text += f" Smaller but undecided: {listed}."
    if (changes := row.changes) is not None and is_worse(changes):
        text += f" Beware: {pick} loses {changes.lost} probe answers and gains {changes.gained}."
    return Answer(rule=rule, text=text, pick=pick)
