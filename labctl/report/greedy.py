"""Generated texts beside the baseline's: where a greedy text leaves it, and which texts go round in circles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labctl.report.text import counted, quote, shortened, words
from labctl.steps.generate.answers import Divergence, first_divergence
from labctl.steps.generate.record import Generation
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured

N_GRAM = 4
LOOPS = 0.5
MORE_THAN_BASELINE = 0.2
LOOP_RULE = (
    f"A text is named here if more than {100 * LOOPS:g} % of its sequences of {N_GRAM} tokens stood in it before, and"
    f" at least {100 * MORE_THAN_BASELINE:g} percentage points more than in the baseline's text"
)


def greedy_divergences(records: Measured) -> dict[str, dict[int, Divergence]]:
    """Where each greedy text leaves the baseline's: format -> prompt number -> place."""
    base = records.of(GENERATE).get(records.formats[0])
    found: dict[str, dict[int, Divergence]] = {}
    for name in records.formats[1:]:
        run = records.of(GENERATE).get(name)
        if run is None or base is None:
            continue
        found[name] = {
            theirs.prompt_number: first_divergence(mine, theirs)
            for theirs in base.generations
            if theirs.decoding == "greedy" and (mine := run.find(theirs.prompt_number, "greedy")) is not None
        }
    return found


def same_words(found: Divergence) -> str:
    """How many tokens are the baseline's from the start: 46 of 83, all 83, 12 of 83 (ends)."""
    if found.identical:
        return f"all {found.n_tokens}" if found.n_tokens else "both empty"
    if found.base_piece is None:
        return f"all {found.n_tokens} (goes on)" if found.n_tokens else "baseline's is empty"
    if found.piece is None:
        return f"{found.n_same} of {found.n_tokens} (ends)" if found.n_same else f"0 of {found.n_tokens} (empty)"
    return f"{found.n_same} of {found.n_tokens}"


def greedy_words(found: Mapping[int, Divergence], base: str) -> str:
    """One sentence on all greedy texts of a format: which are the baseline's to the end, and where the others leave."""
    n = len(found)
    same = sum(one.identical for one in found.values())
    if same == n:
        texts = "Its greedy text is" if n == 1 else f"All {n} of its greedy texts are"
        return f"{texts} {base}'s to the last token."
    parts = [] if n == 1 else [f"{same or 'none'} {'are' if same > 1 else 'is'} {base}'s to the last token"]
    whose = f"{base}'s" if n == 1 else "it"
    for mine_ends, base_ends, one_does, many_do in (
        (False, False, f"leaves {whose}", f"leave {whose}"),
        (True, False, "ends early,", "end early,"),
        (False, True, "goes on", "go on"),
    ):
        ways = [d for d in found.values() if (d.piece is None, d.base_piece is None) == (mine_ends, base_ends)]
        if ways:
            places = words(
                f"all {one.n_tokens}"
                if base_ends and one.n_tokens
                else f"{one.n_same}"
                if base_ends
                else f"{one.n_same} of {one.n_tokens}"
                for one in ways
            )
            verb = one_does if len(ways) == 1 else many_do
            parts.append(f"{'' if n == 1 else f'{len(ways)} '}{verb} after {places} tokens")
    return f"{'Its greedy text' if n == 1 else f'Of its {n} greedy texts'} {'; '.join(parts)}."


def same_texts_words(found: Mapping[str, Mapping[int, Divergence]], base: str) -> str:
    """How many greedy texts of each format are the baseline's to the end."""
    counts = {name: (sum(one.identical for one in by.values()), len(by)) for name, by in found.items() if by}
    if not counts:
        return ""
    if all(same == n for same, n in counts.values()):
        return f"Written greedily, every text is {base}'s to the last token."
    if not any(same for same, _ in counts.values()):
        return f"Written greedily, no text is {base}'s to the last token."
    listed = words(f"{name} {same} of {n}" if same else f"{name} none of {n}" for name, (same, n) in counts.items())
    return f"Written greedily, so many texts are {base}'s to the last token: {listed}."


# -- repetition -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A text that repeats itself far more than the baseline's, by LOOP_RULE."""

    format: str
    prompt_number: int
    decoding: str
    share: float
    base_share: float
    excerpt: str


def repeated_share(tokens: Sequence[int]) -> float:
    """Share of the sequences of N_GRAM tokens that stood in the text before; NaN where there are not two of them.

    Source: Welleck et al. (2020), Neural Text Generation with Unlikelihood Training, arXiv 1908.04319: seq-rep-n.
    """
    grams = [tuple(tokens[place : place + N_GRAM]) for place in range(len(tokens) - N_GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else math.nan


def loops(records: Measured) -> list[Loop]:
    """Every text that LOOP_RULE names, the worst first."""
    base = records.of(GENERATE).get(records.formats[0])
    found = []
    for name in records.formats[1:]:
        run = records.of(GENERATE).get(name)
        for mine in run.generations if run is not None and base is not None else ():
            theirs = base.find(mine.prompt_number, mine.decoding) if base is not None else None
            share = repeated_share(mine.tokens)
            base_share = repeated_share(theirs.tokens) if theirs is not None else math.nan
            if share > LOOPS and share - base_share >= MORE_THAN_BASELINE:
                found.append(
                    Loop(
                        format=name,
                        prompt_number=mine.prompt_number,
                        decoding=mine.decoding,
                        share=share,
                        base_share=base_share,
                        excerpt=_circle(mine),
                    )
                )
    return sorted(found, key=lambda loop: loop.base_share - loop.share)


def loop_words(found: Sequence[Loop]) -> str:
    """The worst loop as a sentence, and how many more there are; empty without one."""
    if not found:
        return ""
    worst = found[0]
    more = f" ({counted(len(found) - 1, 'more text')} like it in the table)" if len(found) > 1 else ""
    return (
        f"{worst.format} goes round in circles at Prompt {worst.prompt_number} ({worst.decoding}):"
        f" {100 * worst.share:.0f} % of its sequences of {N_GRAM} tokens stood in the text before, in the baseline's"
        f" text {100 * worst.base_share:.0f} %{more}."
    )


def loop_quote(loop: Loop, limit: int = 160) -> str:
    """Where the text goes round, quoted."""
    return quote(shortened(loop.excerpt, limit))


def _circle(text: Generation) -> str:
    """The text from the first sequence on that comes again."""
    seen: dict[tuple[int, ...], int] = {}
    for place in range(len(text.tokens) - N_GRAM + 1):
        gram = tuple(text.tokens[place : place + N_GRAM])
        if gram in seen:
            return "".join(text.pieces[seen[gram] :])
        seen[gram] = place
    return text.text
