"""The processor: its name, what it can do, and which of its cores to compute with."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from labctl.machine.cgroups import PROC, SYS, core_quota, read_text

# Names in /proc/cpuinfo -> names in llama.cpp's system info, for what its CPU code makes use of.
# Source: llama.cpp ggml/src/ggml-cpu/ggml-cpu.cpp, ggml_backend_cpu_get_features.
FEATURES = {
    "ssse3": "ssse3",
    "avx": "avx",
    "avx_vnni": "avx_vnni",
    "avx2": "avx2",
    "f16c": "f16c",
    "fma": "fma",
    "bmi2": "bmi2",
    "avx512f": "avx512",
    "avx512vbmi": "avx512_vbmi",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16_va",
    "i8mm": "matmul_int8",
    "sve": "sve",
    "asimddp": "dotprod",
    "sme": "sme",
    "vsx": "vsx",
}
_MAC_FEATURES = {"FEAT_FP16": "fp16_va", "FEAT_I8MM": "matmul_int8", "FEAT_DotProd": "dotprod", "FEAT_SME": "sme"}
_WINDOWS_FEATURES = {36: "ssse3", 39: "avx", 40: "avx2", 41: "avx512"}  # winnt.h, PF_*_INSTRUCTIONS_AVAILABLE
# A core this much weaker than the strongest holds the others up, as llama.cpp's threads wait for each other.
_WEAK_CORE = 0.6


def cpu_model(proc: Path = PROC) -> str:
    """The processor's name as its maker prints it, or the architecture where the system does not tell."""
    if sys.platform == "darwin":
        name = sysctl("machdep.cpu.brand_string")
    elif sys.platform == "win32":
        name = _windows_cpu()
    else:
        name = parse_cpu_model(read_text(proc / "cpuinfo") or "")
    return re.sub(r"\s+", " ", name or "").strip() or platform.processor() or platform.machine() or "unknown"


def parse_cpu_model(cpuinfo: str) -> str:
    """Processor name in the text of /proc/cpuinfo; of ARM boards that give none, the board's."""
    for field in ("model name", "cpu model", "cpu", "Model", "Hardware", "uarch"):
        match = re.search(rf"^{field}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        if match:
            return match[1].strip()
    return ""


def cpu_features(proc: Path = PROC) -> tuple[str, ...]:
    """Instruction sets of the processor that llama.cpp can use, by llama.cpp's names, sorted."""
    if sys.platform == "darwin":
        if platform.machine() == "arm64":
            has_arm = {one for key, one in _MAC_FEATURES.items() if sysctl(f"hw.optional.arm.{key}") == "1"}
            return tuple(sorted(has_arm | {"neon"}))
        names = sysctl("machdep.cpu.features machdep.cpu.leaf7_features").lower()
        return parse_cpu_features("flags : " + " ".join(names.split()))
    elif sys.platform == "win32":  # noqa: RET505 (mypy takes what follows a return on macOS for unreachable)
        import ctypes

        has = ctypes.windll.kernel32.IsProcessorFeaturePresent
        arm = ("neon",) if platform.machine().lower() == "arm64" else ()
        return tuple(sorted((*arm, *(name for number, name in _WINDOWS_FEATURES.items() if has(number)))))
    else:
        return parse_cpu_features(read_text(proc / "cpuinfo") or "")


def parse_cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """Instruction sets in the text of /proc/cpuinfo, by llama.cpp's names, sorted."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    flags = match[1].replace("avx1.0", "avx").split() if match else []
    return tuple(sorted({FEATURES[flag] for flag in flags if flag in FEATURES}))


def performance_cores() -> int:
    """How many threads to compute with: physical cores, without the efficiency cores of a hybrid processor.

    Only as many as this process may use: more threads than that would wait for each other.

    Source: llama.cpp common/common.cpp, common_cpu_get_num_math.
    """
    count: int | None = None
    if sys.platform == "darwin":
        text = sysctl("hw.perflevel0.physicalcpu") or sysctl("hw.physicalcpu")
        count = int(text) if text.isdigit() else None
    elif sys.platform == "linux":
        count = count_performance_cores(allowed=os.sched_getaffinity(0))
    if not count:
        import psutil

        count = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    limit = core_limit()
    return max(1, min(count, int(limit))) if limit else count


def core_limit() -> float:
    """How many cores (threads of the processor) a mask or a container leaves to this process; 0 for all of them."""
    if sys.platform != "linux":
        return 0.0
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    limits = [quota for quota in (core_quota(), float(allowed)) if quota is not None and quota < there]
    return min(limits, default=0.0)


def count_performance_cores(sys_root: Path = SYS, allowed: Collection[int] | None = None) -> int | None:
    """Performance cores by what Linux tells under /sys, each once however many threads it has; None if nothing.

    Args:
        allowed: numbers of the processor's threads that count; None for all.
    """
    kinds = linux_core_kinds(sys_root, allowed)
    return kinds[0] or kinds[1] if kinds else None


def core_kinds() -> tuple[int, int]:
    """Performance and efficiency cores of this computer, physical ones; 0, 0 where the system does not tell."""
    if sys.platform == "darwin":
        levels = [sysctl(f"hw.perflevel{level}.physicalcpu") for level in (0, 1)]
        strong, weak = (int(text) if text.isdigit() else 0 for text in levels)
        return (strong, weak) if strong else (0, 0)
    return linux_core_kinds() or (0, 0)


def linux_core_kinds(sys_root: Path = SYS, allowed: Collection[int] | None = None) -> tuple[int, int] | None:
    """Performance cores, and the weaker ones of a hybrid processor, by what Linux tells under /sys; None if nothing."""
    cores: dict[int, str] = {}
    strengths: dict[int, int] = {}
    for folder in (sys_root / "devices/system/cpu").glob("cpu[0-9]*"):
        siblings = read_text(folder / "topology/thread_siblings")
        if siblings is None or not folder.name[3:].isdigit():
            continue
        number = int(folder.name[3:])
        cores[number] = siblings
        strength = read_text(folder / "cpu_capacity") or read_text(folder / "cpufreq/cpuinfo_max_freq") or ""
        if strength.isdigit():
            strengths[number] = int(strength)
    if not cores:
        return None
    intel = parse_cpu_list(read_text(sys_root / "devices/cpu_core/cpus") or "")
    if intel & cores.keys():
        strong = intel
    elif len(strengths) == len(cores):
        strong = {number for number, strength in strengths.items() if strength >= _WEAK_CORE * max(strengths.values())}
    else:
        strong = set(cores)
    counted = {number: core for number, core in cores.items() if allowed is None or number in allowed}
    n_strong = len({core for number, core in counted.items() if number in strong})
    return n_strong, len(set(counted.values())) - n_strong


def parse_cpu_list(text: str) -> set[int]:
    """Numbers in the kernel's list form: "0-3,8" is {0, 1, 2, 3, 8}."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        numbers.update(range(int(first), min(int(last or first), int(first) + 4096) + 1))
    return numbers


# -- small readers ----------------------------------------------------------------------------------------------------


def sysctl(names: str) -> str:
    """What macOS says of these names; empty where it says nothing."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["/usr/sbin/sysctl", "-n", *names.split()]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    return ""


def _windows_cpu() -> str:
    if sys.platform == "win32":
        import winreg

        with (
            contextlib.suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as opened,
        ):
            return str(winreg.QueryValueEx(opened, "ProcessorNameString")[0])
    return ""
