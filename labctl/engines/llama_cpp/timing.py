"""Speed by llama-bench's tests, without sampling in the timed part, and as llama-batched-bench times several texts.

Source: llama.cpp tools/llama-bench/llama-bench.cpp, test_prompt, test_gen; tools/batched-bench/batched-bench.cpp (its
own warm-up reads 16 tokens, and it times once).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from labctl.engines.llama_cpp.binding import Context, Model
from labctl.engines.model import IntArray

_GRACE_S = 0.5  # for a test that has not run at all when the time is over
_N_UBATCH = 512  # llama-bench's default, as is that n_outputs stays unset: with 1, prompts were read 2 % slower


@contextlib.contextmanager
def prompt_test(model: Model, tokens: IntArray, n_threads: int) -> Iterator[Callable[[], float]]:
    """See labctl.engines.model.Model."""
    with Context(model, n_ctx=len(tokens), n_threads=n_threads, n_ubatch=_N_UBATCH) as context:

        def read_prompt() -> float:
            context.clear(data=False)
            begun = time.perf_counter()
            context.decode(tokens)
            context.synchronize()
            return time.perf_counter() - begun

        context.lay_out_prompt(len(tokens))
        yield read_prompt


@contextlib.contextmanager
def generation_test(model: Model, tokens: Sequence[int], n_threads: int) -> Iterator[Callable[[], Iterator[float]]]:
    """See labctl.engines.model.Model."""
    with Context(model, n_ctx=len(tokens), n_threads=n_threads, n_ubatch=_N_UBATCH) as context:

        def generate() -> Iterator[float]:
            context.clear(data=False)
            steps = context.steps(tokens)
            for _ in tokens:
                begun = time.perf_counter()
                next(steps)
                yield time.perf_counter() - begun

        yield generate


@contextlib.contextmanager
def batch_test(
    model: Model, prompts: IntArray, tokens: IntArray, n_threads: int
) -> Iterator[Callable[[float], tuple[float, float]]]:
    """See labctl.engines.model.Model."""
    n_seq, n_prompt = prompts.shape
    positions = np.tile(np.arange(n_prompt, dtype=np.int32), n_seq)
    sequences = np.repeat(np.arange(n_seq, dtype=np.int32), n_prompt)
    each = np.arange(n_seq, dtype=np.int32)
    all_wanted = np.ones(n_seq, dtype=np.bool_)
    flat = prompts.ravel()
    with Context(
        model,
        n_ctx=n_prompt + len(tokens),
        n_threads=n_threads,
        n_seq=n_seq,
        n_ubatch=_N_UBATCH,
        n_batch=n_seq * max(n_prompt, 1),
        n_outputs=n_seq,
    ) as context:

        def compute(over_at: float) -> tuple[float, float]:
            context.clear(data=False)
            context.lay_out(positions, sequences, positions == n_prompt - 1)
            begun = time.perf_counter()
            context.decode(flat)
            context.synchronize()
            read = time.perf_counter()
            for step, row in enumerate(tokens):
                context.lay_out(np.full(n_seq, n_prompt + step, dtype=np.int32), each, all_wanted)
                context.decode(row)
                context.synchronize()
                if (now := time.perf_counter()) >= max(over_at, read + _GRACE_S):
                    return read - begun, (now - read) * len(tokens) / (step + 1)
            return read - begun, time.perf_counter() - read

        yield compute
