"""What the meter sees of other programs, from what Linux writes and on this machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from labctl.machine.disturbance import Meter


def threads(proc: Path, waited_ns: dict[str, int]) -> None:
    """/proc/self/task as Linux has it, each thread with its time of waiting."""
    for name, nanoseconds in waited_ns.items():
        folder = proc / "self/task" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedstat").write_text(f"5000000 {nanoseconds} 17\n", "ascii")


class Clock:
    """psutil's processor times, to be moved on."""

    def __init__(self) -> None:
        self.now: dict[str, float] = {"user": 0.0, "nice": 0.0, "system": 0.0, "idle": 0.0, "steal": 0.0}

    def __call__(self) -> Any:
        return type("times", (), self.now)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(psutil, "cpu_times", clock)
    return clock


@pytest.mark.skipif(os.name == "nt", reason="os.pread is not there")
def test_waiting_of_every_thread_counts_from_the_beginning(tmp_path: Path, clock: Clock) -> None:
    threads(tmp_path, {"7": 1_000_000_000, "8": 0})
    meter = Meter(2, tmp_path, tmp_path)
    meter.begin()
    threads(tmp_path, {"7": 1_250_000_000, "8": 500_000_000, "9": 9_000_000_000})
    assert meter.waited_s() == pytest.approx(1.75)  # a thread made since is not known yet
    seen = meter.end()
    assert seen.waited_s == seen.lost_s == pytest.approx(0.75)
    meter.begin()
    assert meter.end().waited_s == 0
    threads(tmp_path, {"9": 9_250_000_000})
    assert meter.end().waited_s == pytest.approx(0.25)
    meter.close()
    assert meter.waited_s() is None


@pytest.mark.skipif(os.name == "nt", reason="os.pread is not there")
def test_stolen_time_counts_beyond_one_tick(tmp_path: Path, clock: Clock) -> None:
    threads(tmp_path, {"7": 0})
    meter = Meter(2, tmp_path, tmp_path)
    meter.begin()
    clock.now["steal"] = 0.01
    assert (meter.end().stolen_s, meter.end().lost_s) == (0.01, 0.0)
    clock.now["steal"] = 0.05
    assert (meter.end().stolen_s, meter.end().lost_s) == (0.05, 0.05)
    meter.close()


def test_without_waiting_told_other_programs_are_set_against_the_free_cores(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    moments = iter([0.0, 10.0, 20.0, 20.0, 30.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    meter = Meter(2, tmp_path, tmp_path)
    meter.begin()
    clock.now["user"] += 15.0  # over ten seconds: one and a half of the two cores that two threads leave
    seen = meter.end()
    assert seen.waited_s is None and seen.lost_s == 0 and seen.others_s == pytest.approx(15, abs=1)
    meter.begin()
    clock.now["user"] += 25.0
    assert meter.end().lost_s == pytest.approx(5, abs=1)


def test_throttling_is_read_and_told(tmp_path: Path) -> None:
    for core in (0, 1):
        folder = tmp_path / f"devices/system/cpu/cpu{core}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text("3\n", "ascii")
    meter = Meter(1, tmp_path, tmp_path)
    meter.begin()
    assert meter.end().n_throttled == 0
    (tmp_path / "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count").write_text("5\n", "ascii")
    assert meter.end().n_throttled == 2


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="schedstat is Linux's")
def test_a_program_on_the_same_core_is_seen() -> None:
    """Both are held to one core, so that one of them waits whatever else this machine does."""
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    other = multiprocessing.get_context("spawn").Process(target=_spin, args=(60.0,), daemon=True)
    other.start()
    try:
        assert other.pid is not None
        os.sched_setaffinity(other.pid, {core})
        os.sched_setaffinity(0, {core})
        meter = Meter(1)
        meter.begin()
        _spin(1.0)
        seen = meter.end()
        meter.close()
    finally:
        os.sched_setaffinity(0, before)
        other.kill()
        other.join()
    assert seen.waited_s is not None and seen.waited_s > 0.02
    assert seen.lost_s >= seen.waited_s and seen.n_preempted
