"""The quantize task in a child: llama.cpp's quantizer, the checks around it, and the audit of what it made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from labctl.engines.llama_cpp.binding import Llama
from labctl.engines.llama_cpp.formats import FORMATS, Format
from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.imatrix import read_imatrix
from labctl.engines.llama_cpp.quantizer import quantize_file
from labctl.executors.base import Report, log_line
from labctl.records.files import GgufFile
from labctl.steps.quantize.audit import audit
from labctl.steps.quantize.record import QuantizeTask
from labctl.steps.quantize.work import planned_bytes, quantize, read_progress


def make(task: QuantizeTask, report: Report) -> GgufFile | int:
    """Make the file and look into it; in a dry run only say how many bytes its tensors take."""
    llama = Llama(log_line=log_line, warnings=report.warnings)

    imatrix_path = Path(task.imatrix_path)
    imatrix = read_imatrix(imatrix_path) if task.imatrix_path else None

    def on_line(line: str) -> None:
        log_line(line)
        if position := read_progress(line):
            report(*position, "")

    def run(source: Path, target: Path, format_: Format, dry_run: bool) -> Sequence[str]:
        llama.clear_log()
        llama.log_line = log_line if dry_run else on_line
        quantize_file(
            llama,
            source,
            target,
            format_.ftype,
            n_threads=task.n_threads,
            dry_run=dry_run,
            allow_requantize=task.allow_requantize,
            imatrix=None if imatrix is None else imatrix.entries,
            metadata=() if imatrix is None else imatrix.metadata(imatrix_path.name),
        )
        return list(llama.lines)

    source, target = Path(task.model_path), Path(task.target_path)
    if task.dry_run:
        header, _ = read_model(source)
        return planned_bytes(header, run(source, target, FORMATS[task.format], True))
    begun = time.perf_counter()
    fallbacks = quantize(source, target, FORMATS[task.format], run)
    spent = time.perf_counter() - begun
    return audit(
        target, task.format, task.provenance, shown_path=task.shown_path, fallbacks=fallbacks, quantize_s=spent,
        imatrix=task.imatrix_shown,
    )  # fmt: skip
