"""Variables, folders and modules of a machine that must not reach the work, and what is said where they do."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_environment import assert_no_traceback

from labctl.engines.llama_cpp.identity import EngineTask
from labctl.errors import LabError
from labctl.executors.local import run_task
from labctl.handin import remeasure, verify
from labctl.handin.compare import contradictions
from labctl.lab.config import LabConfig
from labctl.lab.sources import hub
from labctl.machine.surroundings import child_environment, fault
from labctl.records.places import typed

PACKAGES = ("gguf", "numpy", "matplotlib", "pandas", "scipy", "llama_cpp", "msgspec", "rich", "tempfile", "random")
MODEL = "labllama-15m"


def hide(folder: Path, *names: str, text: str = "raise RuntimeError('of another Python')\n") -> Path:
    """A folder whose modules would take the place of labctl's."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(text, "utf-8")
    return folder


def surroundings(folder: Path, kind: str) -> dict[str, str]:
    """Variables that point to unusable things."""
    (folder / "matplotlibrc").write_text("backend: nonsense\nfont.family: Comic Sans\ntext.usetex: True\n", "utf-8")
    (folder / "undecodable").write_bytes(b"\xff\xfeb\x00a\x00")
    return {
        "jupyter": {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": "/proc/nowhere"},
        "matplotlibrc": {"MATPLOTLIBRC": str(folder / "matplotlibrc"), "MPLBACKEND": "nonsense"},
        "undecodable": {"MATPLOTLIBRC": str(folder / "undecodable"), "MPLCONFIGDIR": str(folder / "undecodable")},
        "pythonpath": {"PYTHONPATH": str(hide(folder / "packages", *PACKAGES)), "PYTHONSTARTUP": "/nowhere"},
        "python": {"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONDEVMODE": "1"},
        "numbers": {"OMP_NUM_THREADS": "garbage", "OPENBLAS_NUM_THREADS": "x", "COLUMNS": "0", "LINES": "-1"},
        "terminal": {"TERM": "dumb", "NO_COLOR": "1", "LANG": "C", "PYTHONIOENCODING": "ascii"},
        "folders": {"TMPDIR": "/nowhere", "HOME": "/nowhere", "HF_HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/nowhere"},
    }[kind]


@pytest.fixture(scope="module")
def submission(cli: Any, small_lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small lab, handed in; not to be changed."""
    folder = tmp_path_factory.mktemp("handed-in") / "lab"
    shutil.copytree(small_lab, folder)
    done = cli("submit", "--incomplete", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["jupyter", "matplotlibrc", "undecodable", "pythonpath", "python", "numbers", "terminal", "folders"]
)
def test_surroundings_reach_neither_charts_nor_checks(cli: Any, submission: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(submission, folder)
    environment = surroundings(tmp_path, kind)
    (folder / "matplotlibrc").write_bytes(b"\xff\xfeb\x00a\x00")
    hide(folder, *PACKAGES)
    reports = folder / "reports" / MODEL
    before = {path.name: path.read_bytes() for path in reports.glob("*.*g")}
    assert len(before) > 10
    (reports / ".report.json").unlink()
    archive = f"reports/{MODEL}/submission-{MODEL}.zip"
    for command in (("report",), ("verify", archive, "--json"), ("compare", archive, f"outputs/{MODEL}")):
        done = cli(*command, cwd=folder, env=environment)
        assert_no_traceback(done)
        assert "Warning" not in done.stderr
        assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name: path.read_bytes() for path in reports.glob("*.*g")} == before


def test_children_compute_with_the_installed_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("libggml.so.0", "libggml-base.so.0", "libllama.so"):
        (tmp_path / name).write_bytes(b"of another llama.cpp")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}{os.pathsep}{other}")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(hide(tmp_path / "packages", "numpy", "tempfile")))
    monkeypatch.chdir(hide(tmp_path / "here", "gguf", "numpy", "queue"))
    assert child_environment()["LD_LIBRARY_PATH"] == str(other)
    engine = EngineTask(model_path="", format="", n_threads=1)
    assert run_task(engine, dict[str, str], log_path=tmp_path / "x.log", hang_s=60)["llama_cpp"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('half there')\n", "RuntimeError: half there"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:\n", "SyntaxError"),
        ("", "has no attribute"),
    ],
)
def test_a_broken_package_is_one_line_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.syspath_prepend(str(hide(tmp_path / "packages", "torn", text=text)))
    with pytest.raises(Exception) as caught:
        importlib.import_module("torn").array(1)
    found = fault(caught.value)
    sys.modules.pop("torn", None)
    assert found is not None
    name = "no_such_module" if "no_such_module" in text else "torn"
    assert found.message.startswith(f"The Python package {name} cannot be used (")
    assert said in found.message
    assert found.hint == f"Install it again: pip install --force-reinstall {name}"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["msgspec", "pandas", "matplotlib"])
def test_a_command_names_the_package_that_it_cannot_load(
    cli: Any, small_lab: Path, tmp_path: Path, package: str
) -> None:
    """A package broken where it is installed: nothing else is found before it."""
    hidden = hide(tmp_path / "packages", package)
    program = f"import sys; sys.path.insert(0, {str(hidden)!r}); sys.argv[0] = 'labctl'; "
    program += "import labctl.__main__ as m; m._settle = lambda: None; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "--reports", str(tmp_path / "reports")],
        cwd=small_lab,
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert_no_traceback(done)
    assert f"error: The Python package {package} cannot be used (RuntimeError: of another Python)" in done.stderr
    assert f"pip install --force-reinstall {package}" in done.stderr


def test_a_broken_package_in_a_child_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(hide(tmp_path / "packages", "numpy")), *sys.path])
    with pytest.raises(LabError, match="The Python package numpy cannot be used") as caught:
        run_task(
            EngineTask(model_path="", format="", n_threads=1), dict[str, str], log_path=tmp_path / "x.log", hang_s=60
        )
    assert caught.value.for_all


def test_a_fault_of_this_machine_is_not_told_as_one_of_what_is_checked(
    cli: Any, submission: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = submission / "reports" / MODEL / f"submission-{MODEL}.zip"
    monkeypatch.chdir(submission)
    config = LabConfig(lab_data=cli.environment["LABCTL_LAB_DATA"])

    def refuse(error: Exception) -> Any:
        def now(*_: Any, **__: Any) -> Any:
            raise error

        return now

    full = LabError("The disk is full: cannot write x.")
    full.__cause__ = OSError(28, "No space left on device")
    lacking = AttributeError(
        "module 'scipy' has no attribute 'special'", name="special", obj=importlib.import_module("scipy")
    )
    for error in (lacking, full):
        with monkeypatch.context() as patched:
            patched.setattr(verify, "_other_records", refuse(error))
            with pytest.raises(LabError, match=r"scipy cannot be used|disk is full"):
                verify.verify(archive, config, seed=1)
        with pytest.raises(LabError, match=r"scipy cannot be used|disk is full"), contradictions("x.zip"):
            raise error
    with pytest.raises(LabError, match="contradict themselves"), contradictions("x.zip"):
        raise ValueError("of impossible records")
    monkeypatch.setattr(remeasure, "_nll_again", refuse(LabError("perplexity: it was killed.")))
    status = {one.name: (one.status, one.detail) for one in verify.verify(archive, config, seed=1)}
    assert {one for one, _ in status.values()} == {"ok", "skipped"} | ({"wrong"} if "complete" in status else set())
    assert "could not be measured on this computer" in status["a chunk measured again gives the same"][1]


def test_a_user_without_a_home_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is started with a number for a user (docker run -u 12345)."""

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub.cache_folder().parts[-2:] == ("huggingface", "hub")
    assert typed("~/m.gguf") == Path("~/m.gguf") and typed("m.gguf") == Path("m.gguf")
