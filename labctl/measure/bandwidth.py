"""How fast this machine moves memory, and what a token asks of it: the bound on generation speed.

Every generated token reads nearly all weights once, so no CPU generates faster than its memory bandwidth divided by
those bytes (the roofline of Williams, Waterman and Patterson, CACM 52(4), 2009).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from labctl.records import ModelShape
from labctl.records_hardware import Bandwidth, Work

PASSES = 4
WARM_UP_S = 0.5
Words = NDArray[np.int64]


class Tensor(Protocol):
    """What the arithmetic needs to know of a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def n_params(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


# -- the machine ------------------------------------------------------------------------------------------------------


def measure_bandwidths(
    buffers_bytes: Sequence[int], n_threads: int, *, seconds: float = 0.3, warm_up_s: float = WARM_UP_S
) -> list[Bandwidth]:
    """Read and copy buffers again and again with all threads, each on a part of its own.

    Args:
        buffers_bytes: sizes of the buffers; one that fits into a cache measures the cache.
        seconds: time for reading each; copying takes as long again.
        warm_up_s: reading before that, which no figure shows: a system may begin with all threads on one core, at a
            low clock.
    Returns: for each size, PASSES figures of each kind. Reading counts each byte once; copying counts bytes read and
        bytes written (not the extra read that some processors do before they write). The sizes take turns, so that a
        short disturbance spoils one pass of several sizes and not all passes of one.
    Source: McCalpin's STREAM (the Copy kernel, the best of several passes).
    """
    words = np.ones(max(*buffers_bytes, 16 * n_threads) // 8, dtype=np.int64)
    buffers = [words[: max(size // 8, 2 * n_threads)] for size in buffers_bytes]
    parts = [[part for part in np.array_split(buffer, n_threads) if part.size >= 2] for buffer in buffers]
    _pass(_read, parts[0], warm_up_s)
    rounds = [[(_pass(_read, one, seconds / PASSES), _pass(_copy, one, seconds / PASSES)) for one in parts]
              for _ in range(PASSES)]  # fmt: skip
    return [
        Bandwidth(
            buffer_bytes=int(buffer.nbytes),
            n_threads=n_threads,
            read_bytes_per_s=tuple(read for read, _ in passes),
            copy_bytes_per_s=tuple(copy for _, copy in passes),
        )
        for buffer, passes in zip(buffers, zip(*rounds, strict=True), strict=True)
    ]


def _read(part: Words) -> object:
    return part.sum()


def _copy(part: Words) -> object:
    half = part.size // 2
    part[:half] = part[half : 2 * half]
    return part


def _pass(work: Callable[[Words], object], parts: Sequence[Words], seconds: float) -> float:
    """Bytes per second of all threads: numpy lets go of the interpreter while it reduces or copies."""
    start = threading.Barrier(len(parts))
    rates = [0.0] * len(parts)

    def run(place: int) -> None:
        part = parts[place]
        work(part)
        start.wait()
        begun = time.perf_counter()
        count = 0
        while True:
            work(part)
            count += 1
            spent = time.perf_counter() - begun
            if spent >= seconds:
                break
        rates[place] = count * part.nbytes / spent

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def buffer_sizes(work: Iterable[Work], *, cache_bytes: int, available_bytes: int) -> tuple[int, ...]:
    """Sizes of buffers to test: as large as what a token of each format reads, and one for main memory.

    A model smaller than the cache is read from the cache, so its bound is the cache's. Main memory is tested with four
    times the cache (STREAM's rule), but at least 256 MiB and at most 1 GiB or a quarter of the free memory; what a
    format reads beyond that is the same main memory.
    """
    most = max(1 << 20, min(1 << 30, available_bytes // 4))
    main = min(most, max(256 << 20, 4 * cache_bytes))
    own = {min(one.weight_bytes_per_token + one.kv_bytes_per_token, main) for one in work}
    return tuple(sorted({main, *(size for size in own if size >= 1 << 16)}))


# -- the tests --------------------------------------------------------------------------------------------------------


def work_of(
    tensors: Sequence[Tensor], shape: ModelShape, *, n_prompt: int, n_gen: int, n_expert: int = 0,
    n_expert_used: int = 0,
) -> Work:  # fmt: skip
    """What llama-bench's two tests ask for with one file.

    Weights of one generated token: every tensor once, but of the table of token embeddings (token_embd.weight) one row,
    unless it also serves as the output matrix (a file without output.weight); of a mixture of experts, the share of
    experts that a token uses. Cache: keys and values of all tokens so far, (n_gen + 1) / 2 on average. Operations of
    the prompt: two a weight and token for every matrix, the output matrix for the last token only, and
    4 n_layer n_head d_head for each pair of a token and one that it looks back at (itself included).
    """
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    n_bytes = 0.0
    flop = 0.0
    for tensor in tensors:
        share = n_expert_used / n_expert if n_expert and "_exps." in tensor.name else 1.0
        rows = tensor.n_params // max(1, tensor.shape[0])
        if tensor.name == "token_embd.weight":
            n_bytes += tensor.size_bytes / rows
            if not tied:
                continue
        n_bytes += tensor.size_bytes * share
        if len(tensor.shape) > 1 and rows > 1:
            is_output = tensor.name in ("output.weight", "token_embd.weight")
            flop += 2 * tensor.n_params * share * (1 if is_output else n_prompt)
    pairs = n_prompt * (n_prompt + 1) // 2
    flop += 2 * shape.n_layer * shape.n_head * (shape.d_head_k + shape.d_head_v) * pairs
    return Work(
        weight_bytes_per_token=round(n_bytes),
        kv_bytes_per_token=round(shape.kv_bytes(1) * (n_gen + 1) / 2),
        prompt_flop=round(flop),
    )


def experts(metadata: dict[str, Any], architecture: str) -> tuple[int, int]:
    """How many experts a layer has, and how many of them a token uses; 0, 0 for a model without."""
    found = [metadata.get(f"{architecture}.{key}") for key in ("expert_count", "expert_used_count")]
    count, used = (one if isinstance(one, int) and one > 0 else 0 for one in found)
    return (count, used) if used and count >= used else (0, 0)


def bandwidth_for(measured: Sequence[Bandwidth], work: Work) -> Bandwidth | None:
    """The test whose buffer is what a token of this format reads; main memory's for all larger ones."""
    needed = work.weight_bytes_per_token + work.kv_bytes_per_token
    ordered = sorted(measured, key=lambda one: one.buffer_bytes)
    # A buffer is a few bytes smaller than asked for: it holds whole words.
    return next((one for one in ordered if one.buffer_bytes >= needed - 64), ordered[-1] if ordered else None)


def bound_tps(measured: Sequence[Bandwidth], work: Work) -> float | None:
    """Tokens per second that the memory allows; None without a measured bandwidth."""
    best = bandwidth_for(measured, work)
    needed = work.weight_bytes_per_token + work.kv_bytes_per_token
    return best.best_bytes_per_s / needed if best is not None and needed else None
