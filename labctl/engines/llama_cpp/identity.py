"""Which llama.cpp this is, and whether it computes on this CPU; found out in a child process and remembered."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

from labctl.engines.base import limit_bytes
from labctl.engines.llama_cpp.deaths import death
from labctl.engines.llama_cpp.engine import footprint_bytes
from labctl.errors import LabError
from labctl.executors.base import ModelSize, Report, Task, log_line
from labctl.executors.local import run_task
from labctl.records.digests import digest
from labctl.records.disk import write_text

_ENGINE_TIMEOUT_S = 120.0


class EngineTask(Task, frozen=True, kw_only=True):
    """Say which llama.cpp this is; with a model, also check that it computes on this CPU."""

    name = "engine"
    work = "labctl.engines.llama_cpp.identity:identify"

    def work_bytes(self, size: ModelSize) -> int:
        return size.quantizing_bytes


def library_folder() -> Path:
    """Where llama-cpp-python keeps llama.cpp's libraries.

    Raises:
        LabError: it is not installed.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise LabError(
            "llama-cpp-python is not installed.", "Run `make lab`, or: pip install llama-cpp-python (README, Start)."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "lib"


def engine_info(outputs: Path, n_threads: int, *, keep: bool = True) -> dict[str, str]:
    """llama.cpp's version and the CPU features it was built for and found: both change what is computed.

    Args:
        keep: remember it in the outputs folder.
    Returns: {"llama_cpp": version, "system_info": features}; remembered while the library files stay the same.
    Raises:
        LabError: llama-cpp-python is missing or its library does not load.
    """
    libraries = sorted(path for path in library_folder().iterdir() if path.is_file())
    stamp = digest(
        {
            "version": importlib.metadata.version("llama-cpp-python"),
            "files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in libraries],
        }
    )
    known = outputs / ".engine.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        stored = json.loads(known.read_text("utf-8"))
        if stored["stamp"] == stamp:
            return {"llama_cpp": str(stored["llama_cpp"]), "system_info": str(stored["system_info"])}
    info = ask_engine("", n_threads)
    if not keep:
        return info
    with contextlib.suppress(LabError):  # a note that cannot be kept costs time, not truth
        write_text(known, json.dumps({"stamp": stamp, **info}, indent=1) + "\n")
    return info


def ask_engine(model_path: str, n_threads: int) -> dict[str, str]:
    """Ask llama.cpp in a child what it is; with an F16 model, also let it quantize and compute a little.

    Raises:
        LabError: it crashed: this build does not suit this CPU.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        task = EngineTask(model_path=model_path, format="", n_threads=n_threads)
        return run_task(
            task,
            dict[str, str],
            log_path=Path(folder) / "engine.log",
            hang_s=_ENGINE_TIMEOUT_S,
            limit_bytes=limit_bytes(footprint_bytes, task, None),
            deaths=death,
        )


def identify(task: EngineTask, report: Report) -> dict[str, str]:
    """Version and CPU features; with a model, quantize it and read a few tokens to see that the build computes."""
    from labctl.engines.llama_cpp.binding import Context, Llama, Model
    from labctl.engines.llama_cpp.formats import FORMATS
    from labctl.engines.llama_cpp.quantizer import quantize_file

    llama = Llama(log_line=log_line, warnings=report.warnings)
    if task.model_path:
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "engine.gguf"
            for name in ("Q8_0", "Q4_K_M"):
                quantize_file(llama, Path(task.model_path), small, FORMATS[name].ftype, n_threads=task.n_threads)
                with Model(llama, small) as model, Context(model, n_ctx=64, n_threads=task.n_threads) as context:
                    context.prompt([token % model.n_vocab for token in range(64)])
                    context.synchronize()
    return {"llama_cpp": llama.version(), "system_info": llama.system_info()}


def check(model_path: str) -> int:
    """For the Makefile: does this llama.cpp compute on this CPU? Exit status 0 or 1, with one line of reason."""
    try:
        ask_engine(model_path, 2)
    except LabError as error:
        sys.stderr.write(f"llama.cpp does not work here: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(check(sys.argv[1] if len(sys.argv) > 1 else ""))
