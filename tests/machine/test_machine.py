"""What labctl knows of the computer, and what doctor makes of it."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.machine import cpu
from labctl.machine import fingerprint as m

INTEL = """\
processor	: 0
vendor_id	: GenuineIntel
model name	: 12th Gen Intel(R) Core(TM)  i7-1260P
flags		: fpu vme sse sse2 pni ssse3 fma sse4_1 avx f16c bmi2 avx2 avx_vnni
bugs		: spectre_v1

processor	: 1
model name	: another one
flags		: fpu
"""
SERVER = "flags : avx avx2 fma f16c bmi2 ssse3 avx512f avx512vbmi avx512_vnni avx512_bf16 amx_int8 amx_tile\n"
ARM = """\
processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes asimdhp asimddp sve i8mm bf16
CPU implementer	: 0x41

Hardware	: BCM2835
Model		: Raspberry Pi 5 Model B Rev 1.0
"""


def test_cpuinfo_of_a_laptop() -> None:
    assert cpu.parse_cpu_model(INTEL) == "12th Gen Intel(R) Core(TM)  i7-1260P"
    assert cpu.parse_cpu_features(INTEL) == ("avx", "avx2", "avx_vnni", "bmi2", "f16c", "fma", "ssse3")


def test_cpuinfo_of_a_server() -> None:
    assert cpu.parse_cpu_features(SERVER) == (
        "amx_int8",
        "avx",
        "avx2",
        "avx512",
        "avx512_bf16",
        "avx512_vbmi",
        "avx512_vnni",
        "bmi2",
        "f16c",
        "fma",
        "ssse3",
    )


def test_cpuinfo_of_an_arm_board() -> None:
    assert cpu.parse_cpu_model(ARM) == "Raspberry Pi 5 Model B Rev 1.0"
    assert cpu.parse_cpu_features(ARM) == ("dotprod", "fp16_va", "matmul_int8", "neon", "sve")


def test_macos_spelling() -> None:
    assert cpu.parse_cpu_features("flags : fpu ssse3 fma avx1.0 f16c bmi2 avx2") == (
        "avx",
        "avx2",
        "bmi2",
        "f16c",
        "fma",
        "ssse3",
    )


def test_cpuinfo_that_says_nothing() -> None:
    assert cpu.parse_cpu_model("") == "" and cpu.parse_cpu_features("") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_cpu_model_has_single_spaces_and_a_fallback(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(INTEL)
    assert cpu.cpu_model(tmp_path) == "12th Gen Intel(R) Core(TM) i7-1260P"
    assert cpu.cpu_model(tmp_path / "none")


# -- cores ------------------------------------------------------------------------------------------------------------


def sysfs(root: Path, siblings: list[str], capacity: list[int] | None = None, max_khz: list[int] | None = None) -> Path:
    """A /sys tree; siblings[n] is the mask of threads that share cpu n's core."""
    for number, mask in enumerate(siblings):
        folder = root / f"devices/system/cpu/cpu{number}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings").write_text(mask + "\n")
        if capacity:
            (folder / "cpu_capacity").write_text(f"{capacity[number]}\n")
        if max_khz:
            (folder / "cpufreq").mkdir()
            (folder / "cpufreq/cpuinfo_max_freq").write_text(f"{max_khz[number]}\n")
    (root / "devices/system/cpu/cpufreq").mkdir(parents=True, exist_ok=True)
    return root


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    assert cpu.count_performance_cores(sysfs(tmp_path, ["03", "03", "0c", "0c"])) == 2


def test_cores_without_threads(tmp_path: Path) -> None:
    assert cpu.count_performance_cores(sysfs(tmp_path, ["1", "2", "4", "8"])) == 4


def test_hybrid_intel_counts_performance_cores_only(tmp_path: Path) -> None:
    root = sysfs(tmp_path, ["0003", "0003", "000c", "000c", "0010", "0020", "0040", "0080"])
    (root / "devices/cpu_core").mkdir()
    (root / "devices/cpu_core/cpus").write_text("0-3\n")
    assert cpu.count_performance_cores(root) == 2


def test_hybrid_intel_without_hyperthreading(tmp_path: Path) -> None:
    root = sysfs(tmp_path, [f"{1 << number:02x}" for number in range(8)])
    (root / "devices/cpu_core").mkdir()
    (root / "devices/cpu_core/cpus").write_text("0-1,4-5\n")
    assert cpu.count_performance_cores(root) == 4


def test_big_and_little_cores(tmp_path: Path) -> None:
    masks = [f"{1 << number:02x}" for number in range(8)]
    assert cpu.count_performance_cores(sysfs(tmp_path / "a", masks, capacity=[380] * 4 + [1024] * 4)) == 4
    assert cpu.count_performance_cores(sysfs(tmp_path / "b", masks, max_khz=[1_000_000] * 6 + [2_400_000] * 2)) == 2


def test_slightly_faster_cores_leave_the_others_in(tmp_path: Path) -> None:
    masks = ["1", "2", "4", "8"]
    assert (
        cpu.count_performance_cores(sysfs(tmp_path, masks, max_khz=[5_100_000, 5_000_000, 4_700_000, 5_100_000])) == 4
    )


def test_no_sysfs(tmp_path: Path) -> None:
    assert cpu.count_performance_cores(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8", {0, 1, 2, 3, 8}), ("", set()), ("5", {5}), ("0,2-3\n", {0, 2, 3})]
)
def test_cpu_list(text: str, numbers: set[int]) -> None:
    assert cpu.parse_cpu_list(text) == numbers


@given(st.sets(st.integers(0, 500)))
def test_cpu_list_round_trip(numbers: set[int]) -> None:
    assert cpu.parse_cpu_list(",".join(map(str, sorted(numbers)))) == numbers


@given(st.text(max_size=200))
def test_any_cpuinfo_is_survived(text: str) -> None:
    assert isinstance(cpu.parse_cpu_model(text), str)
    assert set(cpu.parse_cpu_features(text)) <= set(cpu.FEATURES.values())


# -- this computer ----------------------------------------------------------------------------------------------------


def test_fingerprint_agrees_with_psutil_and_repeats() -> None:
    found = m.fingerprint()
    assert found == m.fingerprint()
    assert found.ram_bytes == psutil.virtual_memory().total
    assert found.n_cores_logical == psutil.cpu_count() and found.n_cores_logical >= found.n_cores_physical >= 1
    assert found.cpu_model and found.os and found.arch
    assert len(found.machine_id) == 12 and int(found.machine_id, 16) >= 0


def test_fingerprint_names_neither_host_nor_user() -> None:
    text = repr(m.fingerprint()).lower()
    assert len(socket.gethostname()) < 4 or socket.gethostname().lower() not in text


def test_machine_id_ignores_kernel_and_the_last_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = m.fingerprint().machine_id
    memory = psutil.virtual_memory()
    whole = round(memory.total / 2**30) * 2**30
    monkeypatch.setattr(platform, "release", lambda: "99.9-other")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(total=whole + 50 * 2**20))
    assert m.fingerprint().machine_id == before
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(total=whole + 2**30))
    assert m.fingerprint().machine_id != before


def test_performance_cores_of_this_computer() -> None:
    assert 1 <= cpu.performance_cores() <= (psutil.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no thread affinity here")
def test_no_more_threads_than_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert cpu.performance_cores() == 1


def test_conditions_of_this_computer() -> None:
    now = m.conditions(watch_s=0.05)
    assert now.busy_cores is not None and 0 <= now.busy_cores <= (psutil.cpu_count() or 1)
    assert now.busiest_share is not None and now.busy_cores / (psutil.cpu_count() or 1) <= now.busiest_share <= 1
    assert 0 < now.available_bytes <= psutil.virtual_memory().total
    assert m.conditions(watch_s=0).busy_cores is None


def test_clocks_from_sysfs_and_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\ncpu MHz\t\t: 2600.000\nprocessor : 1\ncpu MHz\t\t: 800.5\n")
    assert m.clocks(tmp_path / "sys", tmp_path) == (2.6e9, 800.5e6)
    for number, khz in ((0, 3_000_000), (1, 1_200_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")
    assert m.clocks(tmp_path / "sys", tmp_path) == (3e9, 1.2e9)


def test_temperature_is_the_hottest_sensor_of_the_processor(tmp_path: Path) -> None:
    assert m.temperature(tmp_path) is None
    for name, chip, values in (("hwmon0", "nvme", (99_000,)), ("hwmon1", "coretemp", (51_000, 67_500, -273_000))):
        folder = tmp_path / "class/hwmon" / name
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{chip}\n")
        for number, value in enumerate(values):
            (folder / f"temp{number}_input").write_text(f"{value}\n")
    assert m.temperature(tmp_path) == 67.5
    zone = tmp_path / "class/thermal/thermal_zone3"
    zone.mkdir(parents=True)
    (zone / "type").write_text("x86_pkg_temp\n")
    (zone / "temp").write_text("70000\n")
    assert m.temperature(tmp_path) == 70.0


def test_cores_of_either_kind(tmp_path: Path) -> None:
    root = sysfs(tmp_path / "a", ["0003", "0003", "000c", "000c", "0010", "0020", "0040", "0080"])
    (root / "devices/cpu_core").mkdir()
    (root / "devices/cpu_core/cpus").write_text("0-3\n")
    assert cpu.linux_core_kinds(root) == (2, 4)
    assert cpu.linux_core_kinds(sysfs(tmp_path / "b", ["1", "2"])) == (2, 0)
    assert cpu.linux_core_kinds(tmp_path / "c") is None


@pytest.mark.parametrize(("plugged", "expected"), [(True, "mains"), (False, "battery"), (None, None)])
def test_power_source(monkeypatch: pytest.MonkeyPatch, plugged: bool | None, expected: str | None) -> None:
    class Status:
        power_plugged = plugged

    monkeypatch.setattr(psutil, "sensors_battery", Status, raising=False)
    assert m.power_source() == expected


def test_power_source_without_a_battery_or_a_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert m.power_source() is None
    monkeypatch.delattr(psutil, "sensors_battery")
    assert m.power_source() is None


def test_governor(tmp_path: Path) -> None:
    assert m.governor(tmp_path) is None
    folder = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_governor").write_text("powersave\n")
    assert m.governor(tmp_path) == "powersave"
    (folder / "scaling_driver").write_text("intel_pstate\n")
    assert m.governor(tmp_path) == "powersave (intel_pstate)"


def test_importing_machine_loads_nothing_heavy() -> None:
    code = "import sys; import labctl.machine.fingerprint; print({'psutil', 'numpy', 'llama_cpp'} & set(sys.modules))"
    root = Path(m.__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"
