"""llama.cpp as an Engine: what the rest of labctl may ask of it. Nothing heavy is loaded before it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from labctl.engines.base import Contents, Engine, Frame, Imatrix, Matrix
from labctl.engines.llama_cpp.formats import FORMATS, LAB_FORMATS
from labctl.errors import LabError

if TYPE_CHECKING:  # what a child loads counts in the memory that is measured
    from labctl.engines.model import Program
    from labctl.executors.base import Report, Task
    from labctl.executors.reasons import Death
    from labctl.records.digests import DigestCache
    from labctl.records.sources import SourceModel, TextSource


class LlamaCpp(Engine):
    """See labctl.engines.base.Engine."""

    name = "llama_cpp"
    title = "llama.cpp"
    can = frozenset({"logits", "text", "time", "batch", "memory"})
    suffix = ".gguf"
    formats = FORMATS
    usual_formats = LAB_FORMATS

    def identity(self, outputs: Path, n_threads: int, *, keep: bool = True) -> dict[str, str]:
        from labctl.engines.llama_cpp.identity import engine_info

        return engine_info(outputs, n_threads, keep=keep)

    def try_out(self, model_path: str, n_threads: int) -> dict[str, str]:
        from labctl.engines.llama_cpp.identity import ask_engine

        return ask_engine(model_path, n_threads)

    def try_file(self, path: Path, n_threads: int, report: Report) -> None:
        from labctl.engines.llama_cpp.program import load

        load(path, n_threads, report)

    def start(self, report: Report) -> Program:
        from labctl.engines.llama_cpp.program import LlamaProgram

        return LlamaProgram(report)

    def versions(self) -> dict[str, str]:
        import importlib.metadata

        return {"llama-cpp-python": importlib.metadata.version("llama-cpp-python")}

    def parts(self, path: Path) -> tuple[Path, ...]:
        from labctl.engines.llama_cpp.gguf import header, parts

        return header.read_model(path)[1] if parts.NAME.fullmatch(path.name) else (path,)

    def inspect(self, path: Path) -> Contents:
        from labctl.engines.llama_cpp.gguf.header import contents

        return contents(path)

    def inspect_open(self, files: Sequence[tuple[str, BinaryIO, int]]) -> Contents:
        from labctl.engines.llama_cpp.gguf.header import contents_open

        return contents_open(files)

    def check_source(self, path: Path, *, allow_missing_pre: bool = False) -> tuple[str, ...]:
        from labctl.engines.llama_cpp.gguf.soundness import check_source

        return check_source(path, allow_missing_pre=allow_missing_pre)

    def difference(self, path: Path, source: Path) -> str:
        from labctl.engines.llama_cpp.gguf.kinship import difference

        return difference(path, source)

    def f16_faults(self, path: Path) -> dict[str, str]:
        from labctl.engines.llama_cpp.gguf.weights import f16_faults

        return f16_faults(path)

    def find_imatrix(
        self,
        spec: str | None,
        model: SourceModel,
        text: TextSource | None,
        lab_data: Path,
        folder: Path,
        digests: DigestCache,
    ) -> Imatrix | None:
        from labctl.engines.llama_cpp.imatrix import find_imatrix

        return find_imatrix(spec, model, text, lab_data, folder, digests)

    def ensure_imatrix(self, imatrix: Imatrix, model: SourceModel, n_threads: int, log_path: Path) -> Path:
        from labctl.engines.llama_cpp.imatrix import ensure_imatrix

        return ensure_imatrix(imatrix, model, n_threads, log_path)

    def planned_types(
        self, format_: str, matrices: Iterable[Matrix], frame: Frame, *, has_imatrix: bool
    ) -> dict[str, int]:
        from labctl.engines.llama_cpp.mixtures import mixture

        return mixture(FORMATS[format_], matrices, frame, has_imatrix=has_imatrix)

    def type_bytes(self, tensor_type: str, n_params: int) -> int:
        from labctl.engines.llama_cpp.mixtures import type_bytes

        return type_bytes(tensor_type, n_params)

    def write_sample(self, path: Path, *, n_layer: int, width: int) -> None:
        from labctl.engines.llama_cpp.sample import write_sample

        write_sample(path, n_layer=n_layer, width=width)

    def footprint(self, task: Task) -> int | None:
        return footprint_bytes(task)

    def death(self, signal: str, log: Sequence[str]) -> Death:
        from labctl.engines.llama_cpp.deaths import death

        return death(signal, log)

    def warned(self, lines: Iterable[str]) -> tuple[str, ...]:
        from labctl.engines.llama_cpp.warned import in_words

        return in_words(lines)


ENGINE = LlamaCpp()

_SLACK_BYTES = 2 << 30  # address space is reserved far beyond what is used: libraries, heaps of threads
_THREAD_BYTES = (8 + 128) << 20  # a stack, and glibc's heap of a thread


def footprint_bytes(task: Task) -> int | None:
    """The limit for a task's process: twice the memory it should need, and room that is only reserved.

    Returns: None where the model's header cannot be read; the task itself will say why.
    """
    import psutil

    from labctl.engines.llama_cpp.gguf.header import contents
    from labctl.executors.base import ModelSize
    from labctl.machine.fingerprint import total_memory_bytes

    slack = _SLACK_BYTES + task.n_threads * _THREAD_BYTES
    if not task.model_path:
        return slack + 2 * task.work_bytes(ModelSize(largest_tensor=0, widest_row=0, n_vocab=0))
    try:
        model = contents(Path(task.model_path))
    except (OSError, LabError):
        return None
    size = ModelSize(
        largest_tensor=max((tensor.n_params for tensor in model.tensors), default=0),
        widest_row=max((max(tensor.shape) for tensor in model.tensors), default=0),
        n_vocab=model.shape.n_vocab,
    )
    needed = model.peak_ram_bytes(task.n_ctx_open()) + task.work_bytes(size)
    # More than the machine has cannot be had anyway; a file may be mapped whole without being in memory.
    there = total_memory_bytes() + psutil.swap_memory().total
    return min(2 * needed, 2 * model.size_bytes + there) + slack
