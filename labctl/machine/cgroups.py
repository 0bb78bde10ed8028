"""What a container lets this process have: limits of control groups (versions 1 and 2), of its own and all parents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC, SYS = Path("/proc"), Path("/sys")
_UNLIMITED = 1 << 60  # version 1 writes the largest page-aligned number for "no limit"


def read_text(path: Path) -> str | None:
    """A small file's text without the blanks around it; None if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def core_quota(proc: Path = PROC, sys_root: Path = SYS) -> float | None:
    """How many cores' time the groups allow this process, such as 1.5; None without a limit."""
    quotas = []
    for folder in _groups("cpu", proc, sys_root):
        words = (read_text(folder / "cpu.max") or "").split()
        if len(words) != 2:
            words = [read_text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        if all(word.isdigit() and int(word) > 0 for word in words):  # "max", -1: no limit
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit_bytes(proc: Path = PROC, sys_root: Path = SYS) -> int | None:
    """How much memory the groups allow this process and those beside it; None without a limit."""
    return min((limit for limit, _ in _memory(proc, sys_root)), default=None)


def memory_left_bytes(proc: Path = PROC, sys_root: Path = SYS) -> int | None:
    """What is left of it, files in memory that can be dropped counted as free; None without a limit."""
    return min((max(0, limit - used) for limit, used in _memory(proc, sys_root)), default=None)


def _memory(proc: Path, sys_root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes of each group that has a limit."""
    for folder in _groups("memory", proc, sys_root):
        stat = dict(re.findall(r"^(\w+) (\d+)$", read_text(folder / "memory.stat") or "", re.MULTILINE))
        names = ("memory.max", "memory.high", "memory.limit_in_bytes")
        found = [read_text(folder / name) or "" for name in names] + [stat.get("hierarchical_memory_limit", "")]
        limits = [int(text) for text in found if text.isdigit() and int(text) < _UNLIMITED]
        if limits:
            used = read_text(folder / "memory.current") or read_text(folder / "memory.usage_in_bytes") or ""
            start = "total_" if "total_inactive_file" in stat else ""
            cached = sum(int(stat.get(f"{start}{kind}_file", 0)) for kind in ("inactive", "active"))
            yield min(limits), max(0, int(used) - cached) if used.isdigit() else 0


def _groups(controller: str, proc: Path, sys_root: Path) -> list[Path]:
    """Folders of the groups that this process is in, its own first, where they can be seen."""
    paths: dict[str, str] = {}  # controller, or "" for version 2 -> path of the group
    for line in (read_text(proc / "self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        paths |= dict.fromkeys(names.split(",") if number != "0" else [""], path)
    found: dict[Path, None] = {}
    for kind, root, mount in _mounts(proc, sys_root):
        group = paths.get("" if "cgroup2" in kind else controller)
        if group is not None and ("cgroup2" in kind or controller in kind):
            inside = PurePosixPath(group)
            # In a container the mount's root is the container's own group, and the path is as the host sees it.
            own = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
            folders = [mount / part for part in (own, *own.parents) if ".." not in part.parts]
            found |= dict.fromkeys(folders)
    # Where the mounts tell nothing: the usual places.
    usual = sys_root / "fs/cgroup"
    found |= dict.fromkeys((usual, usual / controller, usual / "cpu,cpuacct" if controller == "cpu" else usual))
    return list(found)


def _mounts(proc: Path, sys_root: Path) -> Iterator[tuple[set[str], str, Path]]:
    """Mounted hierarchies: their controllers or "cgroup2", the group that is the mount's root, and where it is."""
    for line in (read_text(proc / "self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        places, kind = before.split(), after.split()
        if len(places) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        root, mount = (re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), one) for one in places[3:5])
        folder = sys_root / mount.removeprefix("/sys/") if mount.startswith("/sys/") else Path(mount)
        yield {kind[0], *kind[2].split(",")}, root, folder
