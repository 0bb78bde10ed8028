"""Peak memory of a process that loads a model, reads a prompt and generates: run it in a fresh process."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labctl.errors import LabError
from labctl.measure.bench import N_PROMPT
from labctl.measure.llama import Context, Llama, Model
from labctl.records_hardware import MemoryLoad

N_GEN = 16
"""Tokens generated: the peak stands once the prompt is read, and 128 tokens after it changed it by not one kB."""


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory, by what each system counts it with."""
    if sys.platform == "win32":
        return windows_peak()
    if sys.platform == "darwin":
        return macos_peak()
    return linux_peak()


def linux_peak(status: Path = Path("/proc/self/status")) -> int:
    """VmHWM. Not ru_maxrss, which a child inherits from its parent across exec.

    Raises:
        LabError: /proc does not tell.
    """
    peak = status_bytes("VmHWM", status)
    if peak is None:
        raise LabError(f"{status} does not tell the peak memory (VmHWM).", "Measure where /proc is mounted.")
    return peak


def macos_peak() -> int:
    """ru_maxrss, which macOS counts in bytes (Linux: KiB) and does not inherit."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def windows_peak() -> int:
    """Peak working set, GetProcessMemoryInfo's PeakWorkingSetSize."""
    import psutil

    found: Any = psutil.Process().memory_info()
    return int(found.peak_wset)


def resident_parts() -> tuple[int | None, int | None]:
    """Resident bytes that belong to no file, and those mapped from files; None where the system does not tell."""
    return status_bytes("RssAnon"), status_bytes("RssFile")


def status_bytes(field: str, status: Path = Path("/proc/self/status")) -> int | None:
    """A field of /proc/<pid>/status in bytes (the kernel writes kB and means KiB); None where it is not there."""
    try:
        for line in status.read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def current_rss_bytes() -> int:
    """Resident memory now."""
    if (resident := status_bytes("VmRSS")) is not None:
        return resident
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


def give_back_memory() -> None:
    """Return what was freed to the system, so that it does not count beside what comes next.

    glibc keeps freed memory for later; the tokenizer leaves some 10 MB of it behind. Elsewhere nothing is done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def measure_load(llama: Llama, path: Path, *, n_ctx: int, n_threads: int, mmap: bool) -> MemoryLoad:
    """Load a file, read a prompt of up to 512 tokens, generate up to 16, and read the high-water mark.

    Args:
        n_ctx: tokens the key-value cache can hold.
        mmap: map the file (llama.cpp's habit) or read it into memory.
    Raises:
        LabError: the file does not load or compute.
    """
    llama.clear_log()
    start = current_rss_bytes()
    with (
        Model(llama, path, mmap=mmap) as model,
        Context(model, n_ctx=n_ctx, n_threads=n_threads, n_ubatch=512, n_batch=min(n_ctx, 2048)) as context,
    ):
        buffers = buffer_sizes(llama.lines)
        prompt = np.arange(min(N_PROMPT, n_ctx), dtype=np.int32) % model.n_vocab
        context.clear()
        context.prompt(prompt)
        context.synchronize()
        context.clear(data=False)
        for position in range(min(N_GEN, n_ctx)):
            context.decode_one(int(prompt[position % len(prompt)]), position)
        anonymous, mapped = resident_parts()
        peak = peak_rss_bytes()
    return MemoryLoad(
        mmap=mmap,
        peak_rss_bytes=peak,
        start_rss_bytes=start,
        anonymous_bytes=anonymous,
        file_bytes=mapped,
        model_bytes=buffers["model"],
        kv_bytes=sum(buffers["KV"].values()),
        compute_bytes=sum(buffers["compute"].values()),
        output_bytes=sum(buffers["output"].values()),
    )


_BUFFER = re.compile(r":\s+(?P<name>\S+)\s+(?P<kind>model|KV|compute|output) buffer size\s*=\s*(?P<mib>[\d.]+) MiB")


def buffer_sizes(lines: Sequence[str]) -> dict[str, dict[str, int]]:
    """llama.cpp's buffers from its log: kind ("model", "KV", "compute", "output") -> name -> bytes.

    The log rounds to 0.01 MiB. A buffer reported again (a graph reserved anew) counts once, at its last size.
    """
    sizes: dict[str, dict[str, int]] = {"model": {}, "KV": {}, "compute": {}, "output": {}}
    for line in lines:
        if match := _BUFFER.search(line):
            sizes[match["kind"]][match["name"]] = round(float(match["mib"]) * 1024 * 1024)
    return sizes
