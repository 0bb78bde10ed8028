"""What doctor checks, each check at its limits, and whether the Hub can be reached."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from labctl.machine import checks, cpu
from labctl.machine import fingerprint as m
from labctl.records.base import Machine

LAPTOP = "flags : fpu vme sse sse2 pni ssse3 fma sse4_1 avx f16c bmi2 avx2 avx_vnni\n"
BUILT = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | AVX512 = 0 | REPACK = 1 | "


def test_features_that_llama_cpp_leaves_unused() -> None:
    laptop = cpu.parse_cpu_features(LAPTOP)
    found = checks.check_features(laptop, BUILT)
    assert found.status == "warning" and found.detail.endswith("built without avx_vnni") and found.hint
    assert checks.check_features(tuple(set(laptop) - {"avx_vnni"}), BUILT).status == "ok"
    assert checks.check_features(("avx", "avx512"), BUILT).detail.endswith("built without avx512")  # present, but 0


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (checks.check_python((3, 10, 0), True), "ok"),
        (checks.check_python((3, 9, 18), True), "problem"),
        (checks.check_python((3, 12, 1), False), "problem"),
        (checks.check_ram(16 * 10**9, 10 * 10**9, None), "ok"),
        (checks.check_ram(16 * 10**9, 10 * 10**9, 10 * 10**9), "ok"),
        (checks.check_ram(16 * 10**9, 10 * 10**9, 10 * 10**9 + 1), "warning"),
        (checks.check_ram(16 * 10**9, 10 * 10**9, 17 * 10**9), "problem"),
        (checks.check_power("battery"), "warning"),
        (checks.check_power("mains"), "ok"),
        (checks.check_power(""), "ok"),
        (checks.check_governor("powersave (acpi-cpufreq)"), "warning"),
        (checks.check_governor("powersave (intel_pstate)"), "ok"),
        (checks.check_governor("powersave (amd-pstate-epp)"), "ok"),
        (checks.check_governor("schedutil"), "ok"),
        (checks.check_governor(""), "ok"),
        (checks.check_load(None, None, 8), "ok"),
        (checks.check_load(1.1, 0.3, 8), "ok"),
        (checks.check_load(1.3, 0.3, 8), "warning"),
        (checks.check_load(0.4, 0.3, 2), "ok"),
        (checks.check_load(0.6, 0.3, 2), "warning"),
        (checks.check_load(0.7, 0.65, 16), "warning"),
        (checks.check_load(0.7, 0.6, 16), "ok"),
    ],
)
def test_check(check: checks.Check, status: str) -> None:
    assert check.status == status
    assert bool(check.hint) == (status != "ok") and "\n" not in check.detail + check.hint


def test_check_disk(tmp_path: Path) -> None:
    later = tmp_path / "not" / "there" / "yet"
    assert checks.check_disk(later, None).status == "ok" and str(tmp_path) in checks.check_disk(later, None).detail
    assert checks.check_disk(later, 1).status == "ok"
    assert checks.check_disk(later, 10**18).status == "problem"


def test_check_llama_knows_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_llama().status == "ok"

    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    found = checks.check_llama()
    assert found.status == "problem" and "a C++ compiler is here (g++)" in found.detail and checks.WHEELS in found.hint


def test_check_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    laptop = Machine(
        machine_id="", os="", arch="", cpu_model="CPU", n_cores_physical=8, n_cores_logical=16, ram_bytes=1
    )
    monkeypatch.setattr(checks, "performance_cores", lambda: 4)
    assert checks.check_cores(laptop).detail == "CPU: 8 cores, 16 threads; uses 4"
    monkeypatch.setattr(checks, "performance_cores", lambda: 1)
    assert checks.check_cores(laptop).status == "warning"


def test_doctor_runs_here(tmp_path: Path) -> None:
    found = checks.doctor(ram_need_bytes=1, disk_need_bytes=1, outputs=tmp_path, system_info=BUILT)
    assert [check.name for check in found] == [
        "System",
        "Python",
        "llama.cpp",
        "Cores",
        "CPU features",
        "Memory",
        "Disk",
        "Power",
        "Clock speed",
        "Clock and heat",
        "Load",
    ]
    assert found[0].detail == f"{m.fingerprint().os}, {m.fingerprint().arch}"
    assert not [check for check in found if check.status == "problem"]
    names = [
        check.name
        for check in checks.doctor(ram_need_bytes=None, disk_need_bytes=None, outputs=tmp_path, system_info=None)
    ]
    assert "CPU features" not in names


# -- the network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxy")
def test_reachable_and_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert checks.unreachable(url) == "connection refused" or sys.platform == "win32"
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert checks.check_hub_at(url).status == "warning"
        server.listen()
        assert checks.unreachable(url) == ""
        assert checks.check_hub_at(url).status == "ok"


@pytest.mark.usefixtures("no_proxy")
def test_a_proxy_is_tried_in_place_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{proxy.getsockname()[1]}")
        assert checks.unreachable("https://hub.invalid") == ""


@pytest.mark.usefixtures("no_proxy")
def test_a_name_look_up_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(2)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    began = time.monotonic()
    assert checks.unreachable("https://hub.invalid", timeout_s=0.2) == "no answer within 0.2 s"
    assert time.monotonic() - began < 1.5


@pytest.mark.usefixtures("no_proxy")
def test_a_proxy_that_is_none_is_named_as_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.unreachable("https://[::") == "its address cannot be read"
    monkeypatch.setenv("https_proxy", "http://[::")
    assert checks.unreachable("https://hub.invalid") == "the proxy's address cannot be read"


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "nonsense", ""])
def test_an_address_that_is_none(url: str) -> None:
    assert checks.unreachable(url)
