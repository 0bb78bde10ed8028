"""Speed by llama-bench's tests: pp (one long prompt) and tg (single tokens), without sampling in the timed part."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from labctl.measure.llama import Context, Llama, Model
from labctl.records import BenchEffort, SpeedVisit

N_PROMPT = 512
N_GEN = 128
_N_UBATCH = 512  # llama-bench's default


def bench_visit(
    llama: Llama, path: Path, *, n_threads: int, effort: BenchEffort, n_prompt: int = N_PROMPT, n_gen: int = N_GEN,
    round_number: int = 0, order: int = 0,
) -> SpeedVisit:  # fmt: skip
    """Load a file and time both tests: a full warm-up first, memory cleared between repetitions.

    Args:
        n_prompt, n_gen: tokens of the prompt test and of the generation test.
        effort: how often to repeat each.
    Raises:
        LabError: the file does not load or compute.
    Source: llama.cpp tools/llama-bench/llama-bench.cpp, test_prompt, test_gen (its own warm-up generates one token).
    """
    draw = random.Random(round_number)
    begun = time.perf_counter()
    with Model(llama, path) as model:
        load_s = time.perf_counter() - begun
        prompt = np.array([draw.randrange(model.n_vocab) for _ in range(n_prompt)], dtype=np.int32)
        tokens = [draw.randrange(model.n_vocab) for _ in range(n_gen)]
        if model.adds_bos:
            prompt[0] = tokens[0] = model.bos
        with Context(model, n_ctx=n_prompt, n_threads=n_threads, n_ubatch=_N_UBATCH, n_outputs=1) as context:

            def read_prompt() -> tuple[float, ...]:
                context.clear(data=False)
                begun = time.perf_counter()
                context.prompt(prompt)
                context.synchronize()
                return (time.perf_counter() - begun,)

            pp = _repeat(read_prompt, effort)
        with Context(model, n_ctx=n_gen, n_threads=n_threads, n_ubatch=_N_UBATCH, n_outputs=1) as context:

            def generate() -> tuple[float, ...]:
                context.clear(data=False)
                stamps = [time.perf_counter()]
                for position, token in enumerate(tokens):
                    context.decode_one(token, position)
                    stamps.append(time.perf_counter())
                return tuple(b - a for a, b in itertools.pairwise(stamps))

            token_s = _repeat(generate, effort)
    return SpeedVisit(
        round=round_number,
        order=order,
        load_s=load_s,
        pp_s=tuple(seconds for (seconds,) in pp),
        tg_s=tuple(sum(seconds) for seconds in token_s),
        token_s=token_s,
    )


def _repeat(test: Callable[[], tuple[float, ...]], effort: BenchEffort) -> tuple[tuple[float, ...], ...]:
    """One untimed run to warm up, then timed ones as the effort says; each gives its seconds, in one or more parts."""
    test()
    samples: list[tuple[float, ...]] = []
    spent = 0.0
    while len(samples) < effort.max_reps and (len(samples) < effort.min_reps or spent < effort.min_s):
        if samples and spent > effort.max_s:
            break
        samples.append(test())
        spent += sum(samples[-1])
    return tuple(samples)
