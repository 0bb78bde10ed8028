"""The plain files that the course's own scripts produce and graders look for, and results.csv."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from labctl.records.units import gigabytes, percent, significant
from labctl.report.figures import Figures
from labctl.report.findings import chunk_words, notices
from labctl.report.text import NOT_MEASURED, cell, interval, printable
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured

if TYPE_CHECKING:
    import pandas as pd


def model_sizes(records: Measured, figures: Figures) -> str:
    """model_sizes.txt: format, GB, bytes, compression ratio."""
    lines = [f"# Sizes of the files of {records.model.name}; 1 GB = 1,000,000,000 bytes", *_notices(records)]
    lines.append(f"{'Model':<10} {'Size_GB':>12} {'Size_bytes':>16} {'Ratio':>12}")
    for name, row in figures.items():
        if row.size_bytes is None:
            lines.append(f"{name:<10} {NOT_MEASURED}")
            continue
        ratio = cell(row.compression_ratio, lambda ratio: f"{significant(ratio)}x")
        lines.append(f"{name:<10} {gigabytes(row.size_bytes):>12} {row.size_bytes:>16} {ratio:>12}")
    return "\n".join(lines) + "\n"


def perplexity_results(records: Measured, figures: Figures) -> str:
    """perplexity_results.txt: a line a format, in llama-perplexity's words."""
    text = f"{printable(records.text.name)}, {chunk_words(figures, records)}" if records.text else "no text"
    lines = [f"# Perplexity of {records.model.name} on {text.rstrip(', ')}", *_notices(records)]
    for name, row in figures.items():
        texts = row.perplexity
        if texts is None or texts.ppl is None:
            lines.append(f"{name}: {NOT_MEASURED}")
            continue
        line = f"{name}: PPL = {texts.ppl:.4f} +/- {texts.ppl_se:.5f}"
        if (increase := texts.increase) is not None:
            spread = interval(increase.low_pct, increase.high_pct)
            line += f", increase {percent(increase.pct)} (95 % interval for text like this {spread})"
            line += f", {texts.verdict} on this text"
        lines.append(line)
    return "\n".join(lines) + "\n"


def performance_results(figures: Figures) -> str:
    """performance_results.csv: medians; a cell that was not measured is empty, so that the columns stay numeric."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["Model", "PromptTime_ms", "GenerationTime_ms", "TokensPerSec"])
    for name, row in figures.items():
        pp, tg = row.speed("pp"), row.speed("tg")
        milliseconds, tps = [one and one.ms for one in (pp, tg)], tg and tg.tps
        writer.writerow([name, *("" if value is None else f"{value:.3f}" for value in (*milliseconds, tps))])
    return stream.getvalue()


def prompts(records: Measured) -> dict[int, str]:
    """The prompts that were used, by their number on the worksheet."""
    found: dict[int, str] = {}
    for run in records.of(GENERATE).values():
        for generation in run.generations:
            found.setdefault(generation.prompt_number, generation.prompt)
    return dict(sorted(found.items()))


def prompt_lines(records: Measured) -> str:
    """test_prompts.txt: one prompt a line; empty if nothing was generated."""
    return "".join(f"{printable(prompt)}\n" for prompt in prompts(records).values())


def results_csv(table: pd.DataFrame) -> str:
    """results.csv: every figure of the frame, numbers as they are; a cell that was not measured is empty."""
    return str(table.convert_dtypes().to_csv(lineterminator="\n"))  # whole numbers stay whole beside a gap


def _notices(records: Measured) -> list[str]:
    return [f"# Note: {printable(notice)}" for notice in notices(records)]
