"""README.md of a repository for the files that were made here: what each is, how it was made, and what it costs."""

from __future__ import annotations

import shlex

from labctl.records.files import GgufFile
from labctl.records.units import percent, rate, size_text
from labctl.report.figures import Figures, FormatFigures
from labctl.report.findings import chunk_words, machines, notices, versions
from labctl.report.text import cell, counted, escape, interval, table
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

MARK = "<!-- written by labctl card -->"
"""A file that has this line may be written again."""


def files_made(records: Measured) -> dict[str, GgufFile]:
    """Format -> file that was made here: neither the source nor somebody else's."""
    files = records.of(QUANTIZE)
    return {
        name: files[name]
        for name in records.formats
        if name != records.model.baseline and name in files and files[name].ready_made is None
    }


def render_card(records: Measured, figures: Figures, front: str, base: str, limit: float) -> str:
    """The whole README.md.

    Args:
        front: the Hub's metadata, as YAML.
        base: repository of the model that was quantized; empty if it is not known.
        limit: of the verdicts, as a fraction.
    """
    made = files_made(records)
    parts = [
        f"---\n{front.rstrip()}\n---",
        MARK,
        f"# {escape(records.model.name)} in GGUF",
        _what(records, base),
        _files(made, figures),
        _losses(records, figures, made, limit),
        _speeds(records, figures, made),
        *(f"Note: {escape(notice)}" for notice in notices(records)),
        "## How the files were made",
        _how(records, made),
        table(("File", "sha256"), ((f"`{_name(file)}`", f"`{file.sha256}`") for file in made.values()), left=range(2)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _name(file: GgufFile) -> str:
    return file.path.replace("\\", "/").rpartition("/")[2]


def _what(records: Measured, base: str) -> str:
    model = records.model
    of = escape(base or model.name)
    quantized = ", which is itself quantized and not the original" if model.quantized else ""
    return (
        f"GGUF files of {of} for llama.cpp. Everything below was measured with labctl against the {model.baseline} file"
        f"{quantized}."
    )


def _files(made: dict[str, GgufFile], figures: Figures) -> str:
    def loss(row: FormatFigures) -> str:
        increase = row.increase
        if increase is None:
            return "not measured"
        if increase.is_exact:
            return percent(increase.pct)
        return f"{percent(increase.pct)} ({interval(increase.text_low_pct, increase.text_high_pct)})"

    def line(name: str, file: GgufFile) -> tuple[str, ...]:
        row = figures[name]
        near, speed = row.divergence, row.speed("tg")
        return (
            f"`{_name(file)}`",
            size_text(file.size_bytes),
            f"{file.bpw:.2f}",
            loss(row),
            row.verdict or "not measured",
            "not measured" if near is None else f"{near.kld_mean:.5f}",
            "not measured" if near is None else f"{near.same_top_pct:.2f} %",
            cell(speed, lambda speed: rate(speed.tps)),
        )

    header = ("File", "Size", "Bits per weight", "Loss", "Verdict", "KL divergence", "Same top token", "Tokens/s")
    return table(header, (line(name, file) for name, file in made.items()))


def _losses(records: Measured, figures: Figures, made: dict[str, GgufFile], limit: float) -> str:
    if records.text is None or not records.of(PERPLEXITY):
        return ""
    rows = [figures[name] for name in made]
    exact = all(row.increase is None or row.increase.is_exact for row in rows)
    spread = "" if exact else ", with its 95 % interval for this text"
    words = (
        f"Loss: increase of perplexity on {escape(records.text.name)}{spread}; absolute perplexities rest on"
        f" {chunk_words(figures, records)}. Verdict: pass where it lies under {100 * limit:g} % on this text, fail"
        " above, undecided where the interval holds the limit. Other texts may give other losses."
    )
    if any(row.divergence is not None for row in rows):
        words += " KL divergence: mean from the baseline's probabilities, in nats a token."
    return words


def _speeds(records: Measured, figures: Figures, made: dict[str, GgufFile]) -> str:
    machine = next(iter(machines(records)), None)
    runs = [records.of(BENCH)[name] for name in made if name in records.of(BENCH)]
    if machine is None or not runs:
        return ""
    threads = " and ".join(map(str, sorted({run.n_threads for run in runs})))
    return (
        f"Tokens/s: of generation on {escape(machine.cpu_model)} with {threads} threads; another machine has other"
        " speeds."
    )


def _how(records: Measured, made: dict[str, GgufFile]) -> str:
    build = "; ".join(f"{name} {number}" for name, number in versions(records).items() if "llama" in name)
    lines = []
    for name, file in made.items():
        imatrix = ["--imatrix", file.imatrix] if file.imatrix else []
        again = ["--allow-requantize"] if records.model.quantized else []
        source = records.model.path.replace("\\", "/").rpartition("/")[2]
        lines.append(shlex.join(["llama-quantize", *again, *imatrix, source, _name(file), name]))
    fallbacks = {name: file.n_fallbacks for name, file in made.items() if file.n_fallbacks}
    listed = ", ".join(f"{name} {counted(count, 'tensor')}" for name, count in fallbacks.items())
    more = f" In other types than asked for, as llama.cpp falls back: {listed}." if listed else ""
    block = "\n".join(lines)
    return f"With llama.cpp ({escape(build)}), as these commands make them:{more}\n\n```\n{block}\n```"
