"""This computer: what a figure was measured on, and doctor's checks before measuring."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from labctl.records import Machine

PROC, SYS = Path("/proc"), Path("/sys")
PROBE_TIMEOUT_S = 3.0
REBUILD = "pip install --force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python"
WHEELS = "https://abetlen.github.io/llama-cpp-python/whl/cpu"

# Names in /proc/cpuinfo -> names in llama.cpp's system info, for what its CPU code makes use of.
# Source: llama.cpp ggml/src/ggml-cpu/ggml-cpu.cpp, ggml_backend_cpu_get_features.
FEATURES = {
    "ssse3": "ssse3", "avx": "avx", "avx_vnni": "avx_vnni", "avx2": "avx2", "f16c": "f16c", "fma": "fma",
    "bmi2": "bmi2", "avx512f": "avx512", "avx512vbmi": "avx512_vbmi", "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16", "amx_int8": "amx_int8", "asimd": "neon", "neon": "neon", "asimdhp": "fp16_va",
    "i8mm": "matmul_int8", "sve": "sve", "asimddp": "dotprod", "sme": "sme", "vsx": "vsx",
}  # fmt: skip
_MAC_FEATURES = {"FEAT_FP16": "fp16_va", "FEAT_I8MM": "matmul_int8", "FEAT_DotProd": "dotprod", "FEAT_SME": "sme"}
_WINDOWS_FEATURES = {36: "ssse3", 39: "avx", 40: "avx2", 41: "avx512"}  # winnt.h, PF_*_INSTRUCTIONS_AVAILABLE
# A core this much weaker than the strongest holds the others up, as llama.cpp's threads wait for each other.
_WEAK_CORE = 0.6


def fingerprint() -> Machine:
    """Describe this computer. Holds no serial number, user or host name.

    Returns: a record whose `machine_id` depends on processor, cores, memory (to the GiB) and kind of system only.
    """
    import psutil

    logical = psutil.cpu_count(logical=True) or os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    ram_bytes = int(psutil.virtual_memory().total)
    system, arch = platform.system(), platform.machine()
    model = cpu_model()
    # Kernel updates move the last megabytes of usable memory; the machine stays the same one.
    identity = "|".join((model, str(physical), str(logical), str(round(ram_bytes / 2**30)), arch, system))
    release = platform.mac_ver()[0] if system == "Darwin" else platform.release()
    return Machine(
        machine_id=hashlib.sha256(identity.encode()).hexdigest()[:12],
        os=f"{'macOS' if system == 'Darwin' else system} {release}".strip(),
        arch=arch,
        cpu_model=model,
        n_cores_physical=physical,
        n_cores_logical=logical,
        ram_bytes=ram_bytes,
        cpu_features=cpu_features(),
    )


def cpu_model(proc: Path = PROC) -> str:
    """The processor's name as its maker prints it, or the architecture where the system does not tell."""
    if sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string")
    elif sys.platform == "win32":
        name = _windows_cpu()
    else:
        name = parse_cpu_model(_read(proc / "cpuinfo") or "")
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
            has_arm = {one for key, one in _MAC_FEATURES.items() if _sysctl(f"hw.optional.arm.{key}") == "1"}
            return tuple(sorted(has_arm | {"neon"}))
        names = _sysctl("machdep.cpu.features machdep.cpu.leaf7_features").lower()
        return parse_cpu_features("flags : " + " ".join(names.split()))
    elif sys.platform == "win32":  # noqa: RET505 (mypy takes what follows a return on macOS for unreachable)
        import ctypes

        has = ctypes.windll.kernel32.IsProcessorFeaturePresent
        arm = ("neon",) if platform.machine().lower() == "arm64" else ()
        return tuple(sorted((*arm, *(name for number, name in _WINDOWS_FEATURES.items() if has(number)))))
    else:
        return parse_cpu_features(_read(proc / "cpuinfo") or "")


def parse_cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """Instruction sets in the text of /proc/cpuinfo, by llama.cpp's names, sorted."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    flags = match[1].replace("avx1.0", "avx").split() if match else []
    return tuple(sorted({FEATURES[flag] for flag in flags if flag in FEATURES}))


def performance_cores() -> int:
    """How many threads to compute with: physical cores, without the efficiency cores of a hybrid processor.

    Source: llama.cpp common/common.cpp, common_cpu_get_num_math.
    """
    count: int | None = None
    if sys.platform == "darwin":
        text = _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu")
        count = int(text) if text.isdigit() else None
    elif sys.platform == "linux":
        count = count_performance_cores()
        if count is not None:
            # A container or taskset that allows fewer: more threads than that would wait for each other.
            count = min(count, len(os.sched_getaffinity(0)))
    if not count:
        import psutil

        count = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return count


def count_performance_cores(sys_root: Path = SYS) -> int | None:
    """Performance cores by what Linux tells under /sys, each once however many threads it has; None if nothing."""
    cores: dict[int, str] = {}
    strengths: dict[int, int] = {}
    for folder in (sys_root / "devices/system/cpu").glob("cpu[0-9]*"):
        siblings = _read(folder / "topology/thread_siblings")
        if siblings is None or not folder.name[3:].isdigit():
            continue
        number = int(folder.name[3:])
        cores[number] = siblings
        strength = _read(folder / "cpu_capacity") or _read(folder / "cpufreq/cpuinfo_max_freq") or ""
        if strength.isdigit():
            strengths[number] = int(strength)
    if not cores:
        return None
    intel = parse_cpu_list(_read(sys_root / "devices/cpu_core/cpus") or "")
    if intel & cores.keys():
        strong = intel
    elif len(strengths) == len(cores):
        strong = {number for number, strength in strengths.items() if strength >= _WEAK_CORE * max(strengths.values())}
    else:
        strong = set(cores)
    return len({cores[number] for number in strong if number in cores})


def parse_cpu_list(text: str) -> set[int]:
    """Numbers in the kernel's list form: "0-3,8" is {0, 1, 2, 3, 8}."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        numbers.update(range(int(first), min(int(last or first), int(first) + 4096) + 1))
    return numbers


def power_source() -> str | None:
    """ "mains" or "battery"; None without a battery, or where the system does not tell."""
    import psutil

    read = getattr(psutil, "sensors_battery", None)
    with contextlib.suppress(OSError, RuntimeError, NotImplementedError, AttributeError):
        status = read() if read else None
        if status is not None and status.power_plugged is not None:
            return "mains" if status.power_plugged else "battery"
    return None


def governor(sys_root: Path = SYS) -> str | None:
    """Linux's rule for clock speeds, with its driver ("powersave (intel_pstate)"); None where there is none."""
    folder = sys_root / "devices/system/cpu/cpu0/cpufreq"
    name, driver = _read(folder / "scaling_governor"), _read(folder / "scaling_driver")
    return f"{name} ({driver})" if name and driver else name


def load() -> float | None:
    """How many logical cores were busy during the last fifth of a second; None where the system does not tell."""
    import psutil

    with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
        return psutil.cpu_percent(interval=0.2) / 100 * (psutil.cpu_count() or 1)
    return None


def unreachable(url: str, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Why a server cannot be reached, or an empty text if it can. Costs at most `timeout_s`, name look-up included.

    Where a proxy is set for the address, the proxy is tried instead.
    """
    import urllib.request

    outcome: list[str] = []

    def attempt() -> None:
        try:
            parts = urlsplit(url)
            host, port, scheme = parts.hostname or "", parts.port, parts.scheme
            proxies = urllib.request.getproxies()
            proxy = proxies.get(scheme) or proxies.get("all")
            if proxy and not urllib.request.proxy_bypass(host):
                parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
                host, port, scheme = parts.hostname or "", parts.port, parts.scheme
            with socket.create_connection((host, port or (443 if scheme == "https" else 80)), timeout=timeout_s):
                outcome.append("")
        except socket.gaierror:
            outcome.append("its name cannot be looked up")
        except (OSError, RuntimeError, ValueError) as error:
            outcome.append((getattr(error, "strerror", "") or type(error).__name__).lower())

    thread = threading.Thread(target=attempt, daemon=True)  # a name look-up cannot be given a time limit
    thread.start()
    thread.join(timeout_s)
    return outcome[0] if outcome else f"no answer within {timeout_s:g} s"


# -- doctor -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of `labctl doctor`; `hint` says what to do, and is empty where all is well."""

    name: str
    status: Literal["ok", "warning", "problem"]
    detail: str
    hint: str = ""


def doctor(
    *,
    ram_need_bytes: int | None,
    disk_need_bytes: int | None,
    outputs: Path,
    system_info: str | None,
    check_hub: bool = True,
) -> tuple[Check, ...]:
    """Look at everything that decides whether a lab will run, and whether its timings will mean anything.

    Args:
        ram_need_bytes: memory the largest file needs at the lab's context size; None if not known yet.
        disk_need_bytes: bytes the lab will still write.
        outputs: the folder it writes to; need not exist.
        system_info: llama.cpp's own line about the processor, if it could be loaded.
        check_hub: also try the Hugging Face Hub (up to 3 s without a network).
    """
    import psutil

    machine = fingerprint()
    memory = psutil.virtual_memory()
    checks = [check_python(sys.version_info[:3], sys.maxsize > 2**32), check_llama(), check_cores(machine)]
    if system_info is not None:
        checks.append(check_features(machine.cpu_features, system_info))
    checks += [check_ram(memory.total, memory.available, ram_need_bytes), check_disk(outputs, disk_need_bytes)]
    checks += [check_power(power_source()), check_governor(governor()), check_load(load(), machine.n_cores_logical)]
    if check_hub:
        checks.append(check_hub_at((os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")))
    return tuple(checks)


def check_python(version: tuple[int, ...], is_64_bit: bool) -> Check:
    text = ".".join(map(str, version)) + ("" if is_64_bit else ", 32-bit")
    if version >= (3, 10) and is_64_bit:
        return Check(name="Python", status="ok", detail=text)
    return Check(name="Python", status="problem", detail=text, hint="Install a 64-bit Python 3.10 or newer.")


def check_llama() -> Check:
    """Whether llama-cpp-python is installed; without importing it, which takes a second and may abort."""
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("llama-cpp-python")
        return Check(name="llama.cpp", status="ok", detail=f"llama-cpp-python {version}")
    compiler = next((one for one in ("c++", "g++", "clang++", "cl") if shutil.which(one)), None)
    found = f"a C++ compiler is here ({compiler})" if compiler else "and there is no C++ compiler to build it"
    hint = f"Install a ready build: pip install llama-cpp-python --extra-index-url {WHEELS}"
    return Check(name="llama.cpp", status="problem", detail=f"llama-cpp-python is not installed; {found}", hint=hint)


def check_features(cpu: tuple[str, ...], system_info: str) -> Check:
    """Whether llama.cpp was built for what this processor can do."""
    built = {name.lower() for name, value in re.findall(r"(\w+) = (\d+)", system_info) if value != "0"}
    # AMX is left out on purpose where the compiler breaks it (buildargs.py).
    unused = sorted(one for one in set(cpu) - built if not one.startswith("amx"))
    used = " ".join(sorted(set(cpu) & built)) or "none of the processor's vector instructions"
    if not unused:
        return Check(name="CPU features", status="ok", detail=used)
    return Check(
        name="CPU features",
        status="warning",
        detail=f"llama.cpp uses {used}, but was built without {' '.join(unused)}",
        hint=f"For full speed build it here: {REBUILD}",
    )


def check_cores(machine: Machine) -> Check:
    threads = performance_cores()
    detail = f"{machine.cpu_model}: {machine.n_cores_physical} cores, {machine.n_cores_logical} threads; uses {threads}"
    if threads > 1:
        return Check(name="Cores", status="ok", detail=detail)
    return Check(
        name="Cores", status="warning", detail=detail, hint="One core is slow: take a small model and fewer chunks."
    )


def check_ram(total_bytes: int, available_bytes: int, need_bytes: int | None) -> Check:
    detail = f"{available_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB free"
    if need_bytes is not None:
        detail += f", {need_bytes / 1e9:.1f} GB needed"
        if need_bytes > total_bytes:
            hint = "Take a smaller model, a smaller --n-ctx, or a computer with more memory."
            return Check(name="Memory", status="problem", detail=detail, hint=hint)
        if need_bytes > available_bytes:
            return Check(name="Memory", status="warning", detail=detail, hint="Close other programs, browsers first.")
    return Check(name="Memory", status="ok", detail=detail)


def check_disk(folder: Path, need_bytes: int | None) -> Check:
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free in {place}"
    if need_bytes is not None:
        detail += f", {need_bytes / 1e9:.1f} GB needed"
        if need_bytes > free:
            hint = "Free some space, or choose a folder on a larger disk with --outputs."
            return Check(name="Disk", status="problem", detail=detail, hint=hint)
    return Check(name="Disk", status="ok", detail=detail)


def check_power(source: str | None) -> Check:
    if source == "battery":
        hint = "Plug it in before `labctl bench`: on battery the processor slows down."
        return Check(name="Power", status="warning", detail="on battery", hint=hint)
    return Check(name="Power", status="ok", detail="on mains" if source else "no battery seen")


def check_governor(name: str | None) -> Check:
    """Under the pstate drivers "powersave" is the normal setting and does not hold the clock down."""
    if name and name.split()[0] in ("powersave", "conservative") and "pstate" not in name:
        hint = "Before `labctl bench`: sudo cpupower frequency-set -g performance"
        return Check(name="Clock speed", status="warning", detail=f"governor {name}", hint=hint)
    return Check(name="Clock speed", status="ok", detail=f"governor {name}" if name else "set by the system")


def check_load(busy: float | None, n_logical: int) -> Check:
    if busy is None:
        return Check(name="Load", status="ok", detail="not known")
    detail = f"{busy:.1f} of {n_logical} cores busy"
    if busy > max(0.5, 0.15 * n_logical):
        return Check(name="Load", status="warning", detail=detail, hint="Close other programs before `labctl bench`.")
    return Check(name="Load", status="ok", detail=detail)


def check_hub_at(url: str) -> Check:
    host = urlsplit(url).hostname or url
    reason = unreachable(url)
    if not reason:
        return Check(name="Hugging Face Hub", status="ok", detail=f"{host} answers")
    hint = "Not needed for `--model demo`. For Hub models and WikiText-2 check the network and HTTPS_PROXY."
    return Check(name="Hugging Face Hub", status="warning", detail=f"{host}: {reason}", hint=hint)


# -- small readers ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def _sysctl(names: str) -> str:
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
