"""What other programs take from a computation while it is timed: cores, stolen time, heat."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from labctl.machine.cgroups import PROC, SYS, read_text
from labctl.machine.fingerprint import clocks
from labctl.records.hardware import Disturbance

_BUSY = ("user", "nice", "system", "irq", "softirq")  # guests are in `user`; on Windows interrupts are in `system`
_TICK_S = 0.016
"""What processor times are told in: 10 ms on Linux and macOS, 15.6 ms on Windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    at: float
    waited_s: float | None
    stolen_s: float | None
    busy_s: float
    own_s: float
    n_preempted: int | None
    n_throttled: int | None


class Meter:
    """Watches what this process's threads miss of the processor.

    Linux tells for each thread how long it was ready to run and had no core, in nanoseconds (schedstat); elsewhere the
    processor time of other programs is set against the cores that a computation leaves to them.
    """

    def __init__(self, n_threads: int, proc: Path = PROC, sys_root: Path = SYS) -> None:
        """n_threads: how many compute."""
        self._proc, self._sys, self._n_threads = proc, sys_root, n_threads
        self._n_cores = os.cpu_count() or 1
        self._files: dict[str, int] = {}
        self._waited_ns: dict[str, int] = {}
        self._gone_ns = 0
        self._before = self._now()

    def begin(self) -> None:
        """From now on; threads that were made since are watched, too."""
        self._watch_threads()
        self._before = self._now()

    def waited_s(self) -> float | None:
        """Seconds that the threads known at `begin` have waited for a core so far; None where it is not told.

        One read a thread, about a microsecond each: it may be asked after every token.
        """
        if not self._files:
            return None
        for thread, file in list(self._files.items()):
            try:
                self._waited_ns[thread] = int(os.pread(file, 80, 0).split()[1])
            except (OSError, ValueError, IndexError):  # the thread has ended
                self._gone_ns += self._waited_ns.pop(thread, 0)
                os.close(self._files.pop(thread))
        return (self._gone_ns + sum(self._waited_ns.values())) / 1e9

    def end(self) -> Disturbance:
        """What went on since `begin`."""
        before, now = self._before, self._now()
        waited_s = _less(now.waited_s, before.waited_s)
        stolen_s = _less(now.stolen_s, before.stolen_s)
        others_s = max(0.0, (now.busy_s - before.busy_s) - (now.own_s - before.own_s))
        n_preempted, n_throttled = now.n_preempted, now.n_throttled
        if waited_s is not None:
            # A single step of stolen time may be of before, and of less than it says.
            lost_s = waited_s + (stolen_s or 0.0) * ((stolen_s or 0.0) > _TICK_S)
        else:
            left_s = max(0, self._n_cores - self._n_threads) * (now.at - before.at)
            lost_s = max(0.0, others_s - left_s - _TICK_S)
        hz = clocks(self._sys, self._proc)
        return Disturbance(
            lost_s=round(lost_s, 6),
            waited_s=None if waited_s is None else round(waited_s, 6),
            stolen_s=None if stolen_s is None else round(stolen_s, 3),
            others_s=round(others_s, 3),
            n_preempted=None if n_preempted is None else n_preempted - (before.n_preempted or 0),
            n_throttled=None if n_throttled is None else n_throttled - (before.n_throttled or 0),
            clock_hz=round(sum(hz) / len(hz), -6) if hz else None,
        )

    def close(self) -> None:
        """Leave the threads alone."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _watch_threads(self) -> None:
        folder = self._proc / "self" / "task"
        with contextlib.suppress(OSError):
            for thread in folder.iterdir():
                if thread.name not in self._files:
                    with contextlib.suppress(OSError):
                        self._files[thread.name] = os.open(thread / "schedstat", os.O_RDONLY)

    def _now(self) -> _Moment:
        import psutil

        times = psutil.cpu_times()
        own = os.times()
        return _Moment(
            at=time.perf_counter(),
            waited_s=self.waited_s(),
            stolen_s=getattr(times, "steal", None),
            busy_s=sum(getattr(times, name, 0.0) for name in _BUSY),
            own_s=own.user + own.system,
            n_preempted=_n_preempted(),
            n_throttled=self._n_throttled(),
        )

    def _n_throttled(self) -> int | None:
        """Source: Linux, Documentation/ABI/testing/sysfs-devices-system-cpu, core_throttle_count."""
        texts = [
            read_text(path)
            for path in (self._sys / "devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
        ]
        counts = [int(text) for text in texts if text is not None and text.isdigit()]
        return sum(counts) if counts else None


def _n_preempted() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _less(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else max(0.0, now - before)
