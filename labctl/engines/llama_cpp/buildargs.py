"""CMake settings for building llama-cpp-python on this machine.

Runs on its own, before anything is installed: python -I labctl/engines/llama_cpp/buildargs.py
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys

VISION_OFF = "-DLLAVA_BUILD=OFF"
"""Leaves llama.cpp's vision part out: a quarter of the compile steps, and nothing the lab uses."""

AMX_OFF = ("-DCMAKE_C_FLAGS=-U__AMX_INT8__", "-DCMAKE_CXX_FLAGS=-U__AMX_INT8__")
"""Leaves llama.cpp's AMX kernels out, for compilers that break them."""


def cmake_args(environ: dict[str, str] | None = None, cpuinfo: str | None = None) -> list[str]:
    """Settings to build with: CMAKE_ARGS as the user set it, else what suits this machine.

    Args:
        environ: os.environ unless given.
        cpuinfo: text of /proc/cpuinfo unless given; empty where there is none.
    """
    environ = dict(os.environ) if environ is None else environ
    if environ.get("CMAKE_ARGS"):
        return shlex.split(environ["CMAKE_ARGS"])
    args = [VISION_OFF]
    if "amx_int8" in (_cpuinfo() if cpuinfo is None else cpuinfo).split() and breaks_amx(_compiler_version(environ)):
        args += AMX_OFF
    return args


def breaks_amx(version: str) -> bool:
    """Whether a compiler, by the first line of its --version, is a GCC that drops AMX's tile configuration.

    Code built by it crashes on CPUs with AMX (SIGILL or SIGSEGV at the first quantized matrix).
    Source: GCC bug 114098, mended in 11.5, 12.4, 13.3 and 14.
    """
    match = re.search(r"(\d+)\.(\d+)\.\d+\s*$", version) or re.search(r"\b(\d+)\.(\d+)\.\d+", version)
    if match is None or "clang" in version.lower() or not re.search(r"gcc|g\+\+|c\+\+|GCC", version):
        return False
    major, minor = int(match[1]), int(match[2])
    return major < 11 or minor < {11: 5, 12: 4, 13: 3}.get(major, 0)


def _cpuinfo() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:  # noqa: PTH123
            return stream.read()
    except OSError:
        return ""


def _compiler_version(environ: dict[str, str]) -> str:
    compiler = environ.get("CXX", "").split() or ["c++"]
    if shutil.which(compiler[0]) is None:
        return ""
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else ""


def missing_compiler(environ: dict[str, str] | None = None) -> str:
    """What to install where no C++ compiler is found; empty where there is one."""
    environ = dict(os.environ) if environ is None else environ
    names = environ.get("CXX", "").split()[:1] or (["cl", "c++"] if os.name == "nt" else ["c++", "g++", "clang++"])
    if any(shutil.which(name) for name in names) or os.name == "nt":  # Windows' compiler is rarely on the PATH
        return ""
    if platform.system() == "Darwin":
        return "Run: xcode-select --install"
    return "Install one, for example: sudo apt install g++ (Debian, Ubuntu) or sudo dnf install gcc-c++ (Fedora)"


if __name__ == "__main__":
    if "--check-compiler" in sys.argv:
        if hint := missing_compiler():
            sys.exit(f"error: no C++ compiler found, and llama.cpp has to be compiled.\nhint: {hint}")
    elif "--no-amx" in sys.argv:
        sys.stdout.write(" ".join([VISION_OFF, *AMX_OFF]) + "\n")
    else:
        sys.stdout.write(shlex.join(cmake_args()) + "\n")
