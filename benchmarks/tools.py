"""Getting and building llama.cpp's own tools, from the source release of the llama-cpp-python that is installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.logs import build_progress, last_error, tool_version
from benchmarks.screen import Screen
from labctl.errors import LabError

TOOLS = ("llama-quantize", "llama-perplexity", "llama-bench", "llama-completion")
_OFF = (
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_SERVER",
    "LLAMA_BUILD_UI",
    "LLAMA_BUILD_MTMD",
    "LLAMA_CURL",
    "LLAMA_OPENSSL",
)
_SDIST = "llama_cpp_python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """llama.cpp's tools, checked to be of the binding's version.

    Attributes:
        folder: where the programs are.
        origin: how they came to be, for the report.
    """

    folder: Path
    version: str
    origin: str

    def path(self, name: str) -> str:
        return str(self.folder / name)


def find_tools(
    cache: Path, screen: Screen, binding_version: str, *, ready: Path | None = None, source: Path | None = None
) -> Tools:
    """Tools to compare with: ready ones, or built from a checkout, or from the source release.

    Args:
        cache: for source, build and logs; what is built already is used again.
        binding_version: llama.cpp's version as labctl's binding tells it.
        ready: a folder of programs to take as they are.
        source: a llama.cpp checkout to build instead of the source release.
    Raises:
        LabError: no compiler, no source, a failed build, or another llama.cpp than the binding's.
    """
    release = importlib.metadata.version("llama-cpp-python")
    if ready is not None:
        folder, origin = ready.resolve(), "ready-made"
        missing = [name for name in TOOLS if not (folder / name).is_file()]
        if missing:
            raise LabError(f"{folder} has no {', '.join(missing)}.", "Leave --tools out to have them built.")
    elif source is not None:
        if not (source / "CMakeLists.txt").is_file() or not (source / "tools").is_dir():
            raise LabError(f"{source} is not a llama.cpp checkout.", "It must hold CMakeLists.txt and tools/.")
        name = f"{release}-{hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]}"
        folder = _build(cache / name, source.resolve(), screen)
        origin = "built from a given checkout"
    else:
        folder = build_tools(cache, release, screen)
        origin = f"built from the source release of llama-cpp-python {release}"
    version = _version(folder)
    if version != binding_version:
        raise LabError(
            f"The tools are llama.cpp {version or 'of an unknown version'}, labctl's binding is {binding_version}.",
            "Compare like with like: leave --tools and --source out, or give those of the same version.",
        )
    return Tools(folder=folder, version=version, origin=origin)


def build_tools(cache: Path, release: str, screen: Screen, names: Sequence[str] = TOOLS) -> Path:
    """The folder of these tools, built from the source release of llama-cpp-python unless they are there.

    Raises:
        LabError: no compiler, no source, or a failed build.
    """
    place = cache / release
    return _ready_build(place, names) or _build(place, _release_source(place, release, screen), screen, names)


def cmake_settings() -> list[str]:
    """CMake's settings for the tools: those the binding was built with, and only what is needed of llama.cpp."""
    from labctl.engines.llama_cpp.buildargs import cmake_args

    settings = [one for one in cmake_args() if "LLAVA" not in one]
    settings += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", *(f"-D{name}=OFF" for name in _OFF)]
    if sys.platform == "darwin":
        settings.append("-DGGML_METAL=OFF")  # labctl measures the processor
    return settings


def _ready_build(place: Path, names: Sequence[str]) -> Path | None:
    """The programs of an earlier build with the same settings; None if there are none."""
    try:
        stamp = json.loads((place / "built.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    folder = place / "build" / "bin"
    complete = all((folder / name).is_file() for name in names)
    return folder if complete and stamp.get("settings") == cmake_settings() else None


def _release_source(place: Path, release: str, screen: Screen) -> Path:
    """llama.cpp's source inside llama-cpp-python's source release, fetched by pip as the user has it set up.

    Raises:
        LabError: pip cannot fetch it.
    """
    source = place / "source" / "vendor" / "llama.cpp"
    if (source / "CMakeLists.txt").is_file():
        return source
    place.mkdir(parents=True, exist_ok=True)
    log = place / "download.log"
    archive = next(iter(place.glob(f"{_SDIST}-*.tar.gz")), None)
    if archive is None:
        screen.say(f"Fetching the source release of llama-cpp-python {release} ...")
        command = [
            *_pip(),
            "download",
            "--no-deps",
            "--no-binary",
            "llama-cpp-python",
            "--dest",
            str(place),
            f"llama-cpp-python=={release}",
        ]
        if _logged(command, log, place, None, "") != 0:
            lines = [one for one in log.read_text("utf-8", "replace").splitlines() if one.strip()]
            errors = [one for one in lines if one.startswith("ERROR")]
            raise LabError(
                f"pip cannot fetch the source release of llama-cpp-python {release}: "
                f"{(errors or lines or ['it printed nothing'])[-1][:160]}",
                f"Log: {log}. With a llama.cpp checkout of that version: --source DIR",
            )
        archive = next(iter(place.glob(f"{_SDIST}-*.tar.gz")), None)
        if archive is None:
            raise LabError(f"pip fetched no source release into {place}.", f"Log: {log}")
    screen.say(f"Unpacking {archive.name} ...")
    partial = place / "source.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as stream:
            if hasattr(tarfile, "data_filter"):
                stream.extractall(partial, filter="data")
            else:
                stream.extractall(partial)
    except (tarfile.TarError, OSError, EOFError) as error:
        archive.unlink(missing_ok=True)
        raise LabError(f"{archive.name} cannot be unpacked: {error}.", "Run again: it is then fetched anew.") from error
    shutil.rmtree(place / "source", ignore_errors=True)
    next(iter(partial.iterdir())).rename(place / "source")
    shutil.rmtree(partial, ignore_errors=True)
    if not (source / "CMakeLists.txt").is_file():
        raise LabError(f"{archive.name} holds no llama.cpp.", "Give a llama.cpp checkout with --source DIR.")
    return source


def _pip() -> list[str]:
    """pip of this environment, or any other one: it only fetches."""
    import importlib.util

    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    raise LabError("There is no pip to fetch llama.cpp's source with.", "Give a llama.cpp checkout: --source DIR")


def _build(place: Path, source: Path, screen: Screen, names: Sequence[str] = TOOLS) -> Path:
    """Configure and compile the tools.

    Raises:
        LabError: no CMake, no compiler, or the build fails; the log's path is in the hint.
    """
    if (ready := _ready_build(place, names)) is not None:
        return ready
    place.mkdir(parents=True, exist_ok=True)
    log = place / "build.log"
    cmake = shutil.which("cmake")
    if cmake is None:
        raise LabError(
            "CMake is not installed; llama.cpp's tools cannot be built.", "Install cmake, or give --tools DIR."
        )
    compiler = os.environ.get("CXX", "").split()
    if not any(shutil.which(name) for name in (compiler[:1] or ["c++", "g++", "clang++"])):
        raise LabError(
            "There is no C++ compiler; llama.cpp's tools cannot be built.", "Install g++ or clang, or give --tools DIR."
        )
    settings = cmake_settings()
    build = place / "build"
    shutil.rmtree(build, ignore_errors=True)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    jobs = str(os.cpu_count() or 1)
    screen.section("Building llama.cpp's tools (minutes; only once)", 1)
    for command in (
        [cmake, "-S", str(source), "-B", str(build), *generator, *settings],
        [cmake, "--build", str(build), "--parallel", jobs, "--target", *names],
    ):
        if _logged(command, log, place, screen, "compiling") != 0:
            lines = log.read_text("utf-8", "replace").splitlines()
            raise LabError(f"Building llama.cpp's tools failed: {last_error(lines)}", f"The whole log: {log}")
    folder = build / "bin"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LabError(f"The build made no {', '.join(missing)}.", f"The whole log: {log}")
    (place / "built.json").write_text(json.dumps({"settings": settings, "source": source.name}, indent=1), "utf-8")
    return folder


def _logged(command: Sequence[str], log: Path, cwd: Path, screen: Screen | None, what: str) -> int:
    """Run a command with all it prints going to a log, and its [12/345] to the screen; its exit status."""
    with (
        log.open("w", encoding="utf-8") as stream,
        subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as child,
    ):
        assert child.stdout is not None
        told = 0
        try:
            for line in child.stdout:
                stream.write(line)
                if screen is not None and (progress := build_progress(line)):
                    done, total = progress
                    screen.tick(what, done / total)
                    if not screen.console.is_terminal and 10 * done // total > told:
                        told = 10 * done // total
                        screen.say(f"  {what}: {10 * told} %")
        except BaseException:
            child.kill()
            raise
    return child.returncode


def _version(folder: Path) -> str:
    """What llama-perplexity says its version is.

    Raises:
        LabError: it does not run.
    """
    try:
        done = subprocess.run(
            [str(folder / "llama-perplexity"), "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(
            f"{folder / 'llama-perplexity'} does not run: {error}.", "Delete the cache folder and run again."
        ) from error
    return tool_version(done.stdout + done.stderr)
