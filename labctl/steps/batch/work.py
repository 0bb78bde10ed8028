"""Several sequences side by side, as llama-batched-bench times them."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import numpy as np

from labctl import engines
from labctl.executors.base import Report
from labctl.steps.batch.record import BatchPoint, BatchTask, Timed


def measure(task: BatchTask, report: Report) -> Timed:
    """Time so many sequences side by side: first all their prompts, then one token of each at a time.

    Raises:
        LabError: the file does not load, or the cache of so many sequences does not fit into memory.
    """
    n_prompt, n_gen, n_tests = task.n_prompt, task.n_gen, task.n_reps + 1
    draw = random.Random(0)
    over_at = time.perf_counter() + (math.inf if task.deadline_s is None else task.deadline_s)
    cut = False
    points = []
    with engines.of_task(task).start(report).open(Path(task.model_path)) as model:
        for place, n_seq in enumerate(task.n_seqs):
            prompts = np.array([draw.randrange(model.n_vocab) for _ in range(n_seq * n_prompt)], dtype=np.int32)
            tokens = np.array([draw.randrange(model.n_vocab) for _ in range(n_seq * n_gen)], dtype=np.int32)
            with model.batch_test(
                prompts.reshape(n_seq, n_prompt), tokens.reshape(n_gen, n_seq), task.n_threads
            ) as compute:
                times: list[tuple[float, float]] = []
                for test in range(n_tests):  # the first is to warm up
                    if times and time.perf_counter() >= over_at:
                        cut = True
                        break
                    times.append(compute(over_at))
                    report(place * n_tests + test + 1, len(task.n_seqs) * n_tests, f"{n_seq} at once")
            pp_s, tg_s = zip(*(times[1:] or times), strict=True)
            points.append(BatchPoint(n_seq=n_seq, pp_s=pp_s, tg_s=tg_s))
    return Timed(points=tuple(points), cut=cut)
