"""What only the tests need: llama-perplexity of the very llama.cpp under test, and a Python with PyTorch.

Both go into .venv/extras and are made once; tests/conftest.py finds them there. What cannot be had here (no network, no
compiler) is said, and its tests are skipped; .ci/run turns that into a failure.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.screen import Screen  # noqa: E402
from benchmarks.tools import build_tools  # noqa: E402
from labctl.errors import LabError  # noqa: E402

EXTRAS = ROOT / ".venv" / "extras"
REQUIREMENTS = ROOT / ".ci" / "requirements-convert.txt"


def llama_perplexity() -> None:
    """Build it from the source release of the llama-cpp-python that is installed.

    Raises:
        LabError: no compiler, no CMake or no source.
    """
    build_tools(EXTRAS, importlib.metadata.version("llama-cpp-python"), Screen(), ("llama-perplexity",))


def convert_python() -> None:
    """An environment with what llama.cpp's converter imports.

    Raises:
        LabError: pip cannot install it.
    """
    place = EXTRAS / "convert"
    done = place / REQUIREMENTS.name
    if done.is_file() and done.read_bytes() == REQUIREMENTS.read_bytes():
        return
    print("Installing PyTorch for the tests of conversion ...", flush=True)
    venv.create(place, with_pip=True, clear=True)
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode:
        raise LabError("pip cannot install PyTorch for the tests of conversion.")
    done.write_bytes(REQUIREMENTS.read_bytes())


def main() -> None:
    for make in (llama_perplexity, convert_python):
        try:
            make()
        except LabError as error:
            print(f"{error.message} {error.hint} The tests that need it are skipped.".replace("  ", " "), flush=True)


if __name__ == "__main__":
    main()
