"""One computed sentence for each chart, the line of conditions under it, and the notices that go everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.records.base import Machine
from labctl.report.board import boards
from labctl.report.gaps import mislabelled_notice, provenances
from labctl.report.order import Orders, tells_little, tied
from labctl.report.rules import smallest_passing
from labctl.report.scoring import MAP_STEPS, WinnerMap
from labctl.report.text import counted, percent, rate, size, speedup_words, words
from labctl.steps.measured import LabRecords

Rows = Mapping[str, Mapping[str, Any]]

QUANTIZED_NOTICE = (
    "The source model was already quantized: every increase is measured against that, not against the original."
)


def notices(records: LabRecords, kind: str = "") -> tuple[str, ...]:
    """What must be said of the figures of a chart or file, and beside nothing that it does not limit.

    Args:
        kind: "perplexity", "speed" or "memory": what these figures need; "model": what limits all of them, so that it
            stands first. Empty for everything.
    """
    found = [records.text.notice] if records.text and records.perplexity and kind in ("", "perplexity") else []
    found += [*records.model.notices, *(records.warnings if kind in ("", "speed") else ())]
    if records.model.quantized and not any("already quantized" in notice for notice in found):
        found.append(QUANTIZED_NOTICE)
    found.append(mislabelled_notice(records))
    if len(machines(records)) > 1 and kind != "perplexity":
        found.append("The figures come from different computers; speeds and memory of different ones do not compare.")
    return tuple(dict.fromkeys(notice.strip() for notice in found if notice.strip()))


def machines(records: LabRecords) -> tuple[Machine, ...]:
    """The computers that speed and memory were measured on, newest first."""
    runs: list[Any] = [*records.speed.values(), *records.memory.values()] or [
        *records.perplexity.values(),
        *records.generation.values(),
    ]
    newest = sorted((run.provenance for run in runs), key=lambda one: one.created_at, reverse=True)
    return tuple({one.machine.machine_id: one.machine for one in reversed(newest)}.values())[::-1]


def versions(records: LabRecords) -> dict[str, str]:
    """Package -> version; several versions, oldest first, where the lab was updated on the way."""
    found: dict[str, dict[str, None]] = {}
    for provenance in provenances(records):
        for package, version in provenance.versions.items():
            if package != "system_info":  # a line of CPU flags, in the record for whoever needs it
                found.setdefault(package.replace("llama_cpp", "llama.cpp"), {})[version] = None
    return {package: " and ".join(found[package]) for package in sorted(found)}


def chunk_words(rows: Rows, records: LabRecords) -> str:
    """How much of the text the absolute perplexities cover: 40 of 648 chunks of 512 tokens."""
    run = next(iter(records.perplexity.values()), None)
    shared = [row["n_chunks_common"] for row in rows.values() if math.isfinite(row["n_chunks_common"])]
    if run is None or not shared:
        return ""
    return f"{shared[0]:.0f} of {counted(run.n_chunks_text, 'chunk')} of {counted(run.n_ctx, 'token')}"


def caption_lines(records: LabRecords, kind: str) -> list[str]:
    """The conditions of a chart: model, and text or machine, and versions.

    Args:
        kind: "perplexity", "speed" or "memory".
    """
    lines = [f"Model: {records.model.name}."]
    if kind == "perplexity" and records.text is not None:
        measured = sorted({run.n_chunks for run in records.perplexity.values()})
        run = next(iter(records.perplexity.values()), None)
        if run is not None and measured:
            many = f"{measured[0]} to {measured[-1]}" if len(measured) > 1 else f"{measured[0]}"
            text = f"{counted(run.n_chunks_text, 'chunk')} of {counted(run.n_ctx, 'token')}"
            lines[0] += f" Text: {records.text.name}, {many} of {text}."
    conditions = []
    for machine in machines(records)[:1]:
        conditions.append(f"Machine: {machine.cpu_model}, {counted(machine.n_cores_physical, 'core')}, {machine.os}")
        conditions += [machine.limits] if machine.limits else []
    tables: dict[str, dict[str, Any]] = {"speed": records.speed, "memory": records.memory}
    runs: Sequence[Any] = list(tables.get(kind, records.perplexity).values())
    threads = sorted({run.n_threads for run in runs})
    if threads:
        conditions.append(f"threads: {' and '.join(map(str, threads))}")
    conditions += [f"{name} {number}" for name, number in versions(records).items() if name.startswith("llama")]
    return [*lines, *([f"{'; '.join(conditions)}."] if conditions else [])]


def quality_finding(records: LabRecords, rows: Rows, limit: float) -> str:
    """Title of size_vs_quality."""
    pick = smallest_passing(rows)
    if pick is not None:
        row = rows[pick]
        return (
            f"{pick} is the smallest file shown to stay under a {100 * limit:g} % increase:"
            f" {size(row['size_bytes'])}, perplexity {percent(row['ppl_increase_pct'])}"
        )
    if any(row["verdict"] in ("fail", "undecided") for row in rows.values()):
        return f"No smaller file is shown to stay under a {100 * limit:g} % increase of perplexity"
    return "File size and perplexity of what was measured so far"


def performance_finding(records: LabRecords, rows: Rows) -> str:
    """Title of size_vs_performance."""
    order, base = Orders(records, rows).tg, records.formats[0]
    if len(order.names) < 2:
        return "File size and generation speed"
    if tells_little(order):
        return "No format is shown to generate text fastest"
    if len(order.first) > 1:
        return f"Which format generates text fastest is not settled: {words(order.first, 'or')}"
    first, row = order.first[0], rows[order.first[0]]
    ratio = f", {speedup_words(row)} {base}" if order.better(first, base) else ""
    return f"{first} generates text fastest: {rate(row['tg_tps'])} tokens/second{ratio}"


def verdict_finding(records: LabRecords, rows: Rows, limit: float) -> str:
    """Title of ppl_increase."""
    groups = {word: [n for n, row in rows.items() if row["verdict"] == word] for word in ("pass", "undecided", "fail")}
    parts = [
        f"{words(groups[word])} {text[len(groups[word]) > 1]}"
        for word, text in (
            ("pass", ("stays under it", "stay under it")),
            ("undecided", ("is undecided", "are undecided")),
            ("fail", ("exceeds it", "exceed it")),
        )
        if groups[word]
    ]
    return f"Limit of {100 * limit:g} % more perplexity: {'; '.join(parts)}"


def speed_finding(records: LabRecords, rows: Rows) -> str:
    """Title of speed."""
    orders, parts = Orders(records, rows), []
    for test, task in (("tg", "generating text"), ("pp", "reading a prompt")):
        order = orders.speed(test)
        if len(order.names) == 1:
            return f"Only {order.names[0]} was timed"
        if tells_little(order):
            parts.append(f"No format is shown to be fastest at {task}")
        elif order.names:
            parts.append(f"Fastest at {task}: {tied(order.first)}")
    return ". ".join(parts)


def memory_finding(records: LabRecords, rows: Rows) -> str:
    """Title of memory."""
    peaks = {name: float(row["peak_rss_bytes"]) for name, row in rows.items() if row["peak_rss_bytes"] > 0}
    most, least = (pick(peaks, key=lambda name: peaks[name]) for pick in (max, min))
    if most == least or peaks[most] == peaks[least]:
        return f"Peak memory: {size(peaks[most])} ({words(peaks)})"
    return f"Peak memory: from {size(peaks[most])} ({most}) down to {size(peaks[least])} ({least})"


def map_finding(literal: WinnerMap, normal: WinnerMap) -> str:
    """Title of winner_map."""

    def leaders(found: WinnerMap) -> str:
        return words(f"{name} for {100 * share:.0f} %" for name, share in list(found.shares.items())[:2])

    settled = [100 * math.fsum(found.settled_shares.values()) for found in (literal, normal)]
    if list(normal.shares) == list(literal.shares) and len(normal.shares) == 1 and min(settled) > 99.5:
        return f"{next(iter(normal.shares))} wins whatever the weights, by both scores"
    return (
        f"Highest score over all weightings: literal, {leaders(literal)} ({settled[0]:.0f} % settled); normalised,"
        f" {leaders(normal)} ({settled[1]:.0f} % settled)"
    )


def interval_kind(records: LabRecords) -> str:
    """What the intervals of the increase rest on."""
    runs = records.perplexity.values()
    if any(run.order_seed is not None and run.n_chunks < run.n_chunks_text for run in runs):
        return "paired, chunk by chunk; wide enough to hold whenever measuring stops"
    return "paired, Student's t over chunks"


MEDIAN_BARS = "95 % interval of the median; of fewer than six repetitions, their range"
HOW_TO_READ = {
    "size_vs_quality": "Further left is smaller, further down is better",
    "size_vs_performance": "Further left is smaller, further up is faster",
    "ppl_increase": "A bar wholly left of the dashed line passes, wholly right of it fails, across it is undecided",
    "speed": "Further right is faster; bars that overlap settle nothing either way",
    "speed_vs_bits": "Further left is smaller, further up is faster",
    "memory": "Shorter is better",
    "winner_map": "Find the point of your own weights: its colour is your format",
}
"""How to look at each chart."""


def readings(records: LabRecords, rows: Rows, limit: float) -> dict[str, str]:
    """One sentence for each chart that there is data for: how to look at it, and what it says here."""
    found = {
        "size_vs_quality": quality_finding(records, rows, limit),
        "size_vs_performance": performance_finding(records, rows),
        "ppl_increase": verdict_finding(records, rows, limit),
        "speed": speed_finding(records, rows),
        "speed_vs_bits": "Generation speed by bits per weight",
    }
    if any(row["peak_rss_bytes"] > 0 for row in rows.values()):
        found["memory"] = memory_finding(records, rows)
    scored = boards(rows, Orders(records, rows), (0.3, 0.4, 0.3))
    if scored.comparable:
        found["winner_map"] = map_finding(*(board.map(MAP_STEPS) for board in scored.both))
    return {name: f"{HOW_TO_READ[name]}. {finding}." for name, finding in found.items()}
