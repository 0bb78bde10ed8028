"""What the tests share: the demo model and its quantized files, a small lab run once, the command line as a process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from kit.command import ROOT, SMALL_LAB, Cli
from kit.extras import extra, skip_without
from kit.gguf_labs import TOML
from kit.lab_factory import provenance
from kit.small_gguf import TEXT

from labctl.cli.output import Display
from labctl.engines.llama_cpp.engine import ENGINE
from labctl.engines.llama_cpp.formats import LAB_FORMATS
from labctl.executors.base import Task
from labctl.executors.local import run_task
from labctl.lab.lab import Lab
from labctl.lab.values import load_config
from labctl.records.digests import DigestCache, file_sha256
from labctl.records.files import GgufFile
from labctl.records.sources import TextSource
from labctl.steps.perplexity import keep
from labctl.steps.perplexity.record import PerplexityRun, PerplexityTask
from labctl.steps.quantize import keep as keep_file
from labctl.steps.quantize.record import QuantizeTask

pytest_plugins = ["kit.browser"]

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads that wait for each other would spin
    os.environ |= {"OMP_THREAD_LIMIT": "1", "OMP_WAIT_POLICY": "passive"}

# A busy machine must not fail a test that is not about time.
hypothesis.settings.register_profile("labctl", deadline=None)
hypothesis.settings.load_profile("labctl")


@pytest.fixture(scope="session")
def llama_perplexity() -> str:
    """llama-perplexity of the llama.cpp that labctl uses."""
    return extra("LABCTL_LLAMA_PERPLEXITY", "*/build/bin/llama-perplexity") or skip_without("llama-perplexity")


@pytest.fixture(scope="session")
def llama_cpp() -> str:
    """A llama.cpp folder with the converter."""
    return extra("LABCTL_LLAMA_CPP", "*/source/vendor/llama.cpp") or skip_without("a llama.cpp folder")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where LABCTL_TEST_SKIPS is "none", a test that was skipped fails the run: CI has all that tests need."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("LABCTL_TEST_SKIPS") == "none" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def digests(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "digests.json")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def demo_model() -> Path:
    return ROOT / "lab_data" / "demo" / "labllama-f16.gguf"


@pytest.fixture(scope="session")
def demo_text() -> TextSource:
    return _text(ROOT / "lab_data" / "demo" / "demo_text.txt", "demo")


@pytest.fixture(scope="session")
def wikitext() -> TextSource:
    """Official WikiText-2, which is fetched and never committed."""
    path = Path(os.environ.get("LABCTL_WIKITEXT") or ROOT.parent / "shared/data/wikitext-2-raw/wiki.test.raw")
    if not path.is_file():
        pytest.skip("WikiText-2 is not here: set LABCTL_WIKITEXT to wiki.test.raw")
    return _text(path, "wikitext-2")


def _text(path: Path, kind: str) -> TextSource:
    return TextSource(
        name=path.name, kind=kind, path=str(path), size_bytes=path.stat().st_size, sha256=file_sha256(path)
    )


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """Figures of llama.cpp's own tools for the demo model."""
    loaded: dict[str, Any] = json.loads((ROOT / "tests/reference/labllama.json").read_text("utf-8"))
    return loaded


# -- one task in a real child process ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run one task in a child process: child(task, record type)."""
    log_path = tmp_path_factory.mktemp("logs") / "task.log"

    def run(task: Task, kind: type[Any], **options: Any) -> Any:
        return run_task(task, kind, log_path=log_path, hang_s=300, **options)

    return run


@dataclass(frozen=True)
class Quantized:
    """The lab's files of the demo model, baseline included."""

    paths: dict[str, Path]
    records: dict[str, GgufFile]


@pytest.fixture(scope="session")
def quantized(child: Callable[..., Any], demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    folder = tmp_path_factory.mktemp("quantized")
    made = Quantized({"F16": demo_model}, {})
    for label in LAB_FORMATS:
        path = folder / f"demo-{label}.gguf"
        task = QuantizeTask(
            model_path=str(demo_model), format=label, n_threads=1, target_path=str(folder / "scratch" / path.name)
        )
        made.records[label] = keep_file.make(ENGINE, child, task, path, provenance("quantize"))
        made.paths[label] = path
    return made


@pytest.fixture(scope="session")
def measure_perplexity(child: Callable[..., Any], quantized: Quantized) -> Callable[..., PerplexityRun]:
    """Measure a format: measure_perplexity(label, text, n_first, path of the NLL file)."""

    def measure(label: str, text: TextSource, n_first: int | None, nll_path: Path, **options: Any) -> PerplexityRun:
        settings = {"n_threads": 1, "n_ctx": 512, **options}
        rider, enough = settings.pop("rider", None), settings.pop("enough", None)
        task = PerplexityTask(
            model_path=str(quantized.paths[label]), format=label, text=text, n_first=n_first, **settings
        )
        place = keep.Place(nll=nll_path, shown=nll_path.name)
        return keep.measure(child, task, place, provenance("perplexity"), rider=rider, enough=enough)

    return measure


# -- whole labs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def small_lab(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which `labctl run` has done a small lab of three formats. Not to be changed: see lab_copy."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab.toml").write_text(SMALL_LAB, "utf-8")
    done = cli("run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def lab_copy(small_lab: Path, tmp_path: Path) -> Path:
    """A finished small lab to play with; records carry no paths of it, so it stays fresh."""
    folder = tmp_path / "lab"
    shutil.copytree(small_lab, folder)
    return folder


@pytest.fixture
def new_lab(small_lab: Path, tmp_path: Path) -> Path:
    """A working folder with the small lab's settings and nothing measured."""
    folder = tmp_path / "new"
    (folder / "outputs").mkdir(parents=True)
    (folder / "lab.toml").write_text(SMALL_LAB, "utf-8")
    shutil.copy(small_lab / "outputs" / ".engine.json", folder / "outputs")  # else each lab starts a child to ask
    return folder


@pytest.fixture
def open_lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Lab]]:
    """Open the lab of a working folder in this process: open_lab(folder, chunks=8)."""
    from labctl.pipeline import opening

    def opened(folder: Path, **flags: Any) -> Lab:
        monkeypatch.chdir(folder)
        config = load_config({"lab_data": str(ROOT / "lab_data"), **flags}, environ={})
        return opening.open_lab(config, Display(quiet=True))

    yield opened


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with a text and the settings of a short lab."""
    (tmp_path / "t.txt").write_text(TEXT * 3, "utf-8")
    (tmp_path / "lab.toml").write_text(TOML, "utf-8")
    return tmp_path
