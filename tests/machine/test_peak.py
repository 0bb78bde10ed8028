"""Peak memory by each system's own count, and against what is seen from outside."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from labctl.errors import LabError
from labctl.executors.base import AnyEvent, Result
from labctl.machine import memory
from labctl.machine.memory import linux_peak, macos_peak, peak_rss_bytes, status_bytes, windows_peak
from labctl.steps.memory.record import MemoryLoad, MemoryTask

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_linux_takes_vmhwm_and_says_when_it_is_not_there(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmPeak:\t  999999 kB\nVmHWM:\t    4321 kB\nVmRSS:\t    1234 kB\n", "ascii")
    assert linux_peak(status) == 4321 * 1024
    with pytest.raises(LabError):
        linux_peak(tmp_path / "none")


def test_macos_counts_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = types.SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss={0: 123_456_789}[who])
    )
    monkeypatch.setitem(sys.modules, "resource", resource)
    assert macos_peak() == 123_456_789


def test_windows_takes_the_peak_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def memory_info(self) -> Any:
            return types.SimpleNamespace(rss=1, peak_wset=987_654_321, pagefile=2, peak_pagefile=3)

    monkeypatch.setattr(psutil, "Process", Process)
    assert windows_peak() == 987_654_321


@pytest.mark.parametrize(("platform", "name"), [("win32", "windows"), ("darwin", "macos"), ("linux", "linux")])
def test_each_system_has_its_own(monkeypatch: pytest.MonkeyPatch, platform: str, name: str) -> None:
    for number, one in enumerate(("windows", "macos", "linux")):
        monkeypatch.setattr(memory, f"{one}_peak", lambda number=number: number)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_rss_bytes() == ("windows", "macos", "linux").index(name)


@linux
@pytest.mark.parametrize(("label", "mmap"), [("F16", False), ("Q4_K_M", False), ("Q4_K_M", True)])
def test_the_record_agrees_with_vmhwm_read_from_outside(quantized: Any, label: str, mmap: bool) -> None:
    task = MemoryTask(model_path=str(quantized.paths[label]), format=label, n_threads=1, n_ctx=512, mmap=mmap)
    child = subprocess.Popen(
        [sys.executable, "-m", "labctl.executors.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(task.line())
    child.stdin.flush()
    seen = 0
    status = Path(f"/proc/{child.pid}/status")
    with child, child.stdout:
        while child.poll() is None:
            seen = max(seen, status_bytes("VmHWM", status) or 0)
        line = child.stdout.readlines()[-1]
    event = msgspec.json.decode(line, type=AnyEvent)
    assert isinstance(event, Result)
    found = msgspec.json.decode(event.record, type=MemoryLoad)
    assert found.peak_rss_bytes == pytest.approx(seen, rel=0.01)
