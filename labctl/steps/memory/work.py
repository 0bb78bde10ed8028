"""Peak memory of a process that loads a model, reads a prompt and generates: run it in a fresh process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labctl.engines.llama_cpp.binding import Context, Llama, Model
from labctl.engines.llama_cpp.gguf.lengths import N_PROMPT
from labctl.executors.base import Report, log_line
from labctl.machine.memory import current_rss_bytes, peak_rss_bytes, resident_parts
from labctl.steps.memory.record import N_GEN, MemoryLoad, MemoryTask


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


def measure(task: MemoryTask, report: Report) -> MemoryLoad:
    """The memory task in a child."""
    return measure_load(
        Llama(log_line=log_line, warnings=report.warnings),
        Path(task.model_path),
        n_ctx=task.n_ctx,
        n_threads=task.n_threads,
        mmap=task.mmap,
    )
