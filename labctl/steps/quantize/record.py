"""What the quantize step asks of its child."""

from __future__ import annotations

from labctl.executors.base import Task
from labctl.records.base import Provenance


class QuantizeTask(Task, frozen=True, kw_only=True, tag="quantize"):
    """Make `target_path` from `model_path`, with an importance matrix if one is named."""

    target_path: str
    shown_path: str
    allow_requantize: bool = False
    imatrix_path: str = ""
    imatrix_shown: str = ""
    dry_run: bool = False
    provenance: Provenance
