"""What a run found, in a line for each step and one for the answer, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labctl.report.rules import is_smaller, not_smaller, production
from labctl.report.text import interval, known, percent, rate, significant, size, words
from labctl.steps.measured import LabRecords

Rows = Mapping[str, Mapping[str, Any]]
VERDICTS = {"pass": "passes", "fail": "fails", "undecided": "undecided"}


def step_result(records: LabRecords, rows: Rows, step: str) -> str:
    """What a step found, format by format; empty where it found nothing."""
    figures = {name: _figure(records, rows[name], name, step) for name in records.formats}
    found = [f"{name} {text}" for name, text in figures.items() if text]
    if not found:
        return ""
    if step == "perplexity":
        chunks = sorted({run.n_chunks for run in records.perplexity.values()})
        many = f"{chunks[0]} to {chunks[-1]} chunks" if len(chunks) > 1 else f"{chunks[0]} chunks each"
        return f"{many}: {', '.join(found)}"
    head = {"divergence": "KL divergence: ", "generate": "right answers: ", "memory": "peak: "}.get(step, "")
    if step == "bench":
        n_rounds = max((len({visit.round for visit in run.visits}) for run in records.speed.values()), default=0)
        head = f"{n_rounds} round{'s' if n_rounds != 1 else ''}, generated tokens/second: "
    return f"{head}{', '.join(found)}"


def _figure(records: LabRecords, row: Mapping[str, Any], name: str, step: str) -> str:
    if step == "quantize":
        return size(row["size_bytes"]) if known(row["size_bytes"]) else ""
    if step == "perplexity":
        if row["verdict"] in VERDICTS:
            return f"{percent(row['ppl_increase_pct'])} {VERDICTS[row['verdict']]}"
        return f"{row['ppl']:.4f}" if known(row["ppl"]) else ""
    if step == "divergence":
        return significant(row["kld_mean"]) if known(row["kld_mean"]) else ""
    if step == "memory":
        return size(row["peak_rss_bytes"]) if known(row["peak_rss_bytes"]) else ""
    if step == "bench":
        return rate(row["tg_tps"]) if known(row["tg_tps"]) else ""
    run = records.generation.get(name)
    answers = [answer.correct for probe in run.probes for answer in probe.answers] if run is not None else []
    return f"{sum(answers)} of {len(answers)}" if answers else ""


def answer_line(records: LabRecords, rows: Rows, limit: float) -> str:
    """Which format to use, by the rule of Q10; empty as long as nothing is measured that decides it."""
    bar = f"{100 * limit:g} %"
    pick = production(records, rows, limit).pick
    if pick is None:
        return ""
    base, row = records.formats[0], rows[pick]
    if pick != base and row["verdict"] == "pass":
        smaller = row["compression_ratio"]
        parts = [f"{significant(smaller, 2)}x smaller than {base}"] if known(smaller) else []
        spread = interval(row["ppl_increase_low_pct"], row["ppl_increase_high_pct"])
        parts.append(f"perplexity {percent(row['ppl_increase_pct'])} ({spread})")
        return f"Use {pick}: {', '.join(parts)}; passes the limit of {bar}."
    undecided = [name for name, one in rows.items() if one["verdict"] == "undecided" and is_smaller(one)]
    listed = words(
        f"{name} {percent(rows[name]['ppl_increase_pct'])}"
        f" ({interval(rows[name]['ppl_increase_low_pct'], rows[name]['ppl_increase_high_pct'])})"
        for name in undecided
    )
    open_ = f" Undecided: {listed}; more chunks may settle it." if undecided else ""
    if same := [name for name in not_smaller(rows) if rows[name]["verdict"] == "pass"]:
        listed = f"{words(same)} {'is' if len(same) == 1 else 'are'}"
        return f"Keep {base}: {listed} no smaller, and no smaller file is shown to stay under {bar}.{open_}"
    return f"No smaller file is shown to stay under the limit of {bar}: keep {base}.{open_}"
