"""What surrounds labctl on a machine and must not reach its work: modules that hide others, variables, folders."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from labctl.errors import LabError

_OWN = str(Path(__file__).resolve().parents[1])
_NOT_FOR_CHILDREN = ("PYTHONWARNINGS", "PYTHONINSPECT")
_ENGINE_VARIABLES = ("GGML_", "LLAMA_")  # switch parts of llama.cpp on and off, or name another library


def child_environment() -> dict[str, str]:
    """The environment for a child that computes: without what would give it another llama.cpp, or other rules."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_FOR_CHILDREN and not name.startswith(_ENGINE_VARIABLES)
    }
    for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
        if name in kept:
            folders = [one for one in kept.pop(name).split(os.pathsep) if one and not _holds_engine(Path(one))]
            if folders:
                kept[name] = os.pathsep.join(folders)
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def _holds_engine(folder: Path) -> bool:
    """Whether the linker would find libraries of a llama.cpp in this folder."""
    with contextlib.suppress(OSError):
        return any(folder.glob("libggml*")) or any(folder.glob("libllama*"))
    return False


def _folder() -> Path | None:
    """The current folder, if it is still there."""
    with contextlib.suppress(OSError):
        return Path.cwd()
    return None


@contextlib.contextmanager
def plain_matplotlib() -> Iterator[None]:
    """While matplotlib is imported: its own settings only, whatever variables and settings files say.

    Its first look is for a matplotlibrc in the current folder; in its own data folder that is its default one.
    """
    spec = importlib.util.find_spec("matplotlib")
    data = Path((spec.submodule_search_locations or [""])[0], "mpl-data") if spec is not None else Path()
    backend = os.environ.pop("MPLBACKEND", None)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps its list of fonts is nobody's concern
    before = _folder()
    if data.is_dir():
        os.chdir(data)
    try:
        yield
    finally:
        if before is not None:
            os.chdir(before)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def fault(error: BaseException) -> LabError | None:
    """In one line what is wrong with this machine, if that is what an error comes from; else None.

    A package that is missing, half there or of another version; memory that ran out; the system's refusals.
    """
    if isinstance(error, LabError):
        return error if isinstance(error.__cause__, OSError) else None
    if isinstance(error, MemoryError):
        return LabError("Out of memory.", "Close other programs, or take a smaller model or a smaller --ctx.")
    module = _package_at_fault(error)
    if module:
        import importlib.metadata  # takes its time

        package = importlib.metadata.packages_distributions().get(module, [module])[0]
        message = " ".join(str(error).split())[:160]
        return LabError(
            f"The Python package {package} cannot be used ({type(error).__name__}: {message}).",
            "Set TMPDIR to a folder that can be written to, and run the same command again."
            if isinstance(error, OSError)
            else f"Install it again: pip install --force-reinstall {package}",
        )
    return None


def _package_at_fault(error: BaseException) -> str:
    """The package that could not be loaded, or lacks what it should have; empty if it is none."""
    if isinstance(error, ImportError) and error.name:
        return error.name.split(".", maxsplit=1)[0]
    if isinstance(error, SyntaxError) and error.filename:
        return _package_of_file(Path(error.filename))
    source = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    if isinstance(source, ModuleType) and not source.__name__.startswith("labctl"):
        return source.__name__.split(".", maxsplit=1)[0]
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_name == "<module>" and not code.co_filename.startswith(_OWN):  # it ran while it was imported
            return str(step.tb_frame.f_globals.get("__name__", "")).split(".", maxsplit=1)[0]
        step = step.tb_next
    return ""


def _package_of_file(path: Path) -> str:
    """The package that a source file belongs to; empty for labctl's own and for files of no package."""
    if str(path).startswith(_OWN):
        return ""
    for folder in sys.path:
        if folder and path.is_relative_to(folder):
            return path.relative_to(folder).parts[0].removesuffix(".py")
    return ""
