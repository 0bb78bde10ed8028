"""The benchmark harness's processes: the launcher that measures, the tools that it finds or builds, files compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tools
from benchmarks.quality import compare_files
from labctl.errors import LabError

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "lab_data" / "demo" / "labllama-f16.gguf"
posix = pytest.mark.skipif(sys.platform == "win32", reason="the harness runs on Linux and macOS")


def test_files_are_compared_by_their_bytes(tmp_path: Path) -> None:
    same = compare_files("F16", DEMO, DEMO)
    assert same.same and same.same_file and same.n_same_bytes == same.n_tensors == 56
    changed = tmp_path / "changed.gguf"
    data = bytearray(DEMO.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    other = compare_files("F16", changed, DEMO)
    assert (other.n_same_type, other.n_same_bytes, other.same_file) == (56, 55, False)


@posix
@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("raise SystemExit(3)", 3)])
def test_launcher_measures_the_child_not_its_parent(tmp_path: Path, code: str, status: int) -> None:
    ballast = np.ones(25_000_000)  # 200 MB in this process must not show in the child
    job = {
        "argv": [sys.executable, "-I", "-S", "-c", f"import sys; print(sys.stdin.readline().strip()); {code}"],
        "stdin": "hello\n",
        "stdout": str(tmp_path / "out"),
        "stderr": str(tmp_path / "err"),
        "env": {},
        "cwd": str(tmp_path),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    launcher = ROOT / "benchmarks" / "launch.py"
    command = [sys.executable, "-I", "-S", str(launcher), str(tmp_path / "job.json"), str(tmp_path / "figures.json")]
    subprocess.run(command, check=True, timeout=60)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["status"] == status
    assert (tmp_path / "out").read_text() == "hello\n"
    assert 1e6 < figures["peak_rss_bytes"] < 60e6 < ballast.nbytes
    assert figures["floor_bytes"] <= 20e6
    assert 0 < figures["wall_s"] < 60


def test_tools_that_are_not_there(tmp_path: Path) -> None:
    from benchmarks.screen import Screen

    with pytest.raises(LabError, match="has no llama-quantize"):
        tools.find_tools(tmp_path, Screen(), "1", ready=tmp_path)
    with pytest.raises(LabError, match="not a llama"):
        tools.find_tools(tmp_path, Screen(), "1", source=tmp_path)


@posix
def test_tools_of_another_version_are_refused(tmp_path: Path) -> None:
    from benchmarks.screen import Screen

    for name in tools.TOOLS:
        (tmp_path / name).write_text("#!/bin/sh\necho 'version: 1.2.3 (build 0)' >&2\n")
        (tmp_path / name).chmod(0o755)
    assert tools.find_tools(tmp_path, Screen(), "1.2.3", ready=tmp_path).version == "1.2.3"
    with pytest.raises(LabError, match=r"llama.cpp 1.2.3, labctl's binding is 0.5"):
        tools.find_tools(tmp_path, Screen(), "0.5", ready=tmp_path)


@posix
def test_no_cmake_and_a_failed_build_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.screen import Screen

    source, programs = tmp_path / "source", tmp_path / "bin"
    (source / "tools").mkdir(parents=True)
    (source / "CMakeLists.txt").touch()
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(LabError, match="CMake is not installed"):
        tools.find_tools(tmp_path / "cache", Screen(), "1", source=source)
    for name, text in (("cmake", "echo 'CMake Error: broken'; exit 1"), ("g++", "exit 0")):
        if name == "g++":
            with pytest.raises(LabError, match=r"no C\+\+ compiler"):
                tools.find_tools(tmp_path / "cache", Screen(), "1", source=source)
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    with pytest.raises(LabError, match="CMake Error: broken") as caught:
        tools.find_tools(tmp_path / "cache", Screen(), "1", source=source)
    assert "build.log" in caught.value.hint
