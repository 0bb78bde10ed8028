"""Speed by llama-bench's tests: pp (one long prompt) and tg (single tokens), without sampling in the timed part."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from labctl import engines
from labctl.executors.base import Report
from labctl.steps.bench.record import BenchEffort, BenchTask, SpeedVisit

_WARM_S = 0.25
_GRACE_S = 0.5  # for a test that has not run at all when the time is over


def visit(task: BenchTask, report: Report) -> SpeedVisit:
    """Load a file and time both tests, memory cleared between repetitions, each after a warm-up.

    A prompt is read once untimed, as in llama-bench. Tokens are generated untimed for a quarter of a second or until a
    test is full: after llama-bench's single token the first repetitions of a small model came out 3 % slow.

    No repetition begins after the task's deadline, and none of the prompt's after half of it; a prompt test that had no
    time left keeps its warm-up, a generation test the tokens that it came to.

    Raises:
        LabError: the file does not load or compute.
    Source: llama.cpp tools/llama-bench/llama-bench.cpp, test_prompt, test_gen.
    """
    program = engines.of_task(task).start(report)
    draw = random.Random(task.round)
    begun = time.perf_counter()
    over_at = begun + (math.inf if task.deadline_s is None else task.deadline_s)
    with program.open(Path(task.model_path)) as model:
        load_s = time.perf_counter() - begun
        prompt = np.array([draw.randrange(model.n_vocab) for _ in range(task.n_prompt)], dtype=np.int32)
        tokens = [draw.randrange(model.n_vocab) for _ in range(task.n_gen)]
        if model.bos is not None:
            prompt[0] = tokens[0] = model.bos
        with model.prompt_test(prompt, task.n_threads) as read_prompt:
            warm = read_prompt()
            pp, pp_cut = _repeat(lambda: (read_prompt(),), task.effort, (time.perf_counter() + over_at) / 2)
            pp = pp or ((warm,),)
        with model.generation_test(tokens, task.n_threads) as generate:
            generate(_WARM_S)
            over_at = max(over_at, time.perf_counter() + _GRACE_S)
            tg, tg_cut = _repeat(lambda: generate(over_at - time.perf_counter()), task.effort, over_at)
    token_s = tuple(seconds for seconds in tg if len(seconds) == task.n_gen) or tg
    return SpeedVisit(
        round=task.round,
        order=task.order,
        load_s=load_s,
        pp_s=tuple(seconds for (seconds,) in pp),
        tg_s=tuple(sum(seconds) * (task.n_gen / len(seconds)) for seconds in token_s),
        token_s=token_s,
        cut=pp_cut or tg_cut or len(token_s) < len(tg) or len(token_s[0]) < task.n_gen,
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
