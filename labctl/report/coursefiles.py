"""The plain files that the course's own scripts produce and graders look for, and results.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labctl.report.findings import chunk_words, notices
from labctl.report.text import NOT_MEASURED, gigabytes, interval, known, percent, printable, significant
from labctl.steps.measured import LabRecords

if TYPE_CHECKING:
    import pandas as pd

Rows = Mapping[str, Mapping[str, Any]]


def model_sizes(records: LabRecords, rows: Rows) -> str:
    """model_sizes.txt: format, GB, bytes, compression ratio."""
    lines = [f"# Sizes of the files of {records.model.name}; 1 GB = 1,000,000,000 bytes", *_notices(records)]
    lines.append(f"{'Model':<10} {'Size_GB':>12} {'Size_bytes':>16} {'Ratio':>12}")
    for name, row in rows.items():
        if known(row["size_bytes"]):
            ratio = f"{significant(row['compression_ratio'])}x" if known(row["compression_ratio"]) else NOT_MEASURED
            lines.append(f"{name:<10} {gigabytes(row['size_bytes']):>12} {row['size_bytes']:>16.0f} {ratio:>12}")
        else:
            lines.append(f"{name:<10} {NOT_MEASURED}")
    return "\n".join(lines) + "\n"


def perplexity_results(records: LabRecords, rows: Rows) -> str:
    """perplexity_results.txt: a line a format, in llama-perplexity's words."""
    text = f"{printable(records.text.name)}, {chunk_words(rows, records)}" if records.text else "no text"
    lines = [f"# Perplexity of {records.model.name} on {text.rstrip(', ')}", *_notices(records)]
    for name, row in rows.items():
        if not known(row["ppl"]):
            lines.append(f"{name}: {NOT_MEASURED}")
            continue
        line = f"{name}: PPL = {row['ppl']:.4f} +/- {row['ppl_se']:.5f}"
        if known(row["ppl_increase_pct"]):
            spread = interval(row["ppl_increase_low_pct"], row["ppl_increase_high_pct"])
            line += f", increase {percent(row['ppl_increase_pct'])} (95 % interval {spread}), {row['verdict']}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def performance_results(rows: Rows) -> str:
    """performance_results.csv: medians; a cell that was not measured is empty, so that the columns stay numeric."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["Model", "PromptTime_ms", "GenerationTime_ms", "TokensPerSec"])
    for name, row in rows.items():
        figures = ((row["pp_ms"], 3), (row["tg_ms"], 3), (row["tg_tps"], 3))
        writer.writerow([name, *(f"{value:.{digits}f}" if known(value) else "" for value, digits in figures)])
    return stream.getvalue()


def prompts(records: LabRecords) -> dict[int, str]:
    """The prompts that were used, by their number on the worksheet."""
    found: dict[int, str] = {}
    for run in records.generation.values():
        for generation in run.generations:
            found.setdefault(generation.prompt_number, generation.prompt)
    return dict(sorted(found.items()))


def prompt_lines(records: LabRecords) -> str:
    """test_prompts.txt: one prompt a line; empty if nothing was generated."""
    return "".join(f"{printable(prompt)}\n" for prompt in prompts(records).values())


def results_csv(table: pd.DataFrame) -> str:
    """results.csv: every figure of the frame, numbers as they are; a cell that was not measured is empty."""
    return str(table.convert_dtypes().to_csv(lineterminator="\n"))  # whole numbers stay whole beside a gap


def _notices(records: LabRecords) -> list[str]:
    return [f"# Note: {printable(notice)}" for notice in notices(records)]
