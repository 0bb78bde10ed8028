"""Figures of texts and probe answers, compared with the baseline's."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.steps.generate.answers import answer_changes, first_divergence
from labctl.steps.generate.record import GenerationRun
from labctl.steps.generate.step import GENERATE
from labctl.steps.intervals import mcnemar_exact, wilson
from labctl.steps.measured import Measured

LEAST_ANSWERS = 10
"""Of fewer right answers of the baseline no share is worth a star."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Answers that the baseline has right and the format has not, and the other way round.

    Attributes:
        p: McNemar's exact test: how likely so uneven a split is by chance.
    """

    lost: int
    gained: int
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFigures:
    """Right answers to one probe.

    Attributes:
        low_pct, high_pct: Wilson's 95 % interval of the share, percent; None without a question.
        changes: None without the baseline's answers.
    """

    n_correct: int
    n: int
    low_pct: float | None
    high_pct: float | None
    changes: Changes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Share of the baseline's right answers that are right here, too, in percent, with Wilson's 95 % interval."""

    pct: float
    low_pct: float
    high_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateFigures:
    """Probe answers of one format, and how its greedy texts go along with the baseline's.

    Attributes:
        probes: name -> figures.
        changes: over all probes; None without a probe or the baseline.
        kept: None for fewer than LEAST_ANSWERS right answers of the baseline.
        greedy_same_pct: share of greedy tokens that equal the baseline's before the first difference, over all prompts;
            None for the baseline and without its texts.
    """

    probes: dict[str, ProbeFigures]
    changes: Changes | None
    kept: Kept | None
    greedy_same_pct: float | None


def generate_figures(records: Measured) -> dict[str, GenerateFigures]:
    """Format -> its figures."""
    base = records.of(GENERATE).get(records.formats[0])
    return {name: _figures(run, base) for name, run in records.of(GENERATE).items()}


def _figures(run: GenerationRun, base: GenerationRun | None) -> GenerateFigures:
    names = [probe.name for probe in run.probes]
    changes, n_kept = _changes(run, base, names) if names else (None, 0)
    return GenerateFigures(
        probes={
            probe.name: ProbeFigures(
                n_correct=probe.n_correct,
                n=len(probe.answers),
                low_pct=100 * wilson(probe.n_correct, len(probe.answers))[0] if probe.answers else None,
                high_pct=100 * wilson(probe.n_correct, len(probe.answers))[1] if probe.answers else None,
                changes=_changes(run, base, [probe.name])[0],
            )
            for probe in run.probes
        },
        changes=changes,
        kept=None if changes is None else _kept(n_kept, changes.lost + n_kept, exact=run is base),
        greedy_same_pct=None if run is base else _greedy_same_pct(run, base),
    )


def _changes(run: GenerationRun, base: GenerationRun | None, probes: list[str]) -> tuple[Changes | None, int]:
    """What changed against the baseline, and how many answers are right in both."""
    if base is None:
        return None, 0
    lost, gained, kept = answer_changes(run, base, probes)
    return Changes(lost=lost, gained=gained, p=mcnemar_exact(lost, gained)), kept


def _kept(n_kept: int, n: int, *, exact: bool) -> Kept | None:
    if n < LEAST_ANSWERS:
        return None
    low, high = (1.0, 1.0) if exact else wilson(n_kept, n)
    return Kept(pct=100 * n_kept / n, low_pct=100 * low, high_pct=100 * high)


def _greedy_same_pct(run: GenerationRun, base: GenerationRun | None) -> float | None:
    pairs = [
        (first_divergence(mine, theirs).n_same, len(theirs.tokens))
        for theirs in (() if base is None else base.generations)
        if theirs.decoding == "greedy" and (mine := run.find(theirs.prompt_number, "greedy")) is not None
    ]
    total = sum(length for _, length in pairs)
    return 100 * sum(same for same, _ in pairs) / total if total else None
