"""How much memory a task needs, and how much address space its child may take: no file takes the whole machine."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import LabError
from labctl.executors.base import ModelSize, Task

if TYPE_CHECKING:
    from labctl.engines.llama_cpp.gguf.header import GgufHeader

OVERHEAD_BYTES = 250 << 20
"""Memory of a process besides weights and cache: Python, compute buffers, logits."""

_SLACK_BYTES = 2 << 30  # address space is reserved far beyond what is used: libraries, heaps of threads
_THREAD_BYTES = (8 + 128) << 20  # a stack, and glibc's heap of a thread


def peak_ram_bytes(header: GgufHeader, n_ctx: int) -> int:
    """Memory that a process needs to compute with a model: weights, cache, and what any process needs besides."""
    from labctl.engines.llama_cpp.gguf.header import model_shape

    return int(1.03 * header.size_bytes) + model_shape(header).kv_bytes(n_ctx) + OVERHEAD_BYTES


def limit_bytes(task: Task, asked: int | None) -> int:
    """Most address space for a task's child, where the platform can hold it to that.

    Args:
        asked: the person's own limit, 0 for none; None for one by the model's size.
    Returns: 0 for no limit.
    """
    if os.name == "nt" or sys.platform == "darwin":  # macOS maps hundreds of GB into every process
        return 0
    return (address_space_bytes(task) or 0) if asked is None else asked


def address_space_bytes(task: Task) -> int | None:
    """The limit for a task's process: twice the memory it should need, and room that is only reserved.

    Returns: None where the model's header cannot be read; the task itself will say why.
    """
    import psutil

    from labctl.machine.fingerprint import total_memory_bytes

    slack = _SLACK_BYTES + task.n_threads * _THREAD_BYTES
    if not task.model_path:
        return slack + 2 * task.work_bytes(ModelSize(largest_tensor=0, widest_row=0, n_vocab=0))
    path = Path(task.model_path)
    try:
        status = path.stat()
        header = _header(path, status.st_size, status.st_mtime_ns)
        needed = peak_ram_bytes(header, task.n_ctx_open()) + task.work_bytes(_size(header))
    except (OSError, LabError):
        return None
    # More than the machine has cannot be had anyway; a file may be mapped whole without being in memory.
    there = total_memory_bytes() + psutil.swap_memory().total
    return min(2 * needed, 2 * header.size_bytes + there) + slack


@functools.lru_cache(maxsize=32)
def _header(path: Path, _size_bytes: int, _mtime_ns: int) -> GgufHeader:
    from labctl.engines.llama_cpp.gguf.header import read_model

    return read_model(path)[0]


def _size(header: GgufHeader) -> ModelSize:
    from labctl.engines.llama_cpp.gguf.header import model_shape

    return ModelSize(
        largest_tensor=max((tensor.n_params for tensor in header.tensors), default=0),
        widest_row=max((max(tensor.shape) for tensor in header.tensors), default=0),
        n_vocab=model_shape(header).n_vocab,
    )
