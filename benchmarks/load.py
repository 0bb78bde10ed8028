"""A laptop in use, as a program: one core busy half of the time, in bursts of 0.2 to 2 seconds.

    python -m benchmarks.load 60

It ends by itself after the seconds given, and with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BURST_S = (0.2, 2.0)
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def load(*, seed: int, most_s: float) -> Iterator[None]:
    """Beside what is done within, keep a core busy half of the time; most_s seconds at most."""
    command = [sys.executable, "-m", "benchmarks.load", str(most_s), str(seed)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield
        finally:
            process.kill()


def bursts(seed: int) -> Iterator[tuple[float, float]]:
    """Seconds busy and seconds idle, in turn; both are of one distribution, so half of the time is busy."""
    draw = random.Random(seed)
    while True:
        yield draw.uniform(*BURST_S), draw.uniform(*BURST_S)


def run(most_s: float, seed: int) -> None:
    """Do it; ends when the parent has ended."""
    parent, over_at = os.getppid(), time.monotonic() + most_s
    for busy_s, idle_s in bursts(seed):
        until = min(over_at, time.monotonic() + busy_s)
        while time.monotonic() < until:
            sum(range(2000))
        if time.monotonic() >= over_at or os.getppid() != parent:
            return
        time.sleep(min(idle_s, max(0.0, over_at - time.monotonic())))


if __name__ == "__main__":
    run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
