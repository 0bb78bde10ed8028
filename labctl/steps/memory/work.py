"""Peak memory of a process that loads a model, reads a prompt and generates: run it in a fresh process."""

from __future__ import annotations

from pathlib import Path

from labctl import engines
from labctl.executors.base import Report
from labctl.lab.reach import N_PROMPT
from labctl.machine.memory import current_rss_bytes, peak_rss_bytes, resident_parts
from labctl.steps.memory.record import N_GEN, MemoryLoad, MemoryTask


def measure(task: MemoryTask, report: Report) -> MemoryLoad:
    """Load a file, read a prompt of up to 512 tokens, generate up to 16, and read the high-water mark.

    Raises:
        LabError: the file does not load or compute.
    """
    program = engines.of_task(task).start(report)
    start = current_rss_bytes()
    with program.filled(
        Path(task.model_path),
        mmap=task.mmap,
        n_ctx=task.n_ctx,
        n_threads=task.n_threads,
        n_prompt=N_PROMPT,
        n_gen=N_GEN,
    ) as buffers:
        anonymous, mapped = resident_parts()
        peak = peak_rss_bytes()
    return MemoryLoad(
        mmap=task.mmap,
        peak_rss_bytes=peak,
        start_rss_bytes=start,
        anonymous_bytes=anonymous,
        file_bytes=mapped,
        model_bytes=dict(buffers.model),
        kv_bytes=buffers.kv,
        compute_bytes=buffers.compute,
        output_bytes=buffers.output,
    )
