"""llama.cpp's own converter: its files, from the release that the installed llama-cpp-python was built from, and the
Python environment it runs in. PyTorch never enters labctl's own."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError
from labctl.executors.reasons import last_words
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import packages
from labctl.records.digests import digest, file_sha256
from labctl.records.disk import write_text, writing
from labctl.records.places import typed

PACKAGE = "llama-cpp-python"
SCRIPT = "convert_hf_to_gguf.py"
REQUIREMENTS = "requirements/requirements-convert_hf_to_gguf.txt"

# sha256 of source releases that are known; another version's is noted at its first download and held to after.
SOURCE_SHA256 = {"0.3.36": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"}

_ROOT = "vendor/llama.cpp/"
_WANTED = (SCRIPT, "conversion/", "gguf-py/gguf/", "gguf-py/LICENSE", "requirements/", "LICENSE")
_PYTHON_VARIABLE = "LABCTL_CONVERT_PYTHON"
_TORCH_VARIABLE = "LABCTL_CONVERT_TORCH"
_MODULES = ("torch", "transformers", "sentencepiece", "safetensors", "google.protobuf", "numpy")
_SIZES = "about 0.3 GB to download (0.8 GB on some systems), 1.3 GB of disk and 2 to 10 minutes, once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """A converter, which may have to be fetched and set up first: see make_ready.

    Attributes:
        folder: holds convert_hf_to_gguf.py.
        python: an interpreter with PyTorch and transformers.
        home: where labctl keeps its own converter and environment.
        origin: where the converter comes from, for records and messages.
        key: changes with the converter; another one may give another file.
        version: of the release to fetch; empty for a checkout.
        own_python: the environment is labctl's to make.
    """

    folder: Path
    python: Path
    home: Path
    origin: str
    key: str
    version: str
    own_python: bool


def find_converter(lab_data: Path, llama_cpp: str | None) -> Converter:
    """Which converter to use; nothing is fetched or made.

    Args:
        lab_data: the environment and the files are kept in its folder .convert.
        llama_cpp: a checkout of llama.cpp to use instead of the release.
    Raises:
        LabError: the checkout holds no converter, or llama-cpp-python is not installed.
    """
    home = lab_data / ".convert"
    if llama_cpp:
        folder, version = typed(llama_cpp), ""
        if not (folder / SCRIPT).is_file():
            raise LabError(f"There is no {SCRIPT} in {folder}.", "Give the top folder of a llama.cpp checkout.")
        origin, key = f"llama.cpp in {folder.name}", _program_digest(folder)
    else:
        try:
            version = importlib.metadata.version(PACKAGE)
        except importlib.metadata.PackageNotFoundError as error:
            raise LabError(f"{PACKAGE} is not installed.", f"Run `make lab`, or: pip install {PACKAGE}") from error
        folder = home / f"llama.cpp-{version}"
        origin = key = f"llama.cpp of {PACKAGE} {version}"
    named = os.environ.get(_PYTHON_VARIABLE, "").strip()
    return Converter(
        folder=folder,
        python=typed(named) if named else packages.python_of(home / "env").absolute(),
        home=home,
        origin=origin,
        key=key,
        version=version,
        own_python=not named,
    )


def make_ready(converter: Converter, dialogue: Dialogue) -> None:
    """Fetch the converter and make its environment if this is the first time, after asking.

    Raises:
        LabError: the person refused, or something could not be fetched or made.
    """
    home = converter.home
    make_environment = converter.own_python and not (_mark(home).is_file() and converter.python.is_file())
    if make_environment:
        dialogue.ask(
            "Converting a checkpoint needs PyTorch (CPU build) and transformers, in an environment of their own in"
            f" {home}: {_SIZES}. Another Python that has them can be named with {_PYTHON_VARIABLE}."
        )
    if converter.version and not (converter.folder / SCRIPT).is_file():
        dialogue.say(f"Fetching the converter of {converter.origin} (77 MB) ...")
        fetch_release(converter.version, converter.folder, home)
    if make_environment:
        _make_environment(home, converter.folder / REQUIREMENTS, dialogue)
    elif not converter.own_python:
        _check_python(converter.python, f"{_PYTHON_VARIABLE}={converter.python}")


def fetch_release(version: str, folder: Path, home: Path) -> None:
    """Take the converter out of the source release of llama-cpp-python, checked against its known sha256.

    Raises:
        LabError: it could not be downloaded, or is not the file that is known.
    """
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".partial-") as temporary:
        pip = packages.pip_command(home)
        archive = packages.download(pip, f"{PACKAGE}=={version}", Path(temporary), source_of=PACKAGE)
        found = file_sha256(archive)
        note = home / f"release-{version}.json"
        expected = SOURCE_SHA256.get(version) or _noted(note)
        if expected and found != expected:
            raise LabError(
                f"The source release {archive.name} is not the one that is known: sha256 {found[:12]}..., expected"
                f" {expected[:12]}...",
                "Something on the way changes downloads (a proxy?). Set LABCTL_LLAMA_CPP to a checkout of llama.cpp.",
            )
        unpacked = Path(temporary) / "llama.cpp"
        packages.take_tree(archive, _ROOT, _WANTED, unpacked)
        if not (unpacked / SCRIPT).is_file() or not (unpacked / REQUIREMENTS).is_file():
            raise LabError(
                f"{archive.name} holds no {SCRIPT}.", "Set LABCTL_LLAMA_CPP to a checkout of llama.cpp instead."
            )
        write_text(note, json.dumps({"file": archive.name, "sha256": found}, indent=1) + "\n")
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.replace(folder)


def _noted(path: Path) -> str:
    """The sha256 that an earlier download of a release had; empty if there was none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text("utf-8"))["sha256"])
    return ""


def _program_digest(folder: Path) -> str:
    """Digest of the converter's program files."""
    files = [folder / SCRIPT, *folder.glob("conversion/**/*.py"), *folder.glob("gguf-py/gguf/**/*.py")]
    return digest({path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(files)})


# -- the environment --------------------------------------------------------------------------------------------------


def _mark(home: Path) -> Path:
    """Written last: an environment without it was not finished."""
    return home / "env.json"


def read_requirements(path: Path) -> tuple[list[str], list[str]]:
    """Requirements of the converter, and the extra indexes its file names; the gguf package comes with the converter.

    Raises:
        LabError: the file is missing.
    """
    requirements: list[str] = []
    indexes: list[str] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise LabError(f"There is no {path}.", "Give a complete checkout of llama.cpp.") from error
    for line in (line.split("#")[0].strip() for line in lines):
        if line.startswith("-r "):
            more, others = read_requirements(path.parent / line[3:].strip())
            requirements += more
            indexes += others
        elif line.startswith("--extra-index-url"):
            indexes.append(line.removeprefix("--extra-index-url").strip(" ="))
        elif line and not line.startswith("-") and not re.match(r"gguf\b", line):
            requirements.append(line)
    return requirements, indexes


def _make_environment(home: Path, requirements_file: Path, dialogue: Dialogue) -> None:
    """Make the environment with the packages that llama.cpp's own requirements file asks for.

    Raises:
        LabError: pip failed, would fetch the CUDA build, or the packages do not load.
    """
    requirements, indexes = read_requirements(requirements_file)
    requirements = list(dict.fromkeys([*requirements, "safetensors"]))
    torch = os.environ.get(_TORCH_VARIABLE, "").strip()
    if torch:
        requirements = [torch if re.match(r"torch\b", one) else one for one in requirements]
        indexes = []
    dialogue.say(f"Setting up {home / 'env'} ({', '.join(requirements)}) ...")
    python = packages.make_environment(home / "env")
    options = [option for index in indexes for option in ("--extra-index-url", index)]
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    command += [*options, *requirements]
    hint = (
        f"{_TORCH_VARIABLE}=torch takes PyTorch from pip's own index, {_PYTHON_VARIABLE} names a Python that has torch,"
        " transformers and sentencepiece already."
    )
    cuda = [name for name in _would_install(command) if name.startswith("nvidia-")]
    if cuda:
        raise LabError("pip would install the CUDA build of PyTorch, several GB that are of no use here.", hint)
    done = packages.run(command)
    if done.returncode != 0:
        raise LabError(f"pip could not install {last_words(done.stderr, 'PyTorch')}.", hint)
    versions = _check_python(python, str(home / "env"))
    write_text(_mark(home), json.dumps({"versions": versions}, indent=1) + "\n")


def _would_install(command: Sequence[str]) -> list[str]:
    """Names of the packages that an install would bring; empty where this pip cannot say."""
    done = packages.run([*command, "--dry-run", "--quiet", "--report", "-"])
    with contextlib.suppress(ValueError, KeyError, TypeError):
        report = json.loads(done.stdout)
        return [str(one["metadata"]["name"]).lower() for one in report["install"]]
    return []


def _check_python(python: Path, shown: str) -> Mapping[str, str]:
    """See that an interpreter has what the converter needs.

    Returns: module -> version.
    Raises:
        LabError: it cannot be run, or a package is missing.
    """
    code = (
        "import importlib, json\n"
        f"print(json.dumps({{n: str(getattr(importlib.import_module(n), '__version__', '')) for n in {_MODULES!r}}}))"
    )
    try:
        done = packages.run([str(python), "-c", code])
    except OSError as error:
        raise LabError(f"{shown} cannot be run: {error.strerror}.", f"Check {_PYTHON_VARIABLE}.") from error
    if done.returncode != 0:
        raise LabError(
            f"{shown} cannot convert: {last_words(done.stderr, 'it does not start')}.",
            f"It needs {', '.join(_MODULES)}. Without {_PYTHON_VARIABLE} labctl sets up an environment itself.",
        )
    versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return versions
