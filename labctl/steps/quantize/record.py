"""What the quantize step asks of its children, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.executors.base import ModelSize, Task
from labctl.records.files import TensorFallback


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a quantize task says of the file that it wrote, or in a dry run would write.

    Attributes:
        tensor_bytes: of the whole file, as llama.cpp's dry run announced it.
        quantize_s: wall time of both runs.
    """

    tensor_bytes: int
    fallbacks: tuple[TensorFallback, ...] = ()
    quantize_s: float | None = None


class LoadTask(Task, frozen=True, kw_only=True):
    """Look whether a file can be measured: its weights are numbers, the engine takes it, a few tokens come out."""

    name = "load"
    work = "labctl.steps.quantize.work:load"


class QuantizeTask(Task, frozen=True, kw_only=True):
    """Write `target_path` from `model_path`, with an importance matrix if one is named."""

    name = "quantize"
    work = "labctl.steps.quantize.work:make"

    target_path: str
    allow_requantize: bool = False
    imatrix_path: str = ""
    dry_run: bool = False

    def work_bytes(self, size: ModelSize) -> int:
        return size.quantizing_bytes
