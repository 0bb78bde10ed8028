"""Limits of containers, from trees as /proc and /sys show them, and in a namespace where this system allows one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from labctl.machine import cgroups, checks, cpu
from labctl.machine import fingerprint as machine
from labctl.records.base import Machine
from labctl.steps.bench import step as rounds

GB = 1 << 30
UNLIMITED = 9223372036854771712
V1 = "30 25 0:27 {root} /sys/fs/cgroup/{name} rw,nosuid - cgroup cgroup rw,{name}\n"
V2 = "42 32 0:38 {root} {mount} rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate\n"


class Tree:
    """A fake /proc and /sys."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.sys = folder / "proc", folder / "sys"
        (self.proc / "self").mkdir(parents=True)
        (self.sys / "fs/cgroup").mkdir(parents=True)

    def own(self, groups: str, mounts: str) -> Tree:
        (self.proc / "self/cgroup").write_text(groups, "utf-8")
        (self.proc / "self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts, "utf-8")
        return self

    def put(self, group: str, **files: object) -> Tree:
        folder = self.sys / "fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name.replace("__", ".")).write_text(f"{value}\n", "utf-8")
        return self

    def found(self) -> tuple[float | None, int | None, int | None]:
        """Cores, memory, memory left."""
        places = (self.proc, self.sys)
        return (cgroups.core_quota(*places), cgroups.memory_limit_bytes(*places), cgroups.memory_left_bytes(*places))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_nothing_to_read_is_no_limit(tree: Tree, tmp_path: Path) -> None:
    assert tree.found() == (None, None, None)
    assert cgroups.core_quota(tmp_path / "no", tmp_path / "no") is None
    tree.own("garbage\n0::\n::::\n", "42 32\n - \n42 - cgroup2\n")
    assert tree.found() == (None, None, None)


def test_version_2_own_group_and_parents(tree: Tree) -> None:
    tree.own("0::/user.slice/user-7.slice/lab.scope\n", V2.format(root="/", mount="/sys/fs/cgroup"))
    tree.put("user.slice/user-7.slice/lab.scope", memory__max="max", cpu__max="max 100000")
    assert tree.found() == (None, None, None)
    tree.put("user.slice", memory__max=8 * GB, memory__current=GB, cpu__max="150000 100000")
    assert tree.found() == (1.5, 8 * GB, 7 * GB)
    stat = f"anon 5\nfile {GB}\ninactive_file {GB // 2}\nactive_file {GB // 4}\nshmem {GB // 4}"
    tree.put("user.slice/user-7.slice", memory__max=4 * GB, memory__current=2 * GB, memory__stat=stat)
    assert tree.found() == (1.5, 4 * GB, 4 * GB - (2 * GB - 3 * GB // 4))
    tree.put("user.slice/user-7.slice/lab.scope", memory__high=3 * GB, cpu__max="50000 100000")
    assert tree.found()[:2] == (0.5, 3 * GB)


def test_version_2_in_a_container_with_a_namespace_of_its_own(tree: Tree) -> None:
    tree.own("0::/\n", V2.format(root="/", mount="/sys/fs/cgroup"))
    tree.put("", memory__max=2 * GB, memory__current=3 * GB, cpu__max="400000 100000")
    assert tree.found() == (4.0, 2 * GB, 0)


def test_version_1_with_the_paths_of_the_host(tree: Tree) -> None:
    """Docker without a namespace: the mount's root is the container's group, the path is the host's."""
    group = "/docker/0123abcd"
    mounts = "".join(V1.format(root=group, name=name) for name in ("memory", "cpu,cpuacct", "pids"))
    tree.own(f"9:pids:{group}\n4:memory:{group}\n3:cpu,cpuacct:{group}\n1:name=systemd:{group}\n", mounts)
    stat = f"cache 5\ninactive_file 7\ntotal_inactive_file {GB}\ntotal_active_file 0"
    tree.put("memory", memory__limit_in_bytes=4 * GB, memory__usage_in_bytes=2 * GB, memory__stat=stat)
    tree.put("cpu,cpuacct", cpu__cfs_quota_us=250_000, cpu__cfs_period_us=100_000)
    assert tree.found() == (2.5, 4 * GB, 3 * GB)


def test_version_1_parents_and_what_it_calls_unlimited(tree: Tree) -> None:
    tree.own("4:memory:/a/b\n3:cpu:/a/b\n", V1.format(root="/", name="memory") + V1.format(root="/", name="cpu"))
    tree.put("memory/a/b", memory__limit_in_bytes=UNLIMITED, memory__usage_in_bytes=GB)
    tree.put("cpu/a/b", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    assert tree.found() == (None, None, None)
    tree.put("memory/a", memory__limit_in_bytes=2 * GB, memory__usage_in_bytes=GB)
    tree.put("cpu/a", cpu__cfs_quota_us=100_000, cpu__cfs_period_us=50_000)
    assert tree.found() == (2.0, 2 * GB, GB)
    # A parent that cannot be seen: the group's own statistics name its limit.
    tree.put("memory/a/b", memory__stat=f"cache 1\nhierarchical_memory_limit {GB}")
    assert tree.found()[1] == GB


def test_both_versions_at_once(tree: Tree) -> None:
    mounts = V1.format(root="/", name="memory") + V2.format(root="/", mount="/sys/fs/cgroup/unified")
    tree.own("4:memory:/box\n0::/box\n", mounts)
    tree.put("memory/box", memory__limit_in_bytes=GB, memory__usage_in_bytes=0)
    tree.put("unified/box", cpu__max="100000 100000")
    assert tree.found() == (1.0, GB, GB)


def test_a_folder_with_blanks_and_a_path_that_leaves_its_root(tree: Tree, tmp_path: Path) -> None:
    place = tmp_path / "my groups"
    (place / "box").mkdir(parents=True)
    (place / "box/cpu.max").write_text("200000 100000\n", "utf-8")
    mount = V2.format(root="/", mount=str(place).replace(" ", "\\040"))
    assert tree.own("0::/box\n", mount).found()[0] == 2.0
    assert tree.own("0::/../../box\n", mount).found()[0] is None


def test_limits_without_a_mount_that_says_so(tree: Tree) -> None:
    assert tree.put("", memory__max=GB, cpu__max="100000 100000").found() == (1.0, GB, GB)


# -- what is made of them ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize(
    ("quota", "mask", "threads", "limit"),
    [(None, 8, 4, 0.0), (2.9, 8, 2, 2.9), (0.5, 8, 1, 0.5), (16.0, 8, 4, 0.0), (3.0, 2, 1, 2.0), (None, 6, 3, 6.0)],
)
def test_threads_by_quota_and_mask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: float | None, mask: int, threads: int, limit: float
) -> None:
    """Four cores of two threads each; a mask of two leaves both threads of one core."""
    for number in range(8):
        folder = tmp_path / f"devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings").write_text(f"{3 << number // 2 * 2:02x}\n", "utf-8")
    monkeypatch.setattr(cpu, "core_quota", lambda: quota)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(mask)))
    real = cpu.count_performance_cores
    monkeypatch.setattr(cpu, "count_performance_cores", lambda allowed: real(tmp_path, allowed))
    assert (cpu.performance_cores(), cpu.core_limit()) == (threads, limit)


def test_memory_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = psutil.virtual_memory().total
    before = machine.fingerprint()
    monkeypatch.setattr(machine, "memory_limit_bytes", lambda: GB)
    monkeypatch.setattr(machine, "memory_left_bytes", lambda: GB // 4)
    monkeypatch.setattr(machine, "core_limit", lambda: 1.5)
    now = machine.fingerprint()
    assert (machine.total_memory_bytes(), machine.free_memory_bytes()) == (GB, GB // 4)
    assert (now.ram_bytes, now.ram_limit_bytes, now.usable_ram_bytes) == (whole, GB, GB)
    assert now.machine_id == before.machine_id  # perplexity is the same in a container
    assert now.limits == "limited to 1.5 cores and 1.0 GiB RAM"
    assert machine.conditions(watch_s=0).available_bytes == GB // 4
    assert (before.usable_ram_bytes, before.limits) == (before.ram_limit_bytes or whole, before.limits)
    checked = checks.doctor(ram_need_bytes=GB // 2, disk_need_bytes=None, outputs=Path(), system_info=None)
    found = {check.name: check for check in checked}
    assert found["Memory"].status == "warning"
    assert "268 MB of 1.07 GB free (this process may use no more" in found["Memory"].detail
    assert "this process may use 1.5" in found["Cores"].detail
    assert checks.check_ram(whole, whole, 2 * GB, GB).status == "problem"


def test_speeds_under_a_limit_are_other_speeds(open_lab: Any, lab_copy: Path) -> None:
    import dataclasses

    lab = open_lab(lab_copy, threads=1)
    limited = dataclasses.replace(lab, machine=dataclasses.replace(lab.machine, core_limit=0.5))
    free = dataclasses.replace(lab, machine=dataclasses.replace(lab.machine, core_limit=0.0))
    assert rounds.bench_key(free, free.formats) != rounds.bench_key(limited, limited.formats)
    assert rounds._thread_notice(free) == rounds._thread_notice(limited) == ()
    (notice,) = rounds._thread_notice(dataclasses.replace(limited, n_threads=2))
    assert "2 threads computed where this process may use 0.5 of" in notice


def test_a_machine_of_an_older_record_has_no_limits() -> None:
    import msgspec

    old = {"machine_id": "a", "os": "", "arch": "", "cpu_model": "", "n_cores_physical": 1, "n_cores_logical": 1}
    assert msgspec.convert({**old, "ram_bytes": 5, "cache_bytes": 9}, Machine).limits == ""


IN_A_CONTAINER = """
mount -t tmpfs tmpfs /sys/fs/cgroup || exit 77
echo 2147483648 >/sys/fs/cgroup/memory.max
echo "100000 100000" >/sys/fs/cgroup/cpu.max
ulimit -v {ulimit}
exec "$@"
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
@pytest.mark.parametrize("ulimit", ["unlimited", "1500000"])
def test_doctor_in_a_namespace(cli: Any, small_lab: Path, ulimit: str) -> None:
    """Limits as a container shows them, around the real command."""
    program = [sys.executable, "-c", "from labctl.__main__ import main; main()", "doctor", "--no-hub", "--json"]
    done = subprocess.run(
        [
            "unshare",
            "-m" if os.geteuid() == 0 else "-rm",
            "bash",
            "-c",
            IN_A_CONTAINER.format(ulimit=ulimit),
            "-",
            *program,
        ],
        cwd=small_lab,
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this system allows no mounts in a namespace")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    total = "2.15" if ulimit == "unlimited" else "1.54"
    assert f" of {total} GB free (this process may use no more" in found["Memory"]["detail"], done.stderr
    if (os.cpu_count() or 1) > 1:
        assert "this process may use 1 (" in found["Cores"]["detail"]
    assert "uses 1" in found["Cores"]["detail"]
