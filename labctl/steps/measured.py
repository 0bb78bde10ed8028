"""What passes between steps: frozen records, with the unit in each name.

Bytes, seconds, nats and tokens are stored; people's units appear on the screen and in the templates. Raw samples stay
in the record, summaries are derived from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.records.files import GgufFile
from labctl.records.sources import SourceModel, TextSource
from labctl.steps.divergence.record import DivergenceRun
from labctl.steps.generate.record import GenerationRun
from labctl.steps.memory.record import MemoryRun
from labctl.steps.perplexity.record import PerplexityRun
from labctl.steps.speed.record import BatchRun, BenchConditions, SpeedRun, ThreadSweep


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
