"""The worksheet's tables of speed and memory (Q8, Q9), as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labctl.report.fit import RAM_GB, fit_table, kv_bytes_at
from labctl.report.tables import cell
from labctl.report.text import NOT_MEASURED, known, rate, significant, size, table, words
from labctl.steps.measured import LabRecords
from labctl.steps.speed.ratios import PRECISE, RATIO_RULE, times

Rows = Mapping[str, Mapping[str, Any]]
CONTEXTS = (512, 2048, 4096, 8192, 32768)


def speeds(rows: Rows) -> str:
    """Q8."""
    lines = []
    for name, row in rows.items():
        latencies = [row[f"token_p{percent_}_ms"] for percent_ in (50, 95, 99)]
        lines.append(
            [
                name,
                _speed(row, "tg"),
                _speedup(rows, name, "speedup"),
                _speed(row, "pp"),
                _speedup(rows, name, "pp_speedup"),
                cell(latencies[0], " / ".join(significant(latency) for latency in latencies)),
                cell(row["n_rounds"], f"{row['n_rounds']:.0f} / {row['n_speed_samples']:.0f}"),
            ]
        )
    header = ("Format", "Tokens/second (tg)", "Speed-up (tg)", "Prompt, tokens/second (pp)", "Speed-up (pp)")
    return table((*header, "ms per token, p50 / p95 / p99", "Rounds / repetitions"), lines)


def _speedup(rows: Rows, name: str, column: str) -> str:
    row = rows[name]
    if name == next(iter(rows)):
        return cell(row[column], "1.0")
    return cell(row[column], times(*(row[f"{column}{end}"] for end in ("", "_low", "_high"))))


def _speed(row: Mapping[str, Any], test: str) -> str:
    middle, low, high = (row[f"{test}_{part}tps"] for part in ("", "low_", "high_"))
    if not known(middle):
        return NOT_MEASURED
    return f"{rate(middle)} ({rate(low)} to {rate(high)})" if known(low) else rate(middle)


def speed_note(records: LabRecords, rule: str) -> str:
    """What the columns of Q8 mean."""
    run = next(iter(records.speed.values()), None)
    if run is None:
        return "Speed was not measured."
    return (
        f"tg: generating {run.n_gen} tokens one by one; pp: reading a prompt of {run.n_prompt} tokens at once; medians."
        f" In brackets: {rule}. Speed-up over {records.formats[0]}: {RATIO_RULE}. It can differ a little from the ratio"
        " of the medians, which compare different moments. Rounds go on until every speed-up is known to"
        f" ± {100 * PRECISE:g} % or the time allowed is over. p95: 95 of 100 tokens came at least as fast."
    )


def memories(records: LabRecords, rows: Rows) -> str:
    """Q9: peak memory and the verdict for each size of RAM."""
    fits = {ram: {one.format: one for one in fit_table(records, ram)} for ram in RAM_GB}
    return table(
        ("Format", "Peak memory", "Peak with mmap on", "KV cache", "Context", *(f"{ram} GB" for ram in RAM_GB)),
        (
            (
                name,
                cell(row["peak_rss_bytes"], size(row["peak_rss_bytes"])),
                cell(row["peak_rss_mmap_bytes"], size(row["peak_rss_mmap_bytes"])),
                cell(row["kv_bytes"], size(row["kv_bytes"])),
                cell(row["memory_n_ctx"], f"{row['memory_n_ctx']:.0f} tokens"),
                *(fits[ram][name].verdict for ram in RAM_GB),
            )
            for name, row in rows.items()
        ),
    )


def contexts(records: LabRecords) -> str:
    """Q9: KV cache and 8 GB verdict at other context sizes; empty without memory records."""
    measured = [name for name in records.formats if name in records.memory]
    if not measured:
        return ""
    lines = []
    for n_ctx in CONTEXTS:
        kv = kv_bytes_at(records, measured[0], n_ctx)
        grouped: dict[str, list[str]] = {}
        for one in fit_table(records, 8, n_ctx):
            grouped.setdefault(one.verdict, []).append(one.format)
        verdict = "; ".join(
            f"{word}: {'all' if len(grouped) == 1 else words(names)}" for word, names in grouped.items()
        )
        lines.append(
            [
                str(n_ctx),
                NOT_MEASURED if kv is None else size(kv),
                verdict,
            ]
        )
    return table(("Context, tokens", "KV cache", "8 GB"), lines, left=(0, 2))
