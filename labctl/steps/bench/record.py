"""What the bench step asks of its child, and what it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from labctl.executors.base import Task
from labctl.records.base import Provenance, Setting
from labctl.records.hardware import Conditions, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchEffort:
    """How often a visit repeats a test: at least min_reps and for min_s seconds, but no more than max_reps, and no
    further repetition after max_s seconds.

    Few are enough: what repetitions of one process share (where its memory lies, the machine's mood) only a further
    round can average out, and intervals are over rounds.
    """

    min_reps: int = 2
    max_reps: int = 20
    min_s: float = 0.25
    max_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedVisit:
    """One fresh process that timed one format in one round.

    Attributes:
        order: place of this visit among all visits of the bench, from 0.
        pp_s: seconds of each repetition of the prompt test (n_prompt tokens).
        tg_s: seconds of each repetition of the generation test (n_gen tokens).
        token_s: seconds of each token of each generation repetition, (n_reps, n_gen).
        cut: the time allowed was over: fewer repetitions than asked for, or a single one of fewer tokens, whose tg_s
            is what all n_gen of them would have taken at that pace.
    """

    round: int
    order: int
    load_s: float
    pp_s: tuple[float, ...]
    tg_s: tuple[float, ...]
    token_s: tuple[tuple[float, ...], ...]
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRun:
    """Speed of one file: llama-bench's pp and tg tests, all samples kept."""

    format: str
    n_threads: int
    n_prompt: int
    n_gen: int
    visits: tuple[SpeedVisit, ...]
    provenance: Provenance

    @property
    def pp_tps(self) -> tuple[float, ...]:
        """Prompt processing, tokens per second of each repetition."""
        return tuple(self.n_prompt / seconds for visit in self.visits for seconds in visit.pp_s)

    @property
    def tg_tps(self) -> tuple[float, ...]:
        """Text generation, tokens per second of each repetition."""
        return tuple(self.n_gen / seconds for visit in self.visits for seconds in visit.tg_s)

    @property
    def tg_median_tps(self) -> float:
        from statistics import median

        return median(self.tg_tps)

    def token_percentile_s(self, percent: float) -> float:
        """Latency of one generated token at a percentile (nearest rank), over all repetitions."""
        times = sorted(second for visit in self.visits for repetition in visit.token_s for second in repetition)
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
