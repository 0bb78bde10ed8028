"""This computer: what a figure was measured on, and the state it was in."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from labctl.machine.cgroups import PROC, SYS, memory_left_bytes, memory_limit_bytes, read_text
from labctl.machine.cpu import core_kinds, core_limit, cpu_features, cpu_model
from labctl.records.base import Machine
from labctl.records.hardware import Conditions


def fingerprint() -> Machine:
    """Describe this computer. Holds no serial number, user or host name.

    Returns: a record whose `machine_id` depends on processor, cores, memory (to the GiB) and kind of system only; a
            container's limits are told beside it, since they change speeds but no perplexity.
    """
    import psutil

    logical = psutil.cpu_count(logical=True) or os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    ram_bytes = int(psutil.virtual_memory().total)
    system, arch = platform.system(), platform.machine()
    model = cpu_model()
    # Kernel updates move the last megabytes of usable memory; the machine stays the same one.
    identity = "|".join((model, str(physical), str(logical), str(round(ram_bytes / 2**30)), arch, system))
    strong, weak = core_kinds()
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
        n_cores_performance=strong,
        n_cores_efficiency=weak,
        core_limit=core_limit(),
        ram_limit_bytes=limit if (limit := total_memory_bytes()) < ram_bytes else 0,
    )


def total_memory_bytes() -> int:
    """Memory that this process can have: the machine's, or what a container or `ulimit -v` leaves of it."""
    import psutil

    limits = (int(psutil.virtual_memory().total), memory_limit_bytes(), _address_space_bytes())
    return min(limit for limit in limits if limit is not None)


def free_memory_bytes() -> int:
    """Memory that is free now: the machine's, or what is left of a container's."""
    import psutil

    limits = (int(psutil.virtual_memory().available), memory_left_bytes(), _address_space_bytes())
    return min(limit for limit in limits if limit is not None)


def _address_space_bytes() -> int | None:
    """The limit on a process's address space that it cannot lift itself; None without one."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    return None if limit == resource.RLIM_INFINITY else limit


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
    name, driver = read_text(folder / "scaling_governor"), read_text(folder / "scaling_driver")
    return f"{name} ({driver})" if name and driver else name


def clock_text(clock_hz: Sequence[float]) -> str:
    """The cores' clocks in GHz, as a range where they differ; empty where the system does not tell."""
    ends = dict.fromkeys(f"{hz / 1e9:.2f}" for hz in (min(clock_hz), max(clock_hz))) if clock_hz else {}
    return f"{' to '.join(ends)} GHz" if ends else ""


def conditions(*, watch_s: float = 0.3) -> Conditions:
    """What moves a timing, now.

    Args:
        watch_s: seconds to watch how busy the cores are; labctl itself should be idle meanwhile. 0: not looked at.
    """
    shares = busy_shares(watch_s) if watch_s > 0 else ()
    return Conditions(
        taken_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        power=power_source() or "",
        governor=governor() or "",
        clock_hz=clocks(),
        temperature_c=temperature(),
        busy_cores=sum(shares) if shares else None,
        busiest_share=max(shares, default=None),
        available_bytes=free_memory_bytes(),
    )


def busy_shares(watch_s: float) -> tuple[float, ...]:
    """How busy each logical core is while it is watched, 0..1; empty where the system does not tell."""
    import psutil

    with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
        return tuple(share / 100 for share in psutil.cpu_percent(interval=watch_s, percpu=True))
    return ()


def clocks(sys_root: Path = SYS, proc: Path = PROC) -> tuple[float, ...]:
    """Current clock of each logical core in Hz, as Linux tells it, or the system's one figure; empty if none."""
    folders = sorted((sys_root / "devices/system/cpu").glob("cpu[0-9]*"), key=lambda path: int(path.name[3:] or 0))
    texts = [read_text(folder / "cpufreq/scaling_cur_freq") or "" for folder in folders]
    if texts and all(text.isdigit() for text in texts):
        return tuple(1e3 * int(text) for text in texts)
    megahertz = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", read_text(proc / "cpuinfo") or "", re.MULTILINE)
    if megahertz:
        return tuple(1e6 * float(text) for text in megahertz)
    import psutil

    with contextlib.suppress(OSError, RuntimeError, NotImplementedError, AttributeError):
        now = psutil.cpu_freq()
        return (1e6 * now.current,) if now is not None and now.current else ()
    return ()


def temperature(sys_root: Path = SYS) -> float | None:
    """The hottest of the processor's own sensors in degrees Celsius; None where there is none to read."""
    found: list[float] = []
    for folder in (sys_root / "class/hwmon").glob("hwmon*"):
        if (read_text(folder / "name") or "") in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            found += [int(text) / 1000 for path in folder.glob("temp*_input") if _whole(text := read_text(path) or "")]
    for folder in (sys_root / "class/thermal").glob("thermal_zone*"):
        kind = read_text(folder / "type") or ""
        if re.search(r"x86_pkg_temp|cpu|soc", kind, re.IGNORECASE) and _whole(text := read_text(folder / "temp") or ""):
            found.append(int(text) / 1000)
    # A sensor that is switched off reads far below freezing.
    return max((one for one in found if -40 < one < 150), default=None)


def _whole(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None
