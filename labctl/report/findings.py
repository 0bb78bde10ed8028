"""One computed sentence for each chart, the line of conditions under it, and the notices that go everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labctl.records.base import Machine
from labctl.report.figures import Figures
from labctl.report.gaps import mislabelled_notice, provenances
from labctl.report.text import counted
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.step import PERPLEXITY

QUANTIZED_NOTICE = (
    "The source model was already quantized: every increase is measured against that, not against the original."
)


def notices(records: Measured, kind: str = "") -> tuple[str, ...]:
    """What must be said of the figures of a chart or file, and beside nothing that it does not limit.

    Args:
        kind: "perplexity", "speed" or "memory": what these figures need; "model": what limits all of them, so that it
            stands first. Empty for everything.
    """
    found = [records.text.notice] if records.text and records.of(PERPLEXITY) and kind in ("", "perplexity") else []
    found += [*records.model.notices, *(records.warnings if kind in ("", "speed") else ())]
    if records.model.quantized and not any("already quantized" in notice for notice in found):
        found.append(QUANTIZED_NOTICE)
    found.append(mislabelled_notice(records))
    if len(machines(records)) > 1 and kind != "perplexity":
        found.append("The figures come from different computers; speeds and memory of different ones do not compare.")
    return tuple(dict.fromkeys(notice.strip() for notice in found if notice.strip()))


def machines(records: Measured) -> tuple[Machine, ...]:
    """The computers that speed and memory were measured on, newest first."""
    runs: list[Any] = [*records.of(BENCH).values(), *records.of(MEMORY).values()] or [
        *records.of(PERPLEXITY).values(),
        *records.of(GENERATE).values(),
    ]
    newest = sorted((run.provenance for run in runs), key=lambda one: one.created_at, reverse=True)
    return tuple({one.machine.machine_id: one.machine for one in reversed(newest)}.values())[::-1]


def versions(records: Measured) -> dict[str, str]:
    """Package -> version; several versions, oldest first, where the lab was updated on the way."""
    found: dict[str, dict[str, None]] = {}
    for provenance in provenances(records):
        for package, version in provenance.versions.items():
            if package != "system_info":  # a line of CPU flags, in the record for whoever needs it
                found.setdefault(package.replace("llama_cpp", "llama.cpp"), {})[version] = None
    return {package: " and ".join(found[package]) for package in sorted(found)}


def chunk_words(figures: Figures, records: Measured) -> str:
    """How much of the text the absolute perplexities cover: 40 of 648 chunks of 512 tokens."""
    run = next(iter(records.of(PERPLEXITY).values()), None)
    shared = next((row.perplexity.n_chunks_common for row in figures.values() if row.perplexity is not None), None)
    if run is None or shared is None:
        return ""
    return f"{shared} of {counted(run.n_chunks_text, 'chunk')} of {counted(run.n_ctx, 'token')}"


def caption_lines(records: Measured, kind: str) -> list[str]:
    """The conditions of a chart: model, and text or machine, and versions.

    Args:
        kind: "perplexity", "speed" or "memory".
    """
    lines = [f"Model: {records.model.name}."]
    if kind == "perplexity" and records.text is not None:
        measured = sorted({run.n_chunks for run in records.of(PERPLEXITY).values()})
        run = next(iter(records.of(PERPLEXITY).values()), None)
        if run is not None and measured:
            many = f"{measured[0]} to {measured[-1]}" if len(measured) > 1 else f"{measured[0]}"
            text = f"{counted(run.n_chunks_text, 'chunk')} of {counted(run.n_ctx, 'token')}"
            lines[0] += f" Text: {records.text.name}, {many} of {text}."
    conditions = []
    for machine in machines(records)[:1]:
        conditions.append(f"Machine: {machine.cpu_model}, {counted(machine.n_cores_physical, 'core')}, {machine.os}")
        conditions += [machine.limits] if machine.limits else []
    tables: dict[str, Mapping[str, object]] = {"speed": records.of(BENCH), "memory": records.of(MEMORY)}
    runs: Sequence[Any] = list(tables.get(kind, records.of(PERPLEXITY)).values())
    threads = sorted({run.n_threads for run in runs})
    if threads:
        conditions.append(f"threads: {' and '.join(map(str, threads))}")
    conditions += [f"{name} {number}" for name, number in versions(records).items() if name.startswith("llama")]
    return [*lines, *([f"{'; '.join(conditions)}."] if conditions else [])]


def interval_kind(records: Measured) -> str:
    """What the intervals of the increase rest on."""
    if any(run.could_stop for run in records.of(PERPLEXITY).values()):
        return "paired, chunk by chunk; wide enough to hold whenever measuring stops"
    return "paired, Student's t over chunks"
