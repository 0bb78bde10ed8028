"""How close the speeds come to what the machine can do, what memory is made of, and the state the machine was in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from labctl.machine import clock_text
from labctl.measure.bandwidth import bandwidth_for, bound_tps
from labctl.records import LabRecords
from labctl.records_hardware import BenchConditions, Conditions, MemoryLoad
from labctl.report.text import NOT_MEASURED, counted, rate, significant, size, table

Rows = Mapping[str, Mapping[str, Any]]


def bounds(records: LabRecords) -> dict[str, float]:
    """Format -> tokens per second that the measured memory bandwidth allows; only formats that have one."""
    state = records.conditions
    if state is None:
        return {}
    found = {name: bound_tps(state.bandwidth, work) for name, work in state.work.items() if name in records.formats}
    return {name: value for name, value in found.items() if value is not None}


def bits_finding(records: LabRecords, rows: Rows) -> str:
    """Title of speed_vs_bits."""
    shares = {name: float(rows[name]["tg_tps"]) / value for name, value in bounds(records).items()}
    shares = {name: share for name, share in shares.items() if share > 0}
    if not shares:
        return "Generation speed by bits per weight"
    least, most = (pick(shares, key=lambda name: shares[name]) for pick in (min, max))
    if least == most:
        return f"{least} generates at {100 * shares[least]:.0f} % of what memory allows"
    return (
        f"Generation at {100 * shares[least]:.0f} % ({least}) to {100 * shares[most]:.0f} % ({most}) of what memory"
        " allows"
    )


def bound_table(records: LabRecords, rows: Rows) -> str:
    """Generation speed against the bound, and the arithmetic speed of prompt processing; empty without conditions."""
    state = records.conditions
    if state is None or not state.work:
        return ""
    limits = bounds(records)
    lines = []
    for name in records.formats:
        work = state.work.get(name)
        if work is None:
            continue
        measured, limit = rows[name]["tg_tps"], limits.get(name, math.nan)
        used = bandwidth_for(state.bandwidth, work)
        share = 100 * measured / limit
        gflops = (
            work.prompt_flop * rows[name]["pp_tps"] / records.speed[name].n_prompt / 1e9 if _timed(rows, name) else 0
        )
        lines.append(
            [
                name,
                f"{size(work.weight_bytes_per_token)} + {size(work.kv_bytes_per_token)}",
                f"{used.best_bytes_per_s / 1e9:.1f} GB/s" if used else NOT_MEASURED,
                rate(limit) if math.isfinite(limit) else NOT_MEASURED,
                f"{share:.0f} %" if math.isfinite(share) else NOT_MEASURED,
                significant(gflops) if gflops else NOT_MEASURED,
            ]
        )
    header = ("Format", "Read a token: weights + cache", "Memory bandwidth", "Bound, tokens/second", "Reached")
    return table((*header, "pp, GFLOP/s"), lines)


def _timed(rows: Rows, name: str) -> bool:
    return bool(rows[name]["pp_tps"] > 0)


def bound_note(records: LabRecords) -> str:
    """The arithmetic behind the bound, in words; empty without conditions."""
    state = records.conditions
    if state is None or not state.work:
        return ""
    tests = ", ".join(
        f"{size(one.buffer_bytes)}: {max(one.read_bytes_per_s) / 1e9:.1f} reading,"
        f" {max(one.copy_bytes_per_s) / 1e9:.1f} copying"
        for one in state.bandwidth
    )
    return (
        "Bound: each generated token reads every weight once (of the table of token embeddings one row, unless it also"
        " serves as the output matrix) and the cache of the tokens before it (half of the test's length on average), so"
        " tokens/second cannot pass memory bandwidth / bytes read. Bandwidth: the fastest of several passes in which"
        " all threads read or copy a buffer (copying counts bytes read and bytes written), of the size that a token of"
        " the format reads, because a small model is read from the processor's cache; measured right before the speeds"
        f" (GB/s by buffer: {tests or NOT_MEASURED}). A share over 100 % says that the bandwidth test was disturbed."
        " GFLOP/s: two operations a weight and token, plus attention, by the median prompt speed."
    )


def memory_parts(records: LabRecords) -> str:
    """What peak memory is made of, mmap off and on; empty without memory records."""
    lines = []
    for name in records.formats:
        run = records.memory.get(name)
        for load in run.loads if run is not None else ():
            lines.append(
                [
                    name,
                    "on" if load.mmap else "off",
                    size(load.peak_rss_bytes),
                    *(
                        size(part) if part is not None else "not told by this system"
                        for part in (load.anonymous_bytes, load.file_bytes)
                    ),
                    size(sum(load.model_bytes.values()) - repacked_bytes(load)),
                    size(repacked_bytes(load)) if repacked_bytes(load) else "none",
                    size(load.kv_bytes),
                    size(load.compute_bytes + load.output_bytes),
                    size(load.start_rss_bytes),
                ]
            )
    if not lines:
        return ""
    header = ("Format", "mmap", "Peak", "Own memory", "From files", "Weights as stored", "Weights repacked")
    return table((*header, "KV cache", "Work buffers", "Program before loading"), lines, left=(0, 1))


def repacked_bytes(load: MemoryLoad) -> int:
    """Weights that llama.cpp laid out anew in memory of their own, for faster arithmetic."""
    return sum(n_bytes for name, n_bytes in load.model_bytes.items() if "REPACK" in name)


MEMORY_NOTE = (
    "Own memory and memory from files are what was resident after the work. llama.cpp repacks some weight types when"
    " it loads them. With mmap off they exist once; with mmap on the mapped file stays resident beside the repacked"
    " copy as long as the system has room, so the peak counts them twice. Formats are ranked by the peak with mmap off."
    " Work buffers are llama.cpp's reservations: parts it never touched are not resident."
)


def conditions_lines(records: LabRecords) -> list[tuple[str, str]]:
    """What the speeds were measured under, for the table at the head of the worksheet."""
    state = records.conditions
    if state is None or not records.speed:
        return []
    machine = next(iter(records.speed.values())).provenance.machine
    cores = ""
    if machine.n_cores_efficiency:
        cores = f"{machine.n_cores_performance} performance and {machine.n_cores_efficiency} efficiency cores; "
    features = " ".join(machine.cpu_features) or "not told"
    return [
        ("Processor can", f"{cores}{features}"),
        (
            "Speeds measured",
            f"{_rounds(state)}; just before: {_state(state.before)}; just after: {_state(state.after)}",
        ),
    ]


def _rounds(state: BenchConditions) -> str:
    why = {
        "precise": "then every ratio was known well enough",
        "budget": "then the time allowed was over",
        "rounds": "as many rounds as allowed",
    }.get(state.ended, "to be continued")
    return f"{counted(state.n_rounds, 'round')}, {state.spent_s:.0f} s altogether, {why}"


def _state(now: Conditions) -> str:
    clock = clock_text(now.clock_hz) or "clock not told"
    parts = [
        clock,
        f"governor {now.governor}" if now.governor else "",
        f"{now.temperature_c:.0f} °C" if now.temperature_c is not None else "",
        f"on {now.power}" if now.power else "",
        f"other programs on {now.busy_cores:.1f} cores" if now.busy_cores is not None else "",
        f"{size(now.available_bytes)} free" if now.available_bytes else "",
    ]
    return ", ".join(part for part in parts if part)
