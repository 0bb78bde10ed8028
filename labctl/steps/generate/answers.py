"""Generated texts and probe answers compared with the baseline's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from labctl.steps.generate.record import Generation, GenerationRun
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a greedy text leaves the baseline's.

    Attributes:
        n_same: tokens that are the same from the start.
        piece, base_piece: the first that differ, as text; None where that text has ended.
    """

    n_same: int
    n_tokens: int
    piece: str | None
    base_piece: str | None

    @property
    def identical(self) -> bool:
        return self.piece is None and self.base_piece is None


def first_divergence(generation: Generation, base: Generation) -> Divergence:
    """Compare two continuations of one prompt, token by token."""
    pairs = zip(generation.tokens, base.tokens, strict=False)
    shorter = min(len(generation.tokens), len(base.tokens))
    n_same = next((place for place, (mine, theirs) in enumerate(pairs) if mine != theirs), shorter)
    return Divergence(
        n_same=n_same, n_tokens=len(base.tokens), piece=_piece(generation, n_same), base_piece=_piece(base, n_same)
    )


def split_text(generation: Generation, base: Generation | None) -> tuple[str, str | None, str]:
    """A text up to the first token that is not the baseline's, that token, and the rest.

    Returns: the token is None where there is no difference or no baseline, and empty where the text ends before it.
    """
    place = len(generation.tokens) if base is None else first_divergence(generation, base).n_same
    differs = base is not None and place < max(len(generation.tokens), len(base.tokens))
    same, first = "".join(generation.pieces[:place]), "".join(generation.pieces[place : place + 1])
    # A letter of several bytes can lie across tokens: then only the whole text has it right.
    whole = generation.text.startswith(same + first)
    rest = generation.text[len(same + first) :] if whole else "".join(generation.pieces[place + 1 :])
    return same, first if differs else None, rest


def answer_changes(run: GenerationRun, base: GenerationRun, probes: Iterable[str]) -> tuple[int, int, int]:
    """Probe answers compared with the baseline's, question by question.

    Returns: (lost, gained, right in both).
    """
    lost = gained = kept = 0
    for name in probes:
        mine, theirs = (
            {
                (answer.prompt, answer.expected): answer.correct
                for p in one.probes
                if p.name == name
                for answer in p.answers
            }
            for one in (run, base)
        )
        for question in mine.keys() & theirs.keys():
            lost += theirs[question] and not mine[question]
            gained += mine[question] and not theirs[question]
            kept += mine[question] and theirs[question]
    return lost, gained, kept


def probe_names(records: Measured) -> tuple[str, ...]:
    """Names of all probes that any format was asked, in order of first appearance."""
    runs = (records.of(GENERATE)[name] for name in records.formats if name in records.of(GENERATE))
    return tuple(dict.fromkeys(probe.name for run in runs for probe in run.probes))


def _piece(generation: Generation, place: int) -> str | None:
    if place >= len(generation.tokens):
        return None
    return generation.pieces[place] if place < len(generation.pieces) else f"token {generation.tokens[place]}"
