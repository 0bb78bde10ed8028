"""What the speed tests ask of the machine, what memory is made of, and the state the machine was in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from labctl.machine.fingerprint import clock_text
from labctl.records.hardware import Conditions
from labctl.records.units import significant, size_text
from labctl.report.figures import Figures
from labctl.report.text import NOT_MEASURED, counted, table
from labctl.steps.bench.record import BenchConditions
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.memory.record import MemoryLoad
from labctl.steps.memory.step import MEMORY


def work_table(records: Measured, figures: Figures) -> str:
    """What the tests ask for, and how much of it the machine did in a second; empty without conditions."""
    state = records.conditions
    lines = []
    for name in records.formats if state is not None else ():
        if state is None or (work := state.work.get(name)) is None:
            continue
        read = done = 0.0
        if (tg := figures[name].speed("tg")) is not None:
            read = (work.weight_bytes_per_token + work.kv_bytes_per_token) * tg.tps
        if (pp := figures[name].speed("pp")) is not None:
            done = work.prompt_flop * pp.tps / records.of(BENCH)[name].n_prompt
        lines.append(
            [
                name,
                size_text(work.weight_bytes_per_token),
                size_text(work.kv_bytes_per_token),
                f"{significant(read / 1e9)} GB/s" if read > 0 else NOT_MEASURED,
                f"{significant(done / 1e9)} GFLOP/s" if done > 0 else NOT_MEASURED,
            ]
        )
    header = ("Format", "Weights read a token", "Cache read a token", "Read in a second (tg)", "Arithmetic (pp)")
    return table(header, lines) if lines else ""


WORK_NOTE = (
    "Each generated token reads nearly every weight once and the cache of the tokens before it, so a smaller file is"
    " read faster; unpacking its weights takes arithmetic, too. Read in a second: those bytes times tokens/second."
    " Arithmetic: two operations a weight and token, plus attention, at the median prompt speed."
)


def memory_parts(records: Measured) -> str:
    """What peak memory is made of, mmap off and on; empty without memory records."""
    lines = []
    for name in records.formats:
        run = records.of(MEMORY).get(name)
        for load in run.loads if run is not None else ():
            lines.append(
                [
                    name,
                    "on" if load.mmap else "off",
                    size_text(load.peak_rss_bytes),
                    *(
                        size_text(part) if part is not None else "not told by this system"
                        for part in (load.anonymous_bytes, load.file_bytes)
                    ),
                    size_text(sum(load.model_bytes.values()) - repacked_bytes(load)),
                    size_text(repacked_bytes(load)) if repacked_bytes(load) else "none",
                    size_text(load.kv_bytes),
                    size_text(load.compute_bytes + load.output_bytes),
                    size_text(load.start_rss_bytes),
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


def build_words(versions: Mapping[str, str]) -> str:
    """What llama.cpp was built with, from a record's versions: vector instructions, threads, layout; else empty."""
    told = dict(re.findall(r"(\w+) = (\d+)", versions.get("system_info", "")))
    used = [name.lower() for name, value in told.items() if value != "0"]
    if not used:
        return ""
    names = {"openmp": "threads by OpenMP", "repack": "weights repacked", "llamafile": "llamafile's matrix products"}
    features = [name for name in used if name not in names]
    threads = [] if "openmp" in used else ["threads of its own"]
    parts = [*([f"for {' '.join(features)}"] if features else []), *threads, *(names[n] for n in used if n in names)]
    return f"llama.cpp built {', '.join(parts)}"


def conditions_lines(records: Measured) -> list[tuple[str, str]]:
    """What the speeds were measured under, for the table at the head of the worksheet."""
    state = records.conditions
    if state is None or not records.of(BENCH):
        return []
    provenance = next(iter(records.of(BENCH).values())).provenance
    machine = provenance.machine
    cores = ""
    if machine.n_cores_efficiency:
        cores = f"{machine.n_cores_performance} performance and {machine.n_cores_efficiency} efficiency cores; "
    features = " ".join(machine.cpu_features) or "not told"
    return [
        ("Processor can", f"{cores}{features}"),
        *((("Build", build),) if (build := build_words(provenance.versions)) else ()),
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
        f"{size_text(now.available_bytes)} free" if now.available_bytes else "",
    ]
    return ", ".join(part for part in parts if part)
