"""What the bench step asks of its child, and what it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from labctl.executors.base import Task
from labctl.records.base import Provenance, Setting
from labctl.records.hardware import Conditions, Disturbance, Work

Test = Literal["pp", "tg"]
DISTURBED = 0.02
"""A repetition, or a token, is disturbed if its threads waited for a core for more than this share of its time.

Founded on benchmarks/, comparison 10: what passes is not slower than on an idle machine by more than that.
"""


WARM_S = 0.25
"""Seconds of tokens that are generated before any is timed."""
LONG_PROMPT_S = 2.0
"""A prompt that takes longer is not read twice for a warm-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchEffort:
    """How often a visit repeats a test: at least min_reps undisturbed ones and for min_s undisturbed seconds, but no
    more than max_reps in all, and no further repetition after max_s seconds.

    Few are enough: what repetitions of one process share (where its memory lies, the machine's mood) only a further
    round can average out, and intervals are over rounds.

    Attributes:
        min_tokens: after max_s seconds a generation ends with so many undisturbed tokens; speeds are by single tokens.
    """

    min_reps: int = 2
    max_reps: int = 20
    min_s: float = 0.25
    max_s: float = 1.0
    min_tokens: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedVisit:
    """One fresh process that timed one format in one round.

    Attributes:
        order: place of this visit among all visits of the bench, from 0.
        pp_s: seconds of each repetition of the prompt test (n_prompt tokens).
        tg_s: seconds of each repetition of the generation test; of one that ended early, what all n_gen tokens would
            have taken at its pace.
        token_s: seconds of each token of each generation repetition, (n_reps, at most n_gen).
        pp_disturbance, tg_disturbance: what went on meanwhile, for each repetition; empty in records from before it
            was watched.
        held_up: for each generation repetition, the tokens (from 0) that were disturbed by themselves.
        cut: the time allowed was over: fewer repetitions than asked for, or a single one of fewer tokens.
    """

    round: int
    order: int
    load_s: float
    pp_s: tuple[float, ...]
    tg_s: tuple[float, ...]
    token_s: tuple[tuple[float, ...], ...]
    pp_disturbance: tuple[Disturbance, ...] = ()
    tg_disturbance: tuple[Disturbance, ...] = ()
    held_up: tuple[tuple[int, ...], ...] = ()
    cut: bool = False

    def undisturbed_s(self, test: Test) -> tuple[float, ...]:
        """Seconds of each undisturbed prompt, or of each undisturbed token of a generation."""
        if test == "pp":
            watched = self.pp_disturbance or (None,) * len(self.pp_s)
            return tuple(
                s for s, seen in zip(self.pp_s, watched, strict=True) if seen is None or seen.lost_s <= DISTURBED * s
            )
        return tuple(second for number in range(len(self.token_s)) for second in self._undisturbed_tokens(number))

    def all_s(self, test: Test) -> tuple[float, ...]:
        """Seconds of each prompt, or of each token of a generation, disturbed or not."""
        return self.pp_s if test == "pp" else tuple(second for repetition in self.token_s for second in repetition)

    def n_disturbed(self, test: Test) -> int:
        """How many repetitions were disturbed: prompts, or generations that lost most of their tokens."""
        if test == "pp":
            return len(self.pp_s) - len(self.undisturbed_s("pp"))
        halves = ((len(self._undisturbed_tokens(i)), len(tokens) / 2) for i, tokens in enumerate(self.token_s))
        return sum(n_left < half for n_left, half in halves)

    def _undisturbed_tokens(self, number: int) -> tuple[float, ...]:
        if not self.tg_disturbance:
            return self.token_s[number]
        return undisturbed_tokens(self.token_s[number], self.tg_disturbance[number], self.held_up[number])


def undisturbed_tokens(token_s: tuple[float, ...], seen: Disturbance, held_up: tuple[int, ...]) -> tuple[float, ...]:
    """Of a generation the seconds of the tokens that were not disturbed.

    Where the system tells of waiting each token was watched, and those held up are left out; what was lost otherwise
    (time stolen from the machine, or all that another system tells) may have hit any of them.
    """
    if seen.lost_s - (seen.waited_s or 0.0) > DISTURBED * sum(token_s):
        return ()
    return tuple(second for place, second in enumerate(token_s) if place not in held_up)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRun:
    """Speed of one file: llama-bench's pp and tg tests, all samples kept."""

    format: str
    n_threads: int
    n_prompt: int
    n_gen: int
    visits: tuple[SpeedVisit, ...]
    provenance: Provenance

    def n_tokens(self, test: Test) -> int:
        """Tokens of one repetition of a test."""
        return self.n_prompt if test == "pp" else self.n_gen

    def samples_tps(self, test: Test) -> tuple[float, ...]:
        """Tokens per second of each repetition, disturbed or not."""
        found = (seconds for visit in self.visits for seconds in (visit.pp_s if test == "pp" else visit.tg_s))
        return tuple(self.n_tokens(test) / seconds for seconds in found)

    def token_percentile_s(self, percent: float) -> float:
        """Latency of one generated token at a percentile (nearest rank), over all undisturbed tokens; over all tokens
        where none was."""
        times = sorted(second for visit in self.visits for second in visit.undisturbed_s("tg"))
        times = times or sorted(second for visit in self.visits for second in visit.all_s("tg"))
        return times[max(0, math.ceil(percent / 100 * len(times)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConditions:
    """What the speeds of one bench were measured under; written anew after every round.

    Attributes:
        n_rounds: rounds finished; visits of a later round belong to one that was interrupted.
        spent_s: seconds of all finished rounds.
        ended: why no further round began: "precise", "budget" or "rounds"; empty while it may go on.
        work: format -> what the tests ask for.
    """

    key: str
    n_rounds: int
    spent_s: float
    ended: str
    settings: dict[str, Setting]
    before: Conditions
    after: Conditions
    work: dict[str, Work] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


class BenchTask(Task, frozen=True, kw_only=True):
    """One visit: load, warm up, time.

    Attributes:
        deadline_s: after so many seconds no further repetition begins, and one that goes on is cut; None for no limit.
    """

    name = "bench"
    work = "labctl.steps.bench.work:visit"

    n_prompt: int
    n_gen: int
    effort: BenchEffort
    round: int
    order: int
    deadline_s: float | None = None

    def n_ctx_open(self) -> int:
        return self.n_prompt + self.n_gen
