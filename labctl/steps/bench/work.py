"""Speed by llama-bench's tests: pp (one long prompt) and tg (single tokens), without sampling in the timed part."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labctl import engines
from labctl.engines.model import IntArray, Model
from labctl.executors.base import Report
from labctl.machine.disturbance import Meter
from labctl.records.hardware import Disturbance
from labctl.steps.bench.record import (
    DISTURBED,
    LONG_PROMPT_S,
    WARM_S,
    BenchEffort,
    BenchTask,
    SpeedVisit,
    undisturbed_tokens,
)

_WARM_TOKENS = 32
_GRACE_S = 0.5  # for a test that has not run at all when the time is over


def visit(task: BenchTask, report: Report) -> SpeedVisit:
    """Load a file and time both tests, memory cleared between repetitions, each after a warm-up.

    A prompt is read once untimed, as in llama-bench, or only its beginning where all of it takes long. Tokens are
    generated untimed for a quarter of a second or until a test is full: after llama-bench's single token the first
    repetitions of a small model came out 3 % slow.

    A repetition whose threads had to wait for a core is kept, and another one made. No repetition begins after the
    task's deadline, and none of the prompt's after half of it; but each test is made once whatever the time, and a
    generation keeps the tokens that it came to.

    Raises:
        LabError: the file does not load or compute.
    Source: llama.cpp tools/llama-bench/llama-bench.cpp, test_prompt, test_gen.
    """
    program = engines.of_task(task).start(report)
    draw = random.Random(task.round)
    begun = time.perf_counter()
    over_at = begun + (math.inf if task.deadline_s is None else task.deadline_s)
    with program.open(Path(task.model_path)) as model, contextlib.closing(Meter(task.n_threads)) as meter:
        load_s = time.perf_counter() - begun
        prompt = np.array([draw.randrange(model.n_vocab) for _ in range(task.n_prompt)], dtype=np.int32)
        tokens = [draw.randrange(model.n_vocab) for _ in range(task.n_gen)]
        if model.bos is not None:
            prompt[0] = tokens[0] = model.bos
        is_long = _prompt_s(model, task, prompt) > LONG_PROMPT_S
        with model.prompt_test(prompt, task.n_threads) as read_prompt:
            warm = None if is_long else _read(read_prompt, meter)
            pp, pp_cut = _repeat(lambda: _read(read_prompt, meter), task.effort, (time.perf_counter() + over_at) / 2)
            pp = pp or (warm or _read(read_prompt, meter),)
        with model.generation_test(tokens, task.n_threads) as generate:
            _warm_up(generate)
            over_at = max(over_at, time.perf_counter() + _GRACE_S)
            tg, tg_cut = _repeat(lambda: _generate(generate, meter, task.effort, over_at), task.effort, over_at)
    tg = tuple(one for one in tg if not one.cut) or tg
    return SpeedVisit(
        round=task.round,
        order=task.order,
        load_s=load_s,
        pp_s=tuple(one.seconds for one in pp),
        tg_s=tuple(one.seconds * (task.n_gen / len(one.parts)) for one in tg),
        token_s=tuple(one.parts for one in tg),
        pp_disturbance=tuple(one.seen for one in pp),
        tg_disturbance=tuple(one.seen for one in tg),
        held_up=tuple(one.held_up for one in tg),
        cut=pp_cut or tg_cut or any(one.cut for one in tg),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repetition:
    """One timed run of a test.

    Attributes:
        parts: seconds of each part that was timed by itself.
        held_up: parts that were disturbed by themselves.
        cut: the time allowed was over before its end.
    """

    parts: tuple[float, ...]
    seen: Disturbance
    held_up: tuple[int, ...] = ()
    cut: bool = False

    @property
    def seconds(self) -> float:
        return sum(self.parts)

    @property
    def undisturbed(self) -> bool:
        """Whether half of it can be used."""
        if len(self.parts) == 1:
            return self.seen.lost_s <= DISTURBED * self.seconds
        return 2 * len(undisturbed_tokens(self.parts, self.seen, self.held_up)) >= len(self.parts)


def _prompt_s(model: Model, task: BenchTask, prompt: IntArray) -> float:
    """About how many seconds the prompt takes, by its beginning, which brings the weights into memory first."""
    some = prompt[:_WARM_TOKENS]
    with model.prompt_test(some, task.n_threads) as read_some:
        read_some()
        return read_some() * len(prompt) / len(some)


def _read(read_prompt: Callable[[], float], meter: Meter) -> _Repetition:
    meter.begin()
    seconds = read_prompt()
    return _Repetition(parts=(seconds,), seen=meter.end())


def _generate(
    generate: Callable[[], Iterator[float]], meter: Meter, effort: BenchEffort, over_at: float
) -> _Repetition:
    """One generation, up to the token that ends after `over_at`, or that is enough of a slow model."""
    parts: list[float] = []
    held_up: list[int] = []
    cut = False
    begun = time.perf_counter()
    meter.begin()
    waited_s = meter.waited_s()
    for seconds in generate():
        before_s, waited_s = waited_s, meter.waited_s()
        if before_s is not None and waited_s is not None and waited_s - before_s > DISTURBED * seconds:
            held_up.append(len(parts))
        parts.append(seconds)
        now = time.perf_counter()
        cut = now > over_at
        if cut or (now - begun > effort.max_s and len(parts) - len(held_up) >= effort.min_tokens):
            break
    return _Repetition(parts=tuple(parts), seen=meter.end(), held_up=tuple(held_up), cut=cut)


def _warm_up(generate: Callable[[], Iterator[float]]) -> None:
    over_at = time.perf_counter() + WARM_S
    for _ in generate():
        if time.perf_counter() > over_at:
            break


def _repeat(
    test: Callable[[], _Repetition], effort: BenchEffort, over_at: float
) -> tuple[tuple[_Repetition, ...], bool]:
    """Timed runs as the effort says, none of them begun later than `over_at`.

    Returns: the runs, and whether it was the time that left too few of them.
    """
    made: list[_Repetition] = []
    spent = quiet_s = 0.0
    n_quiet = 0
    while len(made) < effort.max_reps and (n_quiet < effort.min_reps or quiet_s < effort.min_s):
        if made and spent > effort.max_s:
            break
        if time.perf_counter() >= over_at:
            return tuple(made), len(made) < effort.min_reps
        made.append(test())
        spent += made[-1].seconds
        if made[-1].undisturbed:
            n_quiet += 1
            quiet_s += made[-1].seconds
    return tuple(made), False
