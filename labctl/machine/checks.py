"""doctor's checks of this computer before measuring, each with what to do about it."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from labctl.machine.cpu import performance_cores
from labctl.machine.fingerprint import clock_text, conditions, fingerprint, free_memory_bytes
from labctl.records.base import Machine
from labctl.records.disk import free_bytes
from labctl.records.hardware import Conditions
from labctl.records.units import size_text

PROBE_TIMEOUT_S = 3.0
BUSY_CORE = 0.6
"""A core that other programs use to this share is missed when one thread a core computes."""
REBUILD = "pip install --force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python"
WHEELS = "the README of llama-cpp-python names an index of ready CPU builds for pip's --extra-index-url"


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
    spool_need_bytes: int = 0,
    outputs: Path,
    system_info: str | None,
    hub: str = "",
) -> tuple[Check, ...]:
    """Look at everything that decides whether a lab will run, and whether its timings will mean anything.

    Args:
        ram_need_bytes: memory the largest file needs at the lab's context size; None if not known yet.
        disk_need_bytes: bytes the lab will still write.
        spool_need_bytes: of these, the temporary file that only KL divergence needs.
        outputs: the folder it writes to; need not exist.
        system_info: llama.cpp's own line about the processor, if it could be loaded.
        hub: address of the Hugging Face Hub, to try it, too (up to 3 s without a network); empty to leave it out.
    """
    machine = fingerprint()
    checks = [
        Check(name="System", status="ok", detail=f"{machine.os}, {machine.arch}"),
        check_python(sys.version_info[:3], sys.maxsize > 2**32),
        check_llama(),
        check_cores(machine),
    ]
    if system_info is not None:
        checks.append(check_features(machine.cpu_features, system_info))
    checks.append(check_ram(machine.ram_bytes, free_memory_bytes(), ram_need_bytes, machine.ram_limit_bytes))
    checks.append(check_disk(outputs, disk_need_bytes, spool_need_bytes))
    checks += conditions_checks(conditions(), machine.n_cores_logical)
    if hub:
        checks.append(check_hub_at(hub))
    return tuple(checks)


def conditions_checks(now: Conditions, n_logical: int) -> tuple[Check, ...]:
    """What the machine's state does to a timing."""
    return (
        check_power(now.power),
        check_governor(now.governor),
        check_clock(now.clock_hz, now.temperature_c),
        check_load(now.busy_cores, now.busiest_share, n_logical),
    )


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
    hint = f"Install a ready build: {WHEELS}"
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
    kinds = ""
    if machine.n_cores_efficiency:
        kinds = f" ({machine.n_cores_performance} performance, {machine.n_cores_efficiency} efficiency)"
    physical, logical = machine.n_cores_physical, machine.n_cores_logical
    counts = f"{physical} core{'s' * (physical != 1)}{kinds}, {logical} thread{'s' * (logical != 1)}"
    detail = f"{machine.cpu_model}: {counts}; uses {threads}"
    if machine.core_limit:
        detail += f", as this process may use {machine.core_limit:g} (a container's limit, or a mask)"
    if threads > 1:
        return Check(name="Cores", status="ok", detail=detail)
    if machine.core_limit and machine.n_cores_physical > 1:
        hint = "Allow this container or process more cores (docker --cpus, taskset), or take a small model."
        return Check(name="Cores", status="warning", detail=detail, hint=hint)
    return Check(
        name="Cores", status="warning", detail=detail, hint="One core is slow: take a small model and fewer chunks."
    )


def check_ram(machine_bytes: int, available_bytes: int, need_bytes: int | None, limit_bytes: int = 0) -> Check:
    """Memory that is needed against what is free; a container's limit, if there is one, stands for the machine's."""
    total_bytes = limit_bytes or machine_bytes
    detail = f"{size_text(available_bytes)} of {size_text(total_bytes)} free"
    if limit_bytes:
        detail += f" (this process may use no more of the machine's {size_text(machine_bytes)})"
    if need_bytes is not None:
        detail += f", {size_text(need_bytes)} needed"
        if need_bytes > total_bytes:
            hint = "Take a smaller model, a smaller --ctx, or a computer with more memory."
            return Check(name="Memory", status="problem", detail=detail, hint=hint)
        if need_bytes > available_bytes:
            return Check(name="Memory", status="warning", detail=detail, hint="Close other programs, browsers first.")
    return Check(name="Memory", status="ok", detail=detail)


def check_disk(folder: Path, need_bytes: int | None, spool_bytes: int = 0) -> Check:
    free = free_bytes(folder)
    detail = f"{size_text(free)} free in {folder.absolute()}"
    if need_bytes is not None:
        detail += f", {size_text(need_bytes)} needed"
        if spool_bytes:
            detail += f", {size_text(spool_bytes)} of them for a while"
        if need_bytes > free >= need_bytes - spool_bytes:
            hint = "Without more space KL divergence is left out; free some, or set kl_spool_bytes in lab.toml."
            return Check(name="Disk", status="warning", detail=detail, hint=hint)
        if need_bytes > free:
            hint = "Free some space, or choose a folder on a larger disk with --outputs."
            return Check(name="Disk", status="problem", detail=detail, hint=hint)
    return Check(name="Disk", status="ok", detail=detail)


def check_power(source: str) -> Check:
    if source == "battery":
        hint = "Plug it in before `labctl bench`: on battery the processor slows down."
        return Check(name="Power", status="warning", detail="on battery", hint=hint)
    return Check(name="Power", status="ok", detail="on mains" if source else "no battery seen")


def check_governor(name: str) -> Check:
    """Under the pstate drivers "powersave" is the normal setting and does not hold the clock down."""
    if name and name.split(maxsplit=1)[0] in ("powersave", "conservative") and "pstate" not in name:
        hint = "Before `labctl bench`: sudo cpupower frequency-set -g performance"
        return Check(name="Clock speed", status="warning", detail=f"governor {name}", hint=hint)
    return Check(name="Clock speed", status="ok", detail=f"governor {name}" if name else "set by the system")


def check_clock(clock_hz: tuple[float, ...], temperature_c: float | None) -> Check:
    """For the record only: what is slow or hot depends on the processor."""
    words = f"{clock_text(clock_hz)} now" if clock_hz else "not readable"
    words += f"; {temperature_c:.0f} °C" if temperature_c is not None else "; no temperature sensor readable"
    return Check(name="Clock and heat", status="ok", detail=words)


def check_load(busy: float | None, busiest: float | None, n_logical: int) -> Check:
    """Load in all, and one core that another program holds: llama.cpp's threads wait for the slowest of them."""
    if busy is None:
        return Check(name="Load", status="ok", detail="not known")
    detail = f"{busy:.1f} of {n_logical} cores busy, the busiest one to {100 * (busiest or 0):.0f} %"
    if busy > max(0.5, 0.15 * n_logical) or (busiest or 0) > BUSY_CORE:
        return Check(name="Load", status="warning", detail=detail, hint="Close other programs before `labctl bench`.")
    return Check(name="Load", status="ok", detail=detail)


def check_hub_at(url: str) -> Check:
    host = urlsplit(url).hostname or url
    reason = unreachable(url)
    if not reason:
        return Check(name="Hugging Face Hub", status="ok", detail=f"{host} answers")
    hint = "Not needed for `--model demo`. For Hub models and WikiText-2 check the network and HTTPS_PROXY."
    return Check(name="Hugging Face Hub", status="warning", detail=f"{host}: {reason}", hint=hint)


def unreachable(url: str, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Why a server cannot be reached, or an empty text if it can. Costs at most `timeout_s`, name look-up included.

    Where a proxy is set for the address, the proxy is tried instead.
    """
    import urllib.request

    outcome: list[str] = []

    def attempt() -> None:
        whose = "its"
        try:
            parts = urlsplit(url)
            host, port, scheme = parts.hostname or "", parts.port, parts.scheme
            proxies = urllib.request.getproxies()
            proxy = proxies.get(scheme) or proxies.get("all")
            if proxy and not urllib.request.proxy_bypass(host):
                whose = "the proxy's"
                parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
                host, port, scheme = parts.hostname or "", parts.port, parts.scheme
            with socket.create_connection((host, port or (443 if scheme == "https" else 80)), timeout=timeout_s):
                outcome.append("")
        except socket.gaierror:
            outcome.append(f"{whose} name cannot be looked up")
        except ValueError:
            outcome.append(f"{whose} address cannot be read")
        except (OSError, RuntimeError) as error:
            outcome.append((getattr(error, "strerror", "") or type(error).__name__).lower())

    thread = threading.Thread(target=attempt, daemon=True)  # a name look-up cannot be given a time limit
    thread.start()
    thread.join(timeout_s)
    return outcome[0] if outcome else f"no answer within {timeout_s:g} s"
