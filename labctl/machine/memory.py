"""Peak and resident memory of this process, by each system's own count."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from labctl.errors import LabError


def peak_rss_bytes() -> int:
    """High-water mark of this process's resident memory, by what each system counts it with."""
    if sys.platform == "win32":
        return windows_peak()
    if sys.platform == "darwin":
        return macos_peak()
    return linux_peak()


def linux_peak(status: Path = Path("/proc/self/status")) -> int:
    """VmHWM. Not ru_maxrss, which a child inherits from its parent across exec.

    Raises:
        LabError: /proc does not tell.
    """
    peak = status_bytes("VmHWM", status)
    if peak is None:
        raise LabError(f"{status} does not tell the peak memory (VmHWM).", "Measure where /proc is mounted.")
    return peak


def macos_peak() -> int:
    """ru_maxrss, which macOS counts in bytes (Linux: KiB) and does not inherit."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def windows_peak() -> int:
    """Peak working set, GetProcessMemoryInfo's PeakWorkingSetSize."""
    import psutil

    found: Any = psutil.Process().memory_info()
    return int(found.peak_wset)


def resident_parts() -> tuple[int | None, int | None]:
    """Resident bytes that belong to no file, and those mapped from files; None where the system does not tell."""
    return status_bytes("RssAnon"), status_bytes("RssFile")


def status_bytes(field: str, status: Path = Path("/proc/self/status")) -> int | None:
    """A field of /proc/<pid>/status in bytes (the kernel writes kB and means KiB); None where it is not there."""
    try:
        for line in status.read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def current_rss_bytes() -> int:
    """Resident memory now."""
    if (resident := status_bytes("VmRSS")) is not None:
        return resident
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)


def give_back_memory() -> None:
    """Return what was freed to the system, so that it does not count beside what comes next.

    glibc keeps freed memory for later; the tokenizer leaves some 10 MB of it behind. Elsewhere nothing is done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
