"""Speed by llama-bench's tests: pp (one long prompt) and tg (single tokens), without sampling in the timed part.

Also several sequences side by side, as llama-batched-bench times them.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from labctl.engines.llama_cpp.binding import Context, IntArray, Llama, Model
from labctl.engines.llama_cpp.gguf.lengths import N_GEN, N_PROMPT
from labctl.executors.base import Report, log_line
from labctl.steps.speed.record import BatchPoint, BatchRun, BatchTask, BenchEffort, BenchTask, SpeedVisit

_WARM_S = 0.25
_GRACE_S = 0.5  # for a test that has not run at all when the time is over
_N_UBATCH = 512  # llama-bench's default, as is that n_outputs stays unset: with 1, prompts were read 2 % slower


def bench_visit(
    llama: Llama, path: Path, *, n_threads: int, effort: BenchEffort, n_prompt: int = N_PROMPT, n_gen: int = N_GEN,
    round_number: int = 0, order: int = 0, deadline_s: float | None = None,
) -> SpeedVisit:  # fmt: skip
    """Load a file and time both tests, memory cleared between repetitions, each after a warm-up.

    A prompt is read once untimed, as in llama-bench. Tokens are generated untimed for a quarter of a second or until a
    test is full: after llama-bench's single token the first repetitions of a small model came out 3 % slow.

    Args:
        n_prompt, n_gen: tokens of the prompt test and of the generation test.
        effort: how often to repeat each.
        deadline_s: seconds after which no repetition begins, half of them for the prompt; a prompt test that had no
            time left keeps its warm-up, a generation test the tokens that it came to. None for no limit.
    Raises:
        LabError: the file does not load or compute.
    Source: llama.cpp tools/llama-bench/llama-bench.cpp, test_prompt, test_gen.
    """
    draw = random.Random(round_number)
    begun = time.perf_counter()
    over_at = begun + (math.inf if deadline_s is None else deadline_s)
    with Model(llama, path) as model:
        load_s = time.perf_counter() - begun
        prompt = np.array([draw.randrange(model.n_vocab) for _ in range(n_prompt)], dtype=np.int32)
        tokens = [draw.randrange(model.n_vocab) for _ in range(n_gen)]
        if model.adds_bos:
            prompt[0] = tokens[0] = model.bos
        with Context(model, n_ctx=n_prompt, n_threads=n_threads, n_ubatch=_N_UBATCH) as context:

            def read_prompt() -> tuple[float, ...]:
                context.clear(data=False)
                begun = time.perf_counter()
                context.decode(prompt)
                context.synchronize()
                return (time.perf_counter() - begun,)

            context.lay_out_prompt(n_prompt)
            warm = read_prompt()
            pp, pp_cut = _repeat(read_prompt, effort, (time.perf_counter() + over_at) / 2)
            pp = pp or (warm,)
        with Context(model, n_ctx=n_gen, n_threads=n_threads, n_ubatch=_N_UBATCH) as context:

            def generate(seconds: float = math.inf) -> tuple[float, ...]:
                context.clear(data=False)
                steps = context.steps(tokens)
                stamps = [time.perf_counter()]
                for _ in steps:
                    stamps.append(time.perf_counter())
                    if stamps[-1] - stamps[0] > seconds:
                        break
                return tuple(b - a for a, b in itertools.pairwise(stamps))

            generate(_WARM_S)
            over_at = max(over_at, time.perf_counter() + _GRACE_S)
            tg, tg_cut = _repeat(lambda: generate(over_at - time.perf_counter()), effort, over_at)
            token_s = tuple(seconds for seconds in tg if len(seconds) == n_gen) or tg
    return SpeedVisit(
        round=round_number,
        order=order,
        load_s=load_s,
        pp_s=tuple(seconds for (seconds,) in pp),
        tg_s=tuple(sum(seconds) * (n_gen / len(seconds)) for seconds in token_s),
        token_s=token_s,
        cut=pp_cut or tg_cut or len(token_s) < len(tg) or len(token_s[0]) < n_gen,
    )


def _repeat(
    test: Callable[[], tuple[float, ...]], effort: BenchEffort, over_at: float
) -> tuple[tuple[tuple[float, ...], ...], bool]:
    """Timed runs as the effort says, none of them begun later than `over_at`; each gives its seconds, in parts.

    Returns: the runs, and whether it was the time that left too few of them.
    """
    samples: list[tuple[float, ...]] = []
    spent = 0.0
    while len(samples) < effort.max_reps and (len(samples) < effort.min_reps or spent < effort.min_s):
        if samples and spent > effort.max_s:
            break
        if time.perf_counter() >= over_at:
            return tuple(samples), len(samples) < effort.min_reps
        samples.append(test())
        spent += sum(samples[-1])
    return tuple(samples), False


def bench_batches(
    llama: Llama, path: Path, label: str, *, n_threads: int, n_prompt: int, n_gen: int, n_seqs: Sequence[int],
    n_reps: int, deadline_s: float | None = None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> BatchRun:  # fmt: skip
    """Time so many sequences side by side: first all their prompts, then one token of each at a time.

    Args:
        n_prompt, n_gen: tokens of each sequence's prompt, and tokens generated after it.
        n_seqs: numbers of sequences to try.
        n_reps: timed repetitions of each, after one to warm up.
        deadline_s: seconds after which each number is timed once, for as many tokens as half a second allows.
    Raises:
        LabError: the file does not load, or the cache of so many sequences does not fit into memory.
    Source: llama.cpp tools/batched-bench/batched-bench.cpp (its own warm-up reads 16 tokens, and it times once).
    """
    draw = random.Random(0)
    over_at = time.perf_counter() + (math.inf if deadline_s is None else deadline_s)
    cut = False
    points = []
    with Model(llama, path) as model:
        for place, n_seq in enumerate(n_seqs):
            prompt = np.array([draw.randrange(model.n_vocab) for _ in range(n_seq * n_prompt)], dtype=np.int32)
            tokens = np.array([draw.randrange(model.n_vocab) for _ in range(n_seq * n_gen)], dtype=np.int32)
            with Context(
                model, n_ctx=n_prompt + n_gen, n_threads=n_threads, n_seq=n_seq, n_ubatch=_N_UBATCH,
                n_batch=n_seq * max(n_prompt, 1), n_outputs=n_seq,
            ) as context:  # fmt: skip
                times: list[tuple[float, float]] = []
                for repetition in range(n_reps + 1):
                    if times and time.perf_counter() >= over_at:
                        cut = True
                        break
                    times.append(_time_batch(context, prompt, tokens.reshape(n_gen, n_seq), n_seq, over_at))
                    on_progress(place * (n_reps + 1) + repetition + 1, len(n_seqs) * (n_reps + 1), f"{n_seq} at once")
            pp_s, tg_s = zip(*(times[1:] or times), strict=True)
            points.append(BatchPoint(n_seq=n_seq, pp_s=pp_s, tg_s=tg_s))
    return BatchRun(format=label, n_threads=n_threads, n_prompt=n_prompt, n_gen=n_gen, points=tuple(points), cut=cut)


def _time_batch(
    context: Context, prompt: IntArray, tokens: IntArray, n_seq: int, over_at: float
) -> tuple[float, float]:  # fmt: skip
    """Seconds for all prompts, and for all generated tokens; tokens: (n_gen, n_seq).

    Once the time is over the tokens that were generated, for half a second at least, stand for all.
    """
    n_prompt = len(prompt) // n_seq
    positions = np.tile(np.arange(n_prompt, dtype=np.int32), n_seq)
    sequences = np.repeat(np.arange(n_seq, dtype=np.int32), n_prompt)
    context.clear(data=False)
    context.lay_out(positions, sequences, positions == n_prompt - 1)
    begun = time.perf_counter()
    context.decode(prompt)
    context.synchronize()
    read = time.perf_counter()
    all_wanted = np.ones(n_seq, dtype=np.bool_)
    for step, row in enumerate(tokens):
        context.lay_out(np.full(n_seq, n_prompt + step, dtype=np.int32), np.arange(n_seq, dtype=np.int32), all_wanted)
        context.decode(row)
        context.synchronize()
        if (now := time.perf_counter()) >= max(over_at, read + _GRACE_S):
            return read - begun, (now - read) * len(tokens) / (step + 1)
    return read - begun, time.perf_counter() - read


def visit(task: BenchTask, report: Report) -> SpeedVisit:
    """The bench task in a child."""
    return bench_visit(
        Llama(log_line=log_line, warnings=report.warnings),
        Path(task.model_path),
        n_threads=task.n_threads,
        n_prompt=task.n_prompt,
        n_gen=task.n_gen,
        effort=task.effort,
        round_number=task.round,
        order=task.order,
        deadline_s=task.deadline_s,
    )


def batches(task: BatchTask, report: Report) -> BatchRun:
    """The batch task in a child."""
    return bench_batches(
        Llama(log_line=log_line, warnings=report.warnings),
        Path(task.model_path),
        task.format,
        n_threads=task.n_threads,
        n_prompt=task.n_prompt,
        n_gen=task.n_gen,
        n_seqs=task.n_seqs,
        n_reps=task.n_reps,
        deadline_s=task.deadline_s,
        on_progress=report,
    )
