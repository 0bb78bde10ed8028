"""The worksheet's tables of speed and memory (Q8, Q9), as Markdown."""

from __future__ import annotations

from labctl.records.units import rate, significant, size_text
from labctl.report.figures import Figures
from labctl.report.fit import RAM_GB, fit_table, kv_bytes_at
from labctl.report.text import NOT_MEASURED, cell, table, words
from labctl.steps.bench.figures import BenchFigures, SpeedFigures
from labctl.steps.bench.ratios import INTERVAL_RULE, PRECISE, RATIO_RULE, SPEED_RULE, times
from labctl.steps.bench.record import DISTURBED
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY

CONTEXTS = (512, 2048, 4096, 8192, 32768)


def speeds(figures: Figures) -> str:
    """Q8."""
    lines = []
    for name, row in figures.items():
        is_base, bench = name == next(iter(figures)), row.bench
        tg, pp = row.speed("tg"), row.speed("pp")
        latencies = () if bench is None else (bench.token_p50_ms, bench.token_p95_ms, bench.token_p99_ms)
        known = [significant(latency) for latency in latencies if latency is not None]
        lines.append(
            [
                name,
                cell(tg, _speed),
                _speedup(tg, is_base),
                cell(pp, _speed),
                _speedup(pp, is_base),
                " / ".join(known) or NOT_MEASURED,
                NOT_MEASURED if bench is None or bench.n_rounds is None else _counts(bench),
            ]
        )
    header = ("Format", "Tokens/second (tg)", "Speed-up (tg)", "Prompt, tokens/second (pp)", "Speed-up (pp)")
    return table((*header, "ms per token, p50 / p95 / p99", "Rounds / repetitions, undisturbed"), lines)


def _counts(bench: BenchFigures) -> str:
    n_left = bench.n_undisturbed
    return f"{bench.n_rounds} / {bench.n_samples if n_left == bench.n_samples else f'{n_left} of {bench.n_samples}'}"


def _speedup(speed: SpeedFigures | None, is_base: bool) -> str:
    if speed is None or speed.speedup is None:
        return NOT_MEASURED
    return "1.0" if is_base else times(speed.speedup.ratio, speed.speedup.low, speed.speedup.high)


def _speed(speed: SpeedFigures) -> str:
    if speed.low_tps is None or speed.high_tps is None:
        return rate(speed.tps)
    return f"{rate(speed.tps)} ({rate(speed.low_tps)} to {rate(speed.high_tps)})"


def speed_note(records: Measured) -> str:
    """What the columns of Q8 mean."""
    run = next(iter(records.of(BENCH).values()), None)
    if run is None:
        return "Speed was not measured."
    return (
        f"tg: generating {run.n_gen} tokens one by one; pp: reading a prompt of {run.n_prompt} tokens at once. Speed:"
        f" {SPEED_RULE}. Speed-up over {records.formats[0]}: {RATIO_RULE}. It can differ a little from the ratio of"
        f" the speeds, which compare different moments. In brackets: {INTERVAL_RULE}. Rounds go on until every"
        f" speed-up is known to ± {100 * PRECISE:g} % or the time allowed is over; after the fewest rounds only for"
        f" formats that are not known as well. Disturbed: its threads waited for a core for more than"
        f" {100 * DISTURBED:g} % of the time. p95: 95 of 100 undisturbed tokens came at least as fast."
    )


def memories(records: Measured, figures: Figures) -> str:
    """Q9: peak memory and the verdict for each size of RAM."""
    fits = {ram: {one.format: one for one in fit_table(records, ram)} for ram in RAM_GB}
    return table(
        ("Format", "Peak memory", "Peak with mmap on", "KV cache", "Context", *(f"{ram} GB" for ram in RAM_GB)),
        (
            (
                name,
                cell(row.peak_rss_bytes, size_text),
                cell(None if row.memory is None else row.memory.peak_rss_mmap_bytes, size_text),
                cell(row.memory, lambda memory: size_text(memory.kv_bytes)),
                cell(row.memory, lambda memory: f"{memory.n_ctx} tokens"),
                *(fits[ram][name].verdict for ram in RAM_GB),
            )
            for name, row in figures.items()
        ),
    )


def contexts(records: Measured) -> str:
    """Q9: KV cache and 8 GB verdict at other context sizes; empty without memory records."""
    measured = [name for name in records.formats if name in records.of(MEMORY)]
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
        lines.append([str(n_ctx), NOT_MEASURED if kv is None else size_text(kv), verdict])
    return table(("Context, tokens", "KV cache", "8 GB"), lines, left=(0, 2))
