"""What a child process can be asked to do, and what it says back: one JSON line each way."""

from __future__ import annotations

import msgspec

from labctl.records import BatchShape, TextSource
from labctl.records_base import Provenance
from labctl.records_hardware import BenchEffort


class Task(msgspec.Struct, frozen=True, kw_only=True, tag_field="task"):
    """Common to all: the model file, and the label it goes by in messages."""

    model_path: str
    format: str
    n_threads: int


class EngineTask(Task, frozen=True, kw_only=True, tag="engine"):
    """Say which llama.cpp this is; with a model, also check that it computes on this CPU."""


class LoadTask(Task, frozen=True, kw_only=True, tag="load"):
    """Look whether a file can be measured: its weights are numbers, llama.cpp takes it, a few tokens come out."""


class QuantizeTask(Task, frozen=True, kw_only=True, tag="quantize"):
    """Make `target_path` from `model_path`, with an importance matrix if one is named."""

    target_path: str
    shown_path: str
    allow_requantize: bool = False
    imatrix_path: str = ""
    imatrix_shown: str = ""
    dry_run: bool = False
    provenance: Provenance


class StopRule(msgspec.Struct, frozen=True, kw_only=True):
    """Stop a format once its verdict against the baseline is settled; looked at after every chunk.

    Attributes:
        at_least: chunks to measure whatever the verdict.
    """

    baseline_nll_path: str
    limit: float
    alpha: float
    at_least: int


class SpoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Where the baseline's probabilities are kept, and how far a file is from them.

    Attributes:
        spool_path: log-probabilities, float32 (n_rows, n_scored, n_vocab), a row for each of the first n_rows chunks in
            the order of the visit, with a list of the rows written beside it; the baseline writes it, others read.
        kl_path: KL divergence and agreement of each token, chunk by chunk, as `journal.NllStore` keeps them.
        optional: a disk that fills up ends the comparison, not the measurement beside it.
    """

    spool_path: str
    n_rows: int
    is_baseline: bool
    kl_path: str
    optional: bool = False


class PerplexityTask(Task, frozen=True, kw_only=True, tag="perplexity"):
    """Measure chunks of a text that are not in the NLL file yet.

    Attributes:
        order_seed: visit the chunks in the order shuffled by this seed; None for the order of the text.
        n_first: only the first N chunks in that order; None for all.
        nll_path: absolute; shown_nll_path as the record says it.
        deadline_s: stop at the chunk during which so many seconds are over.
        shape: as suits the model unless given.
        tokens_path: where the text's token ids are kept for the other formats; empty to tokenize again.
        divergence: also compare with the baseline while the logits are at hand.
    """

    text: TextSource
    n_ctx: int
    shape: BatchShape | None = None
    order_seed: int | None = None
    n_first: int | None = None
    stop: StopRule | None = None
    deadline_s: float | None = None
    nll_path: str
    shown_nll_path: str
    tokens_path: str = ""
    divergence: SpoolPlan | None = None
    provenance: Provenance


class BenchTask(Task, frozen=True, kw_only=True, tag="bench"):
    """One visit: load, warm up, time.

    Attributes:
        deadline_s: after so many seconds no further repetition begins, and one that goes on is cut; None for no limit.
    """

    n_prompt: int
    n_gen: int
    effort: BenchEffort
    round: int
    order: int
    deadline_s: float | None = None


class BatchTask(Task, frozen=True, kw_only=True, tag="batch"):
    """Time several sequences side by side, for each number of them.

    Attributes:
        deadline_s: after so many seconds each number is timed once at most, and shortly.
    """

    n_prompt: int
    n_gen: int
    n_seqs: tuple[int, ...]
    n_reps: int
    deadline_s: float | None = None


class MemoryTask(Task, frozen=True, kw_only=True, tag="memory"):
    """One load: mmap on or off."""

    n_ctx: int
    mmap: bool


class GenerateTask(Task, frozen=True, kw_only=True, tag="generate"):
    """Continue the prompts and answer the probes.

    Attributes:
        probes: name -> path of the CSV file.
        probe_items: at most so many questions of each, evenly spread; None for all.
        n_side: most questions of a probe side by side.
    """

    n_ctx: int
    n_side: int
    prompts: tuple[str, ...]
    n_tokens: int
    temperature: float
    top_p: float
    seed: int
    probes: dict[str, str]
    probe_items: int | None
    provenance: Provenance


AnyTask = EngineTask | LoadTask | QuantizeTask | PerplexityTask | BenchTask | BatchTask | MemoryTask | GenerateTask


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """How far a task is. `note` is a short word for the display: a perplexity, a speed."""

    done: int
    total: int
    note: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="result"):
    """The task's record, still encoded, and what llama.cpp warned of meanwhile."""

    record: msgspec.Raw
    warnings: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="failure"):
    """A LabError in the child."""

    message: str
    hint: str = ""
    for_all: bool = False


AnyEvent = Progress | Result | Failure
