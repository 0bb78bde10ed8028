"""What the harness measures and keeps: raw samples with their units, stored in results.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RESULTS_SCHEMA = 1

OURS = "labctl"
THEIRS = "llama.cpp"
AS_NEEDED = "lab, chunks as needed"
QUIET, BUSY = "idle machine", "beside a load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One whole process, from its start to its end.

    Attributes:
        side: labctl or llama.cpp.
        step: what it did, where a section has several steps.
        cpu_s: processor time, user and system, of the process and of those it waited for.
        peak_rss_bytes: ru_maxrss by wait4; `floor_bytes` is what its small parent could have passed on.
    """

    side: str
    format: str
    round: int
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    floor_bytes: int
    step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityPair:
    """One format's perplexity by both sides, as printed: running values to 4 decimals, SE to 5.

    Attributes:
        ours_running, theirs_running: perplexity after each chunk.
        ours, theirs: (perplexity, standard error) over all chunks.
    """

    format: str
    n_chunks: int
    ours_running: tuple[str, ...]
    theirs_running: tuple[str, ...]
    ours: tuple[str, str]
    theirs: tuple[str, str]

    @property
    def n_equal(self) -> int:
        """How many running values are equal digit by digit."""
        return sum(a == b for a, b in zip(self.ours_running, self.theirs_running, strict=False))

    @property
    def same(self) -> bool:
        return self.ours_running == self.theirs_running and self.ours == self.theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedPair:
    """One format's file by both sides.

    Attributes:
        ours_types, theirs_types: ggml type -> number of tensors.
        n_tensors, n_same_type, n_same_bytes: tensors of llama.cpp's file, and how many of them labctl's file has alike.
    """

    format: str
    ours_bytes: int
    theirs_bytes: int
    ours_types: dict[str, int]
    theirs_types: dict[str, int]
    n_tensors: int
    n_same_type: int
    n_same_bytes: int
    same_file: bool

    @property
    def same(self) -> bool:
        return self.n_tensors == self.n_same_type == self.n_same_bytes and self.ours_types == self.theirs_types


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSample:
    """One visit's repetitions of one test, in tokens per second."""

    side: str
    format: str
    round: int
    test: str
    tps: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabStages:
    """Where one `labctl run` spent its time, from the times its records were written.

    Attributes:
        stage_s: seconds of each stage.
        extra_s: seconds of what the shell loops do not do, by name; each is part of a stage.
    """

    round: int
    stage_s: dict[str, float]
    extra_s: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictPair:
    """One format's verdict from as many chunks as it took, and from all of them.

    Attributes:
        n_chunks, n_chunks_text: measured when the run stopped, and in the whole text.
        early, early_low, early_high: verdict and bounds of the increase, as fractions, when it stopped.
        whole, increase, low, high: the same over all chunks, with the 95 % interval.
        look_s: seconds one decision took with that many chunks.
        n_settled, settled: chunks and verdict with --settle.
    """

    format: str
    n_chunks: int
    n_chunks_text: int
    early: str
    early_low: float
    early_high: float
    whole: str
    increase: float
    low: float
    high: float
    look_s: float
    n_settled: int = 0
    settled: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergencePair:
    """One format's KL divergence from the baseline in nats, and its share of equal top tokens, by both sides.

    Attributes:
        stored: labctl's, from its baseline stored as llama-perplexity stores it.
    """

    format: str
    n_chunks: int
    ours: dict[str, float]
    stored: dict[str, float]
    theirs: dict[str, float]

    @property
    def largest_difference(self) -> float:
        """Nats over mean, median and quantiles, as labctl measures."""
        return self._furthest(self.ours)

    @property
    def largest_difference_stored(self) -> float:
        """The same with both sides' baseline in 16 bits."""
        return self._furthest(self.stored)

    def _furthest(self, mine: dict[str, float]) -> float:
        return max(abs(mine[name] - self.theirs[name]) for name in ("mean", "median", "90 %", "99 %"))


REAL = "blocks of a real run"
"""Ends the name of the kinds of Coverage that are resampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How often a look after every chunk ends with a verdict, where the truth is the limit itself: each one is wrong.

    Attributes:
        kind: what the differences of chunks are like.
        asked: "this text" (drawn without replacement) or "text like it".
        gives_up: verdicts that are forecast to be too dear are given up.
    """

    kind: str
    asked: str
    gives_up: bool
    n_texts: int
    n_chunks: int
    n_wrong: int

    @property
    def is_real(self) -> bool:
        """Whether the differences were measured."""
        return self.kind.endswith(REAL)

    @property
    def share(self) -> float:
        return self.n_wrong / self.n_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyPair:
    """One format's speed over the baseline's, on an idle machine and beside a load.

    Attributes:
        low, high: interval of the ratio beside the load.
        n_undisturbed, n_all: prompts, or tokens of generations, beside the load.
        undisturbed_slower: median time of the undisturbed ones over the median on the idle machine; None without any.
        all_slower: mean time of all over the same.
    """

    format: str
    test: str
    quiet: float
    busy: float
    low: float
    high: float
    n_undisturbed: int
    n_all: int
    undisturbed_slower: float | None
    all_slower: float

    @property
    def is_known(self) -> bool:
        """Whether labctl gives the ratio an interval at all."""
        return self.low > 0

    @property
    def off(self) -> float:
        """How far the ratio beside the load is from that on the idle machine, as a share."""
        return abs(self.busy / self.quiet - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One file's speed of generation in tokens per second, measured and predicted; None where it cannot be."""

    format: str
    size_bytes: int
    measured_tps: float
    n_rounds: int
    predicted_tps: float | None

    @property
    def off(self) -> float | None:
        """Predicted over measured, less one."""
        return None if self.predicted_tps is None else self.predicted_tps / self.measured_tps - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedAgain:
    """How many times as fast one format was as another in one run of `labctl bench`.

    Attributes:
        number: of the run, from 1 in each state.
        formats: the faster over the slower if ratio is above 1.
        low, high: interval of the ratio, as labctl gives it; 0 to the largest number where it gives none.
        order_low, order_high: the wider one that labctl ranks formats by; None in results from before it had two.
    """

    state: str
    number: int
    test: str
    formats: tuple[str, str]
    ratio: float
    low: float
    high: float
    order_low: float | None = None
    order_high: float | None = None

    @property
    def what(self) -> tuple[str, str, str]:
        """What is measured, the same in every run."""
        return (*self.formats, self.test)

    @property
    def is_known(self) -> bool:
        """Whether labctl gives the ratio an interval at all."""
        return self.low > 0

    @property
    def sign(self) -> int:
        """1 if the first format is shown to be faster, -1 if slower, 0 if they are not told apart."""
        low, high = (self.low, self.high) if self.order_low is None else (self.order_low, self.order_high or 0.0)
        return 1 if low > 1 else -1 if high < 1 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One comparison: when and how it was taken, and its raw samples."""

    taken_at: str
    settings: dict[str, Any]
    samples: tuple[Sample, ...] = ()
    perplexity: tuple[PerplexityPair, ...] = ()
    quantized: tuple[QuantizedPair, ...] = ()
    speed: tuple[SpeedSample, ...] = ()
    stages: tuple[LabStages, ...] = ()
    verdicts: tuple[VerdictPair, ...] = ()
    divergence: tuple[DivergencePair, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    busy: tuple[BusyPair, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    again: tuple[SpeedAgain, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResults:
    """Everything about one model on one machine with one build of each side."""

    name: str
    model: dict[str, Any]
    text: dict[str, Any]
    formats: tuple[str, ...]
    n_threads: int
    machine: dict[str, Any]
    versions: dict[str, str]
    sections: dict[str, Section] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """results.json."""

    schema: int = RESULTS_SCHEMA
    models: dict[str, ModelResults] = field(default_factory=dict)
