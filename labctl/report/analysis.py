"""Records to figures: one row a format, with the interval of each figure and the reason for each gap."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labctl.records.arrays import map_array
from labctl.report.answers import answer_changes, first_divergence
from labctl.report.demo_training import unseen_scores
from labctl.steps.intervals import mcnemar_exact, median_interval, wilson
from labctl.steps.measured import LabRecords
from labctl.steps.perplexity.increase import (
    DEFAULT_LIMIT,
    Increase,
    Verdict,
    chunk_differences,
    chunks_needed,
    paired_increase,
    verdict,
)
from labctl.steps.perplexity.record import PerplexityRun
from labctl.steps.perplexity.scorer import perplexity
from labctl.steps.speed.ratios import TESTS, round_ratio

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

# -- perplexity -------------------------------------------------------------------------------------------------------


def load_nll(records: LabRecords) -> dict[str, Floats]:
    """Per-token negative log-likelihood of each format that has perplexity, in nats.

    Returns: format -> (n_chunks_text, n_scored_per_chunk) float64; chunks outside the record's are NaN. A format whose
        file is missing or damaged, or that was measured on another text or chunk size than the first, is left out:
        `gaps` says why.
    """
    found: dict[str, Floats] = {}
    first: PerplexityRun | None = None
    for name in records.formats:
        run = records.perplexity.get(name)
        nll = None if run is None else _read_nll(Path(records.folder), run)
        if run is None or nll is None:
            continue
        first = first or run
        if _protocol(run) == _protocol(first):
            found[name] = nll
    return found


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


def frame(records: LabRecords, limit: float = DEFAULT_LIMIT) -> pd.DataFrame:
    """All figures of a lab.

    Args:
        records: of one model.
        limit: largest acceptable increase of perplexity, as a fraction; decides the column `verdict`.
    Returns: one row a format, in the lab's order; NaN or None where a figure was not measured. `ppl` is taken over the
        chunks that all formats share, the increase over all chunks a format shares with the baseline (`n_pairs`).
    """
    import pandas as pd

    rows: dict[str, Row] = {name: {} for name in records.formats}
    for part in (_file_columns, _divergence_columns, _greedy_columns, _speed_columns, _memory_columns, _probe_columns):
        for name, columns in part(records).items():
            rows[name].update(columns)
    for name, columns in _perplexity_columns(records, limit).items():
        rows[name].update(columns)
    table = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="format"))
    ordered = [*_COLUMNS, *(column for column in table.columns if column not in _COLUMNS)]
    complete: pd.DataFrame = table.reindex(columns=ordered)
    return complete


_WORDS = ("main_type", "verdict")
_COLUMNS = (
    *("size_bytes", "compression_ratio", "bpw", "main_type", "n_fallbacks", "quantize_s"),
    *("ppl", "ppl_se", "n_chunks_common", "n_chunks"),
    *("ppl_increase_pct", "ppl_increase_low_pct", "ppl_increase_high_pct", "n_pairs", "verdict", "n_chunks_needed"),
    *("kld_mean", "kld_mean_low", "kld_mean_high", "kld_median", "kld_p90", "kld_p99", "kld_max"),
    *("same_top_pct", "same_top_low_pct", "same_top_high_pct", "n_kl_chunks", "greedy_same_pct"),
    *("pp_tps", "pp_low_tps", "pp_high_tps", "tg_tps", "tg_low_tps", "tg_high_tps", "n_speed_samples"),
    *("speedup", "speedup_low", "speedup_high", "pp_speedup", "pp_speedup_low", "pp_speedup_high", "n_rounds"),
    *("pp_ms", "tg_ms"),
    *("token_p50_ms", "token_p95_ms", "token_p99_ms"),
    *("peak_rss_bytes", "peak_rss_mmap_bytes", "kv_bytes", "memory_n_ctx"),
    *("answers_kept_pct", "answers_kept_low_pct", "answers_kept_high_pct"),
    *("answers_lost", "answers_gained", "answers_p"),
)


def rows_of(table: pd.DataFrame) -> dict[str, Row]:
    """The frame as plain rows: format -> column -> float (NaN where not measured) or text (None)."""
    return {
        str(name): {
            str(column): (value if isinstance(value, str) else None)
            if column in _WORDS
            else (math.nan if value is None else float(value))
            for column, value in series.items()
        }
        for name, series in table.iterrows()
    }


def _file_columns(records: LabRecords) -> dict[str, Row]:
    base = records.files.get(records.formats[0])
    return {
        name: {
            "size_bytes": file.size_bytes,
            "compression_ratio": base.size_bytes / file.size_bytes if base else math.nan,
            "bpw": file.bpw,
            "main_type": file.main_type,
            "n_fallbacks": len(file.fallbacks),
            "quantize_s": math.nan if file.quantize_s is None else file.quantize_s,
        }
        for name, file in records.files.items()
        if name in records.formats
    }


def _perplexity_columns(records: LabRecords, limit: float) -> dict[str, Row]:
    nll = load_nll(records)
    shared = common_chunks(nll)
    base = nll.get(records.formats[0])
    columns: dict[str, Row] = {}
    for name, rows in nll.items():
        ppl, ppl_se = perplexity(rows[shared])
        row: Row = {"ppl": ppl, "ppl_se": ppl_se, "n_chunks_common": shared.size}
        row["n_chunks"] = int(np.isfinite(rows).all(axis=1).sum())
        if name == records.formats[0]:
            row["verdict"] = "baseline"
        elif base is not None and common_chunks({name: rows, "": base}).size:
            increase, settled = _increase(records.perplexity[name], rows, base, limit)
            needed = chunks_needed(increase, limit)
            row |= {
                "ppl_increase_pct": 100 * increase.increase,
                "ppl_increase_low_pct": 100 * increase.low,
                "ppl_increase_high_pct": 100 * increase.high,
                "n_pairs": increase.n_chunks,
                "verdict": settled,
                "n_chunks_needed": math.nan if needed is None else needed,
            }
        columns[name] = row
    return columns


def _increase(run: PerplexityRun, rows: Floats, base: Floats, limit: float) -> tuple[Increase, Verdict]:
    """The paired increase with the interval that suits how the chunks were chosen, and its verdict.

    A run that could stop as soon as it decided has bounds that hold at every look; one over a fixed set of chunks, or
    over the whole text, has the t interval.
    """
    plain = paired_increase(rows, base)
    if run.order_seed is None or run.n_chunks >= run.n_chunks_text:
        return plain, verdict(plain, limit)
    from labctl.steps.perplexity.sequence import settle, shuffled_chunks

    visited = shuffled_chunks(run.n_chunks_text, run.order_seed)[: run.n_chunks]
    look = settle(chunk_differences(rows[visited], base[visited]), limit=limit)
    return replace(plain, low=look.low, high=look.high), look.verdict


def _divergence_columns(records: LabRecords) -> dict[str, Row]:
    return {
        name: {
            "kld_mean": run.kld_mean,
            "kld_mean_low": run.kld_mean_low,
            "kld_mean_high": run.kld_mean_high,
            "kld_median": run.kld_median,
            "kld_p90": run.kld_p90,
            "kld_p99": run.kld_p99,
            "kld_max": run.kld_max,
            "same_top_pct": 100 * run.same_top_p,
            "same_top_low_pct": 100 * run.same_top_low,
            "same_top_high_pct": 100 * run.same_top_high,
            "n_kl_chunks": run.n_chunks,
        }
        for name, run in records.divergence.items()
        if name in records.formats
    }


def _greedy_columns(records: LabRecords) -> dict[str, Row]:
    """Share of greedy tokens that equal the baseline's before the first difference, over all prompts."""
    base = records.generation.get(records.formats[0])
    columns: dict[str, Row] = {}
    for name in records.formats[1:]:
        run = records.generation.get(name)
        if run is None or base is None:
            continue
        pairs = [
            (first_divergence(mine, theirs).n_same, len(theirs.tokens))
            for theirs in base.generations
            if theirs.decoding == "greedy" and (mine := run.find(theirs.prompt_number, "greedy")) is not None
        ]
        total = sum(length for _, length in pairs)
        if total:
            columns[name] = {"greedy_same_pct": 100 * sum(same for same, _ in pairs) / total}
    return columns


def _speed_columns(records: LabRecords) -> dict[str, Row]:
    base = records.speed.get(records.formats[0])
    columns: dict[str, Row] = {}
    for name, run in records.speed.items():
        if name not in records.formats:
            continue
        row: Row = {}
        for test, samples, n_tokens in (("pp", run.pp_tps, run.n_prompt), ("tg", run.tg_tps, run.n_gen)):
            if samples:
                median = statistics.median(samples)
                low, high = median_interval(samples)
                row |= {f"{test}_tps": median, f"{test}_low_tps": low, f"{test}_high_tps": high}
                row[f"{test}_ms"] = 1000 * n_tokens / median
        row["n_speed_samples"] = len(run.tg_tps)
        if any(times for visit in run.visits for times in visit.token_s):
            row |= {f"token_p{percent}_ms": 1000 * run.token_percentile_s(percent) for percent in (50, 95, 99)}
        for test in TESTS:
            ratio = round_ratio(run, base, test) if base is not None else None
            if ratio is not None:  # of the baseline to itself there is nothing to be unsure of
                low, high = (1.0, 1.0) if run is base else (ratio.low, ratio.high)
                column = "speedup" if test == "tg" else "pp_speedup"
                row |= {column: ratio.ratio, f"{column}_low": low, f"{column}_high": high}
                row["n_rounds"] = ratio.n_rounds
        columns[name] = row
    return columns


def _memory_columns(records: LabRecords) -> dict[str, Row]:
    columns: dict[str, Row] = {}
    for name, run in records.memory.items():
        plain = next((load for load in run.loads if not load.mmap), None)
        mapped = next((load for load in run.loads if load.mmap), None)
        if name in records.formats and plain is not None:
            columns[name] = {
                "peak_rss_bytes": plain.peak_rss_bytes,
                "peak_rss_mmap_bytes": mapped.peak_rss_bytes if mapped else math.nan,
                "kv_bytes": plain.kv_bytes,
                "memory_n_ctx": run.n_ctx,
            }
    return columns


def _probe_columns(records: LabRecords) -> dict[str, Row]:
    base = records.generation.get(records.formats[0])
    columns: dict[str, Row] = {}
    for name, run in records.generation.items():
        if name not in records.formats:
            continue
        row: Row = {}
        for probe in run.probes:
            low, high = wilson(probe.n_correct, len(probe.answers))
            row |= {f"{probe.name}_correct": probe.n_correct, f"{probe.name}_n": len(probe.answers)}
            row |= {f"{probe.name}_low_pct": 100 * low, f"{probe.name}_high_pct": 100 * high}
            if base is not None:
                lost, gained, _ = answer_changes(run, base, (probe.name,))
                row |= {f"{probe.name}_lost": lost, f"{probe.name}_gained": gained}
                row |= {f"{probe.name}_p": mcnemar_exact(lost, gained)}
        if base is not None and run.probes:
            lost, gained, kept = answer_changes(run, base, (probe.name for probe in run.probes))
            row |= {"answers_lost": lost, "answers_gained": gained, "answers_p": mcnemar_exact(lost, gained)}
            if lost + kept >= 10:  # of fewer right answers of the baseline no share is worth a star
                low, high = (1.0, 1.0) if run is base else wilson(kept, lost + kept)
                row |= {"answers_kept_low_pct": 100 * low, "answers_kept_high_pct": 100 * high}
                row["answers_kept_pct"] = 100 * kept / (lost + kept)
        columns[name] = row
    for probe_name, scores in unseen_scores(records).items():
        for name, (right, asked) in scores.items():
            columns[name] |= {f"{probe_name}_untrained_correct": right, f"{probe_name}_untrained_of": asked}
    return columns
