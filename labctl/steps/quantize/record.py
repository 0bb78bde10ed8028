"""What the quantize step asks of its child."""

from __future__ import annotations

from labctl.executors.base import ModelSize, Task
from labctl.records.base import Provenance


class QuantizeTask(Task, frozen=True, kw_only=True):
    """Make `target_path` from `model_path`, with an importance matrix if one is named."""

    name = "quantize"
    work = "labctl.steps.quantize.child:make"

    target_path: str
    shown_path: str
    allow_requantize: bool = False
    imatrix_path: str = ""
    imatrix_shown: str = ""
    dry_run: bool = False
    provenance: Provenance

    def work_bytes(self, size: ModelSize) -> int:
        return 12 * size.largest_tensor  # a tensor as it was read, as float32, and quantized
