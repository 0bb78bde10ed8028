"""Figures of perplexity: over the chunks that all formats share, and each format's paired increase and verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from labctl.records.arrays import map_array
from labctl.steps.measured import Measured
from labctl.steps.perplexity.increase import Increase, Verdict, chunk_differences, paired_increase, verdict
from labctl.steps.perplexity.record import PerplexityRun
from labctl.steps.perplexity.scorer import perplexity
from labctl.steps.perplexity.sequence import SequenceLook, chunks_to_settle, settle, shuffled_chunks
from labctl.steps.perplexity.step import PERPLEXITY

VERDICTS = {"pass": "passes", "fail": "fails", "undecided": "undecided"}
"""A verdict as the end of a sentence."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class IncreaseFigures:
    """Increase of perplexity over the baseline, over all chunks that both were measured on.

    Attributes:
        low_pct, high_pct: its 95 % interval for text like this; -100 and infinity where too few chunks leave it open.
        text_low_pct, text_high_pct: its 95 % interval for this very text; the increase itself once all of it was read.
        beyond: the verdict for text like this.
        n_pairs: chunks that both were measured on.
        n_chunks_needed: chunks in all that are forecast to settle an open verdict on this text.
        s_needed: seconds that this would take at the speed so far; None where nothing says how fast that is.
    """

    pct: float
    low_pct: float
    high_pct: float
    text_low_pct: float
    text_high_pct: float
    beyond: Verdict
    n_pairs: int
    n_chunks_needed: int | None = None
    s_needed: float | None = None

    @property
    def is_exact(self) -> bool:
        """Whether all of the text was read, so that nothing is left to know of it."""
        return self.text_low_pct == self.text_high_pct == self.pct


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityFigures:
    """Perplexity of one format.

    Attributes:
        ppl, ppl_se: over the chunks that all formats share; None where they share none.
        n_chunks: measured for this format.
        n_chunks_common: shared by all formats.
        verdict: on this text; None without a chunk that the baseline was measured on, too.
        increase: None for the baseline, and where no difference can be told.
    """

    ppl: float | None
    ppl_se: float | None
    n_chunks: int
    n_chunks_common: int
    verdict: Verdict | Literal["baseline"] | None
    increase: IncreaseFigures | None


def load_nll(records: Measured) -> dict[str, Floats]:
    """Format -> its tokens' values, as nll_of, in the lab's order."""
    runs = records.of(PERPLEXITY)
    return nll_of({name: runs[name] for name in records.formats if name in runs}, Path(records.folder))


def nll_of(runs: Mapping[str, PerplexityRun], folder: Path) -> dict[str, Floats]:
    """Per-token negative log-likelihood of each format that has perplexity, in nats.

    Args:
        folder: the model's outputs folder.
    Returns: format -> (n_chunks_text, n_scored_per_chunk) float64; chunks outside the record's are NaN. A format whose
        file is missing or damaged, or that was measured on another text or chunk size than the first, is left out:
        `gaps` says why.
    """
    usable: dict[str, Floats] = {}
    first: PerplexityRun | None = None
    for name, run in runs.items():
        nll = _read_nll(folder, run)
        if nll is None:
            continue
        first = first or run
        if _protocol(run) == _protocol(first):
            usable[name] = nll
    return usable


def common_chunks(nll: dict[str, Floats]) -> npt.NDArray[np.intp]:
    """Numbers of the chunks that were measured for all formats that have perplexity, ascending."""
    if not nll:
        return np.zeros(0, dtype=np.intp)
    measured = np.logical_and.reduce([np.isfinite(rows).all(axis=1) for rows in nll.values()])
    return np.flatnonzero(measured)


def _protocol(run: PerplexityRun) -> tuple[object, ...]:
    return run.text.sha256, run.n_ctx, run.n_chunks_text, run.n_scored_per_chunk


def _read_nll(folder: Path, run: PerplexityRun) -> Floats | None:
    stored = map_array(folder / run.nll_path)
    if stored is None or stored.shape != (run.n_chunks_text, run.n_scored_per_chunk):
        return None
    rows: Floats = np.full(stored.shape, np.nan)
    for start, stop in run.chunks:
        rows[start:stop] = stored[start:stop]
    return rows


def perplexity_figures(records: Measured, limit: float) -> dict[str, PerplexityFigures]:
    """Format -> its figures.

    Args:
        limit: largest acceptable increase of perplexity, as a fraction; decides the verdict.
    """
    nll = load_nll(records)
    shared = common_chunks(nll)
    base = nll.get(records.formats[0])
    figures: dict[str, PerplexityFigures] = {}
    for name, rows in nll.items():
        ppl, ppl_se = perplexity(rows[shared]) if shared.size else (None, None)
        judged: tuple[IncreaseFigures | None, Verdict | Literal["baseline"] | None] = (None, None)
        if name == records.formats[0]:
            judged = None, "baseline"
        elif base is not None and common_chunks({name: rows, "": base}).size:
            runs = records.of(PERPLEXITY)
            judged = _judged(runs[name], rows, runs[records.formats[0]], base, limit)
        figures[name] = PerplexityFigures(
            ppl=ppl,
            ppl_se=ppl_se,
            n_chunks=int(np.isfinite(rows).all(axis=1).sum()),
            n_chunks_common=shared.size,
            increase=judged[0],
            verdict=judged[1],
        )
    return figures


def _judged(
    run: PerplexityRun, rows: Floats, base_run: PerplexityRun, base: Floats, limit: float
) -> tuple[IncreaseFigures | None, Verdict]:
    beyond, text = settled_increase(run, rows, base, limit)
    if np.isnan(beyond.increase):
        return None, text.verdict
    figures = IncreaseFigures(
        pct=100 * beyond.increase,
        low_pct=100 * beyond.low,
        high_pct=100 * beyond.high,
        text_low_pct=100 * text.low,
        text_high_pct=100 * text.high,
        beyond=verdict(beyond, limit),
        n_pairs=beyond.n_chunks,
    )
    if text.verdict != "undecided" or beyond.n_chunks < 2:
        return figures, text.verdict
    n_needed = chunks_to_settle(chunk_differences(rows, base), run.n_chunks_text, limit)
    chunk_s = [one.wall_s * one.n_ctx / one.n_tokens_evaluated for one in (run, base_run) if one.n_tokens_evaluated]
    s_needed = (n_needed - beyond.n_chunks) * sum(chunk_s) if len(chunk_s) == 2 else None
    return replace(figures, n_chunks_needed=n_needed, s_needed=s_needed), text.verdict


def settled_increase(run: PerplexityRun, rows: Floats, base: Floats, limit: float) -> tuple[Increase, SequenceLook]:
    """The paired increase with its interval for text like this, and what is known of this very text.

    A run that could stop as soon as it decided has bounds that hold at every look; one over a fixed set of chunks, or
    over the whole text, has the t interval. The first chunks of a text are no random ones: of the rest of it they say
    no more than of any text like it.
    """
    beyond = paired_increase(rows, base)
    if beyond.n_chunks == run.n_chunks_text or math.isinf(beyond.increase):
        return beyond, settle(chunk_differences(rows, base), beyond.n_chunks, limit)
    if run.could_stop:
        visited = shuffled_chunks(run.n_chunks_text, run.order_seed or 0)[: run.n_chunks]
        differences = chunk_differences(rows[visited], base[visited])
        look = settle(differences, math.inf, limit)
        return replace(beyond, low=look.low, high=look.high), settle(differences, run.n_chunks_text, limit)
    known = {name: getattr(beyond, name) for name in ("n_chunks", "increase", "low", "high")}
    return beyond, SequenceLook(**known, verdict=verdict(beyond, limit))


# -- what a record says, against its raw samples -----------------------------------------------------------------------


def stored_nll(folder: Path, run: PerplexityRun) -> Floats | None:
    """NLL of every chunk, if the file holds as much as the record says and no more; the record may be a stranger's."""
    path = folder / run.nll_path
    try:
        if folder.resolve() not in path.resolve().parents:
            return None
        stored = map_array(path)
    except (OSError, ValueError):
        return None
    if stored is None or stored.shape != (run.n_chunks_text, run.n_scored_per_chunk):
        return None
    whole = all(0 <= start < stop <= len(stored) for start, stop in run.chunks)
    return np.array(stored, dtype=np.float64) if whole else None


def doubts(run: PerplexityRun, folder: Path) -> Iterator[str]:
    """What of a record does not follow from its tokens' values."""
    nll = stored_nll(folder, run)
    if nll is None:
        yield "its tokens' values are missing or damaged"
        return
    values = nll[[chunk for start, stop in run.chunks for chunk in range(start, stop)]]
    ppl, se = perplexity(values)
    for name, stated, made in (("perplexity", run.ppl, ppl), ("standard error", run.ppl_se, se)):
        if not math.isclose(stated, made, rel_tol=1e-9) and not (math.isnan(stated) and math.isnan(made)):
            yield f"{name} {stated:.6f} in the record, {made:.6f} from the tokens' values"
    if not (values >= 0).all():
        yield "some token has no probability"
