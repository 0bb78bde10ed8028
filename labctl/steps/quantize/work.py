"""In a child: a file quantized by the engine, with room for it looked at before."""

from __future__ import annotations

import time
from pathlib import Path

from labctl import engines
from labctl.engines.model import Recipe
from labctl.executors.base import Report
from labctl.records.disk import require_space, writing
from labctl.steps.quantize.record import LoadTask, Made, QuantizeTask


def load(task: LoadTask, report: Report) -> bool:
    """Look whether the file can be measured; if it cannot, the LabError says why."""
    engines.of_task(task).try_file(Path(task.model_path), task.n_threads, report)
    return True


def make(task: QuantizeTask, report: Report) -> Made:
    """Write the file, which may be cut off if this fails; in a dry run only say how many bytes its tensors would take.

    Raises:
        LabError: no space, or the engine refused.
    """
    engine = engines.of_task(task)
    program = engine.start(report)
    source, target = Path(task.model_path), Path(task.target_path)
    recipe = Recipe(
        format=task.format,
        n_threads=task.n_threads,
        allow_requantize=task.allow_requantize,
        imatrix=Path(task.imatrix_path) if task.imatrix_path else None,
    )
    begun = time.perf_counter()
    tensor_bytes = program.planned(source, recipe)
    if task.dry_run:
        return Made(tensor_bytes=tensor_bytes)
    require_space(target.parent, tensor_bytes + engine.inspect(source).size_bytes // 100 + (1 << 20), task.format)
    with writing(target):
        target.touch()
    fallbacks = program.quantize(source, target, recipe, report)
    return Made(tensor_bytes=tensor_bytes, fallbacks=fallbacks, quantize_s=time.perf_counter() - begun)
