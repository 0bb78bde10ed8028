"""How much address space a task may take: about twice what it should need, so that no file takes the whole machine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.engines.llama_cpp.tasks import EngineTask
from labctl.errors import LabError
from labctl.executors.base import Task
from labctl.steps.generate.record import GenerateTask
from labctl.steps.memory.record import MemoryTask
from labctl.steps.perplexity.record import N_SIDE, PerplexityTask
from labctl.steps.quantize.record import QuantizeTask
from labctl.steps.speed.record import BatchTask, BenchTask

if TYPE_CHECKING:
    from labctl.engines.llama_cpp.gguf.header import GgufHeader

OVERHEAD_BYTES = 250 << 20
"""Memory of a process besides weights and cache: Python, compute buffers, logits."""

_SLACK_BYTES = 2 << 30  # address space is reserved far beyond what is used: libraries, heaps of threads
_THREAD_BYTES = (8 + 128) << 20  # a stack, and glibc's heap of a thread
_TEXT_FACTOR = 128  # bytes for a byte of text; measured with llama.cpp's BPE: 85 for a text of one line
_N_UBATCH = 512


def peak_ram_bytes(header: GgufHeader, n_ctx: int) -> int:
    """Memory that a process needs to compute with a model: weights, cache, and what any process needs besides."""
    from labctl.engines.llama_cpp.gguf.header import model_shape

    return int(1.03 * header.size_bytes) + model_shape(header).kv_bytes(n_ctx) + OVERHEAD_BYTES


def address_space_bytes(task: Task) -> int | None:
    """The limit for a task's process: twice the memory it should need, and room that is only reserved.

    Returns: None where the model's header cannot be read; the task itself will say why.
    """
    import psutil

    from labctl.machine.fingerprint import total_memory_bytes

    slack = _SLACK_BYTES + task.n_threads * _THREAD_BYTES
    if not task.model_path:
        return slack
    path = Path(task.model_path)
    try:
        status = path.stat()
        header = _header(path, status.st_size, status.st_mtime_ns)
        needed = peak_ram_bytes(header, _n_ctx(task)) + _work_bytes(task, header)
    except (OSError, LabError):
        return None
    # More than the machine has cannot be had anyway; a file may be mapped whole without being in memory.
    there = total_memory_bytes() + psutil.swap_memory().total
    return min(2 * needed, 2 * header.size_bytes + there) + slack


@functools.lru_cache(maxsize=32)
def _header(path: Path, _size: int, _mtime: int) -> GgufHeader:
    from labctl.engines.llama_cpp.gguf.header import read_model

    return read_model(path)[0]


def _n_ctx(task: Task) -> int:
    match task:
        case PerplexityTask():
            return task.n_ctx * _n_side(task)
        case MemoryTask():
            return max(task.n_ctx, 1024)
        case GenerateTask():
            return task.n_ctx
        case BatchTask():
            return max(task.n_seqs, default=1) * (task.n_prompt + task.n_gen)
        case BenchTask():
            return task.n_prompt + task.n_gen
        case _:
            return _N_UBATCH


def _n_side(task: PerplexityTask) -> int:
    return task.shape.n_side if task.shape is not None else N_SIDE


def _work_bytes(task: Task, header: GgufHeader) -> int:
    """Buffers that grow with the model's widest layer, the vocabulary and the text."""
    from labctl.engines.llama_cpp.gguf.header import model_shape

    largest = max((tensor.n_params for tensor in header.tensors), default=0)
    if isinstance(task, QuantizeTask | EngineTask):
        return 12 * largest  # a tensor as it was read, as float32, and quantized
    widest = max((max(tensor.shape) for tensor in header.tensors), default=0)
    needed = 4 * _N_UBATCH * widest * 8
    if isinstance(task, PerplexityTask):
        n_vocab = model_shape(header).n_vocab
        needed += 4 * 4 * task.n_ctx * _n_side(task) * n_vocab + _TEXT_FACTOR * task.text.size_bytes
    return needed
