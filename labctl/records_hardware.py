"""Records of speed, memory and the state of the machine meanwhile; see records.py for the house rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from labctl.records_base import Provenance, Setting

# -- speed ------------------------------------------------------------------------------------------------------------


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
    def pp_median_tps(self) -> float:
        return _median(self.pp_tps)

    @property
    def tg_median_tps(self) -> float:
        return _median(self.tg_tps)

    def token_percentile_s(self, percent: float) -> float:
        """Latency of one generated token at a percentile (nearest rank), over all repetitions."""
        times = sorted(second for visit in self.visits for repetition in visit.token_s for second in repetition)
        return times[max(0, math.ceil(percent / 100 * len(times)) - 1)]


def _median(samples: tuple[float, ...]) -> float:
    from statistics import median

    return median(samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What moves a timing, at one moment; empty, None or () where the system does not tell.

    Attributes:
        power: "mains" or "battery".
        governor: Linux's rule for clock speeds, with its driver.
        clock_hz: of each logical core.
        temperature_c: the hottest sensor of the processor.
        busy_cores: how many cores other programs kept busy; busiest_share: of the busiest one, 0..1.
    """

    taken_at: str
    power: str = ""
    governor: str = ""
    clock_hz: tuple[float, ...] = ()
    temperature_c: float | None = None
    busy_cores: float | None = None
    busiest_share: float | None = None
    available_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What llama-bench's tests ask of the machine with one file.

    Attributes:
        weight_bytes_per_token: weights read for one generated token.
        kv_bytes_per_token: cache read for one generated token, mean over the generation test.
        prompt_flop: floating-point operations of the prompt test.
    """

    weight_bytes_per_token: int
    kv_bytes_per_token: int
    prompt_flop: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPoint:
    """So many sequences decoded side by side: seconds of each repetition for all prompts, and for all generation."""

    n_seq: int
    pp_s: tuple[float, ...]
    tg_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """Speed of one file with several sequences at once, as llama-batched-bench measures it.

    Attributes:
        cut: the time allowed was over: fewer repetitions than asked for, or fewer tokens, whose seconds are what all
            would have taken at that pace.
    """

    format: str
    n_threads: int
    n_prompt: int
    n_gen: int
    points: tuple[BatchPoint, ...]
    cut: bool = False
    provenance: Provenance | None = None

    def tg_tps(self, point: BatchPoint) -> float:
        """Generated tokens per second, all sequences together (median)."""
        return point.n_seq * self.n_gen / _median(point.tg_s)

    def pp_tps(self, point: BatchPoint) -> float:
        """Prompt tokens per second, all sequences together (median)."""
        return point.n_seq * self.n_prompt / _median(point.pp_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSweep:
    """Speed of one file with different numbers of threads: number -> visits."""

    format: str
    n_prompt: int
    n_gen: int
    visits: dict[int, tuple[SpeedVisit, ...]]
    provenance: Provenance | None = None


# -- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLoad:
    """Peak memory of one fresh process that loaded a file, read a prompt and generated text.

    Attributes:
        peak_rss_bytes: high-water mark of resident memory: VmHWM on Linux.
        start_rss_bytes: resident before the model was opened (Python and llama.cpp's libraries).
        anonymous_bytes, file_bytes: parts of resident memory after the work, where the system tells.
        model_bytes: llama.cpp's own buffers for weights, by name ("CPU_Mapped", "CPU", "CPU_REPACK", ...).
        kv_bytes, compute_bytes, output_bytes: llama.cpp's buffers for cache, graph and logits.
    """

    mmap: bool
    peak_rss_bytes: int
    start_rss_bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None
    model_bytes: dict[str, int]
    kv_bytes: int
    compute_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRun:
    """Memory of one file at one context size; loads[0] has mmap off and is the headline."""

    format: str
    n_ctx: int
    n_threads: int
    loads: tuple[MemoryLoad, ...]
    provenance: Provenance

    @property
    def peak_rss_bytes(self) -> int:
        return next(load.peak_rss_bytes for load in self.loads if not load.mmap)
