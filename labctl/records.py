"""What passes between steps: frozen records, with the unit in each name.

Bytes, seconds, nats and tokens are stored; people's units appear in console.py and the templates. Raw samples stay in
the record, summaries are derived from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from labctl.records_base import Provenance
from labctl.records_hardware import BatchRun, BenchConditions, MemoryRun, SpeedRun, ThreadSweep

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


N_SIDE = 2
"""Chunks of a text that are computed at the same time, where there are threads for them."""

COMMON_CHUNKS = 32
"""Chunks that `--chunks auto` measures every format on before only open verdicts get more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """How chunks of a text are computed; the same for every format of a run.

    Attributes:
        n_side: chunks computed at the same time, each with its share of the threads.
        n_ubatch, n_outputs: tokens computed at once in a chunk's first half, and in its second half, which has logits.
    """

    n_side: int
    n_ubatch: int
    n_outputs: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """One question of a probe, answered greedily.

    Attributes:
        in_demo_training: whether the demo model was trained on it; None where nobody says.
    """

    prompt: str
    expected: str
    output: str
    correct: bool
    in_demo_training: bool | None = None


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
    """Sample outputs and probes of one file.

    Attributes:
        prompts_s, probes_s: seconds for all prompts, each both ways, and for all questions.
    """

    format: str
    generations: tuple[Generation, ...]
    probes: tuple[ProbeResult, ...]
    prompts_s: float = 0.0
    probes_s: float = 0.0
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
    batch: dict[str, BatchRun] = field(default_factory=dict)
    threads: dict[str, ThreadSweep] = field(default_factory=dict)
    failures: tuple[StepFailure, ...] = ()
    warnings: tuple[str, ...] = ()
    conditions: BenchConditions | None = None
