"""A small parent for one timed process; run as a script, with nothing but the standard library.

Linux lets a process inherit the peak memory of the one that started it, across exec. Started from the harness, with
numpy and labctl in memory, every child would report at least that; started from here, at most these few megabytes.
"""

import json
import os
import signal
import sys
import time


def own_peak_bytes() -> int:
    """This process's own high-water mark: what a child may inherit. Its ru_maxrss would include its parent's."""
    try:
        with open("/proc/self/status", encoding="ascii") as stream:  # noqa: PTH123
            return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return 0


def main() -> int:
    """Run the job described in argv[1] (JSON), write wall time, processor time and peak memory to argv[2]."""
    with open(sys.argv[1], encoding="utf-8") as stream:  # noqa: PTH123 - pathlib would double this process
        job = json.load(stream)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    read_end, write_end = os.pipe()
    os.write(write_end, job["stdin"].encode())
    actions = [
        (os.POSIX_SPAWN_DUP2, read_end, 0),
        (os.POSIX_SPAWN_OPEN, 1, job["stdout"], flags, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, job["stderr"], flags, 0o644),
    ]
    os.chdir(job["cwd"])
    floor = own_peak_bytes()
    begun = time.perf_counter()
    child = os.posix_spawn(job["argv"][0], job["argv"], job["env"], file_actions=actions)
    os.close(read_end)
    if not job["stdin"]:
        os.close(write_end)  # a tool reads an empty stdin; labctl's child takes a closed one for its parent's death
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
    _, status, usage = os.wait4(child, 0)
    wall_s = time.perf_counter() - begun
    unit = 1 if sys.platform == "darwin" else 1024
    result = {
        "status": os.waitstatus_to_exitcode(status),
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * unit,
        "floor_bytes": floor,
    }
    with open(sys.argv[2], "w", encoding="utf-8") as stream:  # noqa: PTH123
        json.dump(result, stream)
    return 0


if __name__ == "__main__":
    sys.exit(main())
