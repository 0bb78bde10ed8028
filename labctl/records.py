"""What passes between steps: frozen records, with the unit in each name.

Bytes, seconds, nats and tokens are stored; people's units appear in console.py and the templates. Raw samples stay in
the record, summaries are derived from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

SCHEMA_VERSION = 1

Scalar = str | int | float | bool | None
Setting = Scalar | list[Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The computer a figure was measured on. Only `machine_id` takes part in freshness.

    Attributes:
        n_cores_performance, n_cores_efficiency: physical cores of either kind; all count as performance cores where
            there is one kind only, and both are 0 where the system does not tell.
        cache_bytes: the last level of cache that a core reaches; 0 if not known.
    """

    machine_id: str
    os: str
    arch: str
    cpu_model: str
    n_cores_physical: int
    n_cores_logical: int
    ram_bytes: int
    cpu_features: tuple[str, ...] = ()
    n_cores_performance: int = 0
    n_cores_efficiency: int = 0
    cache_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a record came to be: enough to decide whether it is still fresh, and to repeat it.

    Attributes:
        key: digest of everything the record's figures depend on.
        inputs: name -> sha256 of each file read.
        settings: what the step was asked to do.
        versions: package or library -> version.
    """

    step: str
    key: str
    created_at: str
    inputs: dict[str, str]
    settings: dict[str, Setting]
    versions: dict[str, str]
    machine: Machine


# -- sources ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """The model a lab is about, as an unquantized GGUF file on this disk.

    Attributes:
        name: folder name under outputs/ and reports/; letters, digits, dot, dash, underscore.
        spec: what the user typed for --model.
        path: the GGUF file (the first part of a split one).
        origin: "demo", "gguf", "checkpoint", "hub", or "package" (out of a Python package).
        baseline: the label of the unquantized file: F16, BF16 or F32 (or its own type for a quantized source).
        quantized: the source was already quantized; every table then carries a warning.
    """

    name: str
    spec: str
    path: str
    origin: str
    size_bytes: int
    sha256: str
    baseline: str = "F16"
    quantized: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """The text perplexity is measured on.

    Attributes:
        name: as printed in tables: "WikiText-2 (raw, test split)", "demo text", or a file's name.
        kind: "wikitext-2", "demo" or "custom".
        notice: what every table and chart must say about this text; empty for official WikiText-2.
    """

    name: str
    kind: str
    path: str
    size_bytes: int
    sha256: str
    notice: str = ""


# -- quantize ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTypeShare:
    """How much of a file is stored as one ggml type."""

    tensor_type: str
    n_tensors: int
    n_params: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFallback:
    """A tensor that could not get the type its format asks for (its rows are not a multiple of the block)."""

    tensor: str
    row_length: int
    wanted: str
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a model that memory arithmetic needs, from the GGUF header."""

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    d_head_k: int
    d_head_v: int
    n_vocab: int
    n_ctx_train: int

    def kv_bytes(self, n_ctx: int, bytes_per_value: int = 2) -> int:
        """Size of the key and value cache for n_ctx tokens (f16 unless told)."""
        return self.n_layer * n_ctx * self.n_head_kv * (self.d_head_k + self.d_head_v) * bytes_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """One GGUF file of the lab and what it really contains.

    Attributes:
        format: the label: F16, Q8_0, ...
        path: relative to the model's outputs folder, or absolute for a source that stays where it is.
        tensor_bytes: bytes of tensor data, without the header.
        quantize_s: wall time of llama_model_quantize; None for the baseline.
        imatrix: file name of the importance matrix used, if any.
    """

    format: str
    path: str
    size_bytes: int
    sha256: str
    n_params: int
    n_tensors: int
    tensor_bytes: int
    types: tuple[TensorTypeShare, ...]
    shape: ModelShape
    provenance: Provenance
    fallbacks: tuple[TensorFallback, ...] = ()
    quantize_s: float | None = None
    imatrix: str = ""

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors, as llama-quantize prints it."""
        return 8 * self.tensor_bytes / self.n_params

    @property
    def main_type(self) -> str:
        """The ggml type that holds the most bytes."""
        return max(self.types, key=lambda share: share.size_bytes).tensor_type


# -- perplexity -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """How chunks are laid side by side in one decode; the same for every format of a run."""

    n_seq: int
    n_ubatch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityRun:
    """Perplexity of one file on one text.

    Attributes:
        nll_path: .npy of shape (n_chunks_text, n_scored_per_chunk), float64, nats; NaN rows were not measured.
            Relative to the model's outputs folder.
        n_chunks_text: how many whole chunks the text has.
        chunks: numbers of the chunks measured, ascending; [start, stop) ranges.
        order_seed: the chunks were visited in the order shuffled by this seed, and the visit ended when the verdict was
            settled; None for chunks in the order of the text.
        ppl, ppl_se: over these chunks, by llama-perplexity's formulas.
        wall_s, n_tokens_evaluated: time in decode and scoring, and prompt tokens read, in the run that wrote this
            record; chunks taken over from an earlier run are not in it.
    """

    format: str
    text: TextSource
    n_ctx: int
    n_chunks_text: int
    n_scored_per_chunk: int
    chunks: tuple[tuple[int, int], ...]
    nll_path: str
    order_seed: int | None = None
    ppl: float
    ppl_se: float
    n_threads: int
    shape: BatchShape
    wall_s: float
    n_tokens_evaluated: int
    peak_rss_bytes: int
    provenance: Provenance

    @property
    def n_chunks(self) -> int:
        return sum(stop - start for start, stop in self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceRun:
    """How far a file's predictions are from the baseline's on the same tokens.

    Attributes:
        chunks: as in PerplexityRun.
        values_path: .npz with kl (n_chunks, n_scored) float64 nats and same_top bool, relative to the outputs folder.
        kld_mean, kld_median, kld_p90, kld_p99, kld_max: Kullback-Leibler divergence KL(baseline || file), nats a token.
        same_top_p: share of tokens at which both find the same token most likely, 0..1.
        *_low, *_high: 95 % intervals clustered by chunk.
    """

    format: str
    text: TextSource
    n_ctx: int
    n_chunks: int
    n_tokens: int
    chunks: tuple[tuple[int, int], ...]
    values_path: str
    kld_mean: float
    kld_mean_low: float
    kld_mean_high: float
    kld_median: float
    kld_p90: float
    kld_p99: float
    kld_max: float
    same_top_p: float
    same_top_low: float
    same_top_high: float
    provenance: Provenance


# -- speed ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchEffort:
    """How often a visit repeats a test: at least min_reps and for min_s seconds, but no more than max_reps, and no
    further repetition after max_s seconds."""

    min_reps: int = 3
    max_reps: int = 20
    min_s: float = 0.4
    max_s: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedVisit:
    """One fresh process that timed one format in one round.

    Attributes:
        order: place of this visit among all visits of the bench, from 0.
        pp_s: seconds of each repetition of the prompt test (n_prompt tokens).
        tg_s: seconds of each repetition of the generation test (n_gen tokens).
        token_s: seconds of each token of each generation repetition, (n_reps, n_gen).
    """

    round: int
    order: int
    load_s: float
    pp_s: tuple[float, ...]
    tg_s: tuple[float, ...]
    token_s: tuple[tuple[float, ...], ...]


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
class Bandwidth:
    """How fast all threads together moved memory in a buffer of one size; each pass, bytes per second.

    Attributes:
        read_bytes_per_s: every byte of the buffer read once.
        copy_bytes_per_s: one half copied to the other: bytes read and bytes written both count.
    """

    buffer_bytes: int
    n_threads: int
    read_bytes_per_s: tuple[float, ...]
    copy_bytes_per_s: tuple[float, ...]

    @property
    def best_bytes_per_s(self) -> float:
        """The fastest pass of either kind: what the machine can do when nothing disturbs it."""
        return max((*self.read_bytes_per_s, *self.copy_bytes_per_s), default=0.0)


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
        bandwidth: one entry for each size of buffer, ascending; the last one is main memory's.
        work: format -> what the tests ask for.
    """

    key: str
    n_rounds: int
    spent_s: float
    ended: str
    settings: dict[str, Setting]
    before: Conditions
    after: Conditions
    bandwidth: tuple[Bandwidth, ...] = ()
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
    """Speed of one file with several sequences at once, as llama-batched-bench measures it."""

    format: str
    n_threads: int
    n_prompt: int
    n_gen: int
    points: tuple[BatchPoint, ...]
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


# -- generation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A continuation of one prompt.

    Attributes:
        prompt_number: as on the worksheet, from 1.
        decoding: "sampled" (temperature, top-p, seed of the provenance's settings) or "greedy".
        tokens: ids of the new tokens, without the prompt's; an end-of-text token ends the list and is not in it.
        text: the new tokens as text (invalid UTF-8 replaced).
    """

    prompt_number: int
    prompt: str
    decoding: Literal["sampled", "greedy"]
    tokens: tuple[int, ...]
    text: str
    pieces: tuple[str, ...]
    n_prompt_tokens: int
    prompt_s: float
    generation_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """One question of a probe, answered greedily."""

    prompt: str
    expected: str
    output: str
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """A list of questions with known answers, scored. `name` is the CSV file's stem: capitals, sums, ..."""

    name: str
    answers: tuple[ProbeAnswer, ...]

    @property
    def n_correct(self) -> int:
        return sum(answer.correct for answer in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRun:
    """Sample outputs and probes of one file."""

    format: str
    generations: tuple[Generation, ...]
    probes: tuple[ProbeResult, ...]
    provenance: Provenance

    def find(self, prompt_number: int, decoding: str) -> Generation | None:
        for generation in self.generations:
            if (generation.prompt_number, generation.decoding) == (prompt_number, decoding):
                return generation
        return None


# -- the whole lab ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailure:
    """A step that did not succeed; the worksheet shows the gap with this reason."""

    step: str
    format: str
    message: str
    hint: str = ""
    log_path: str = ""
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRecords:
    """All records of one model's lab: what the report is made from.

    Attributes:
        folder: the model's outputs folder.
        formats: the lab's formats in the worksheet's order, the baseline first.
    """

    folder: str
    model: SourceModel
    text: TextSource | None
    formats: tuple[str, ...]
    files: dict[str, GgufFile] = field(default_factory=dict)
    perplexity: dict[str, PerplexityRun] = field(default_factory=dict)
    divergence: dict[str, DivergenceRun] = field(default_factory=dict)
    speed: dict[str, SpeedRun] = field(default_factory=dict)
    memory: dict[str, MemoryRun] = field(default_factory=dict)
    generation: dict[str, GenerationRun] = field(default_factory=dict)
    failures: tuple[StepFailure, ...] = ()
    warnings: tuple[str, ...] = ()
    conditions: BenchConditions | None = None
