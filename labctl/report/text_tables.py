"""The worksheet's tables of generated texts (Q5, Q6): side by side, tokens in common, loops, the worst texts."""

from __future__ import annotations

from labctl.report.figures import Figures
from labctl.report.greedy import greedy_divergences, loop_quote, loops, same_words
from labctl.report.text import NOT_MEASURED, counted, escape, quote, table
from labctl.steps.generate.answers import first_divergence, split_text
from labctl.steps.generate.record import Generation
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured

SIDE_BY_SIDE = ("Q5_K_M", "Q4_K_M", "Q3_K_M")


def side_by_side(records: Measured, prompt_number: int = 2) -> str:
    """Q5: sampled and greedy text of one prompt, and the first greedy token that is not the baseline's."""
    base = records.formats[0]
    lines = []
    whole = set(SIDE_BY_SIDE) <= set(records.formats)
    for name in (base, *(SIDE_BY_SIDE if whole else records.formats[1:])):
        run = records.of(GENERATE).get(name)
        texts = [run.find(prompt_number, decoding) if run else None for decoding in ("sampled", "greedy")]
        lines.append(
            [
                name,
                NOT_MEASURED if texts[0] is None else quote(texts[0].text),
                NOT_MEASURED if texts[1] is None else _marked(records, name, texts[1]),
                _leaves(records, name, texts[1]),
            ]
        )
    return table(("Format", "Sampled", "Greedy", f"First greedy token that is not {base}'s"), lines, left=range(4))


def written_together(records: Measured) -> str:
    """A sentence on texts that were written side by side, after a space; empty where each was written alone."""
    counts = {run.provenance.settings.get("texts_side_by_side") for run in records.of(GENERATE).values()}
    many = max((count for count in counts if isinstance(count, int)), default=0)
    if not many:
        return ""
    return (
        f" With a model of this size, {many} texts of a kind are written at a time, which is faster; sums then come out"
        " in another order, and a text may turn elsewhere than one that is written alone."
    )


def _marked(records: Measured, name: str, greedy: Generation) -> str:
    """A greedy text with the first token that is not the baseline's in bold."""
    base_run = records.of(GENERATE).get(records.formats[0])
    base = base_run.find(greedy.prompt_number, "greedy") if base_run and name != records.formats[0] else None
    same, first, rest = split_text(greedy, base)
    if first is None or not first.strip():
        return quote(greedy.text)
    ends = first.partition(first.strip())
    # Two stars beside a sign and a letter are no bold in Markdown.
    opened, closed = ("**", "**") if ends[1][0].isalnum() and ends[1][-1].isalnum() else ("<strong>", "</strong>")
    same, first, rest = (escape(part, newline=" ⏎ ") for part in (same + ends[0], ends[1], ends[2] + rest))
    return f'"{same}{opened}{first}{closed}{rest}"' if first.strip() else quote(greedy.text)


def _leaves(records: Measured, name: str, greedy: Generation | None) -> str:
    base = records.formats[0]
    if name == base:
        return "baseline"
    base_run = records.of(GENERATE).get(base)
    theirs = base_run.find(greedy.prompt_number, "greedy") if base_run and greedy else None
    if greedy is None or theirs is None:
        return NOT_MEASURED
    found = first_divergence(greedy, theirs)
    if found.identical:
        return f"none: {same_words(found)} the same" if found.n_tokens else "none: both are empty"
    if not found.n_tokens:
        return f"the text of {base} is empty"
    mine, other = ("ends" if piece is None else quote(piece) for piece in (found.piece, found.base_piece))
    return f"after {found.n_same} of {counted(found.n_tokens, 'token')}: {mine}; {base}: {other}"


def same_tokens(records: Measured) -> str:
    """Q6: tokens in common with the baseline from the start, per prompt and of all."""
    found = greedy_divergences(records)
    numbers = sorted({number for by_prompt in found.values() for number in by_prompt})
    if not numbers:
        return f"{NOT_MEASURED.capitalize()}."
    lines = []
    for name in records.formats[1:]:
        places = found.get(name, {})
        same, n = (sum(one.n_same for one in places.values()), sum(one.n_tokens for one in places.values()))
        lines.append(
            [
                name,
                *(same_words(places[number]) if number in places else NOT_MEASURED for number in numbers),
                f"{same} of {n} ({100 * same / n:.0f} %)" if n else NOT_MEASURED,
            ]
        )
    return table(("Format", *(f"Prompt {number}" for number in numbers), "All prompts"), lines)


def looping(records: Measured) -> str:
    """Q6: texts that go round in circles where the baseline's does not; empty without one."""
    found = loops(records)
    if not found:
        return ""
    base = records.formats[0]
    return table(
        ("Format", "Prompt", "Text", "Repeated", f"In {base}'s text", "Where it goes round"),
        (
            (
                loop.format,
                str(loop.prompt_number),
                loop.decoding,
                f"{100 * loop.share:.0f} %",
                f"{100 * loop.base_share:.0f} %",
                loop_quote(loop),
            )
            for loop in found
        ),
        left=(0, 2, 5),
    )


def worst_beside_base(records: Measured, figures: Figures, shown_prompt: int = 2) -> tuple[str, str]:
    """Q6: the greedy texts of the format with the largest loss beside the baseline's; prompt 2 stands in Q5 already.

    Returns: which format and why, and the table; both empty where there are no texts, or none differs.
    """
    base = records.formats[0]
    leaving = {
        name: places
        for name, places in greedy_divergences(records).items()
        if any(not one.identical for number, one in places.items() if number != shown_prompt)
    }
    if not leaving:
        return "", ""
    why = "the highest increase of perplexity"
    harm = {name: loss for name in leaving if (loss := figures[name].increase_pct) is not None}
    if not harm:
        why = "the fewest tokens in common"
        harm = {name: share for name in leaving if (share := figures[name].greedy_differs_pct) is not None}
    worst = max(harm, key=lambda name: harm[name])
    lines = []
    for number in sorted(set(leaving[worst]) - {shown_prompt}):
        mine, theirs = (records.of(GENERATE)[name].find(number, "greedy") for name in (worst, base))
        if mine is not None and theirs is not None:
            lines.append([str(number), quote(theirs.text), _marked(records, worst, mine)])
    which = f"{worst} (of the formats whose texts differ, the one with {why})"
    return which, table(("Prompt", base, worst), lines, left=range(3))
