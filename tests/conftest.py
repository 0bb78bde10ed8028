"""What the tests share: the demo model and its quantized files, a small lab run once, the command line as a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from lab_factory import provenance

from labctl.cli.output import Display
from labctl.engines.llama_cpp.formats import LAB_FORMATS
from labctl.executors.base import Task
from labctl.executors.child import run_task
from labctl.lab.config import load_config
from labctl.lab.lab import Lab
from labctl.records.digests import file_sha256
from labctl.records.files import GgufFile
from labctl.records.sources import TextSource
from labctl.steps.perplexity.record import PerplexityRun, PerplexityTask
from labctl.steps.quantize.record import QuantizeTask

ROOT = Path(__file__).resolve().parents[1]

# A busy machine must not fail a test that is not about time.
hypothesis.settings.register_profile("labctl", deadline=None)
hypothesis.settings.load_profile("labctl")
SMALL_LAB = """\
formats = ["Q8_0", "Q4_K_M"]
text = "demo"
chunks = 4
new_tokens = 8
probe_items = 3
bench_rounds = 1
bench_max_rounds = 1
kl_chunks = 2
threads = 1
"""


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
        made.records[label] = child(
            QuantizeTask(
                model_path=str(demo_model),
                format=label,
                n_threads=1,
                target_path=str(path),
                shown_path=path.name,
                provenance=provenance("quantize"),
            ),
            GgufFile,
        )
        made.paths[label] = path
    return made


@pytest.fixture(scope="session")
def measure_perplexity(child: Callable[..., Any], quantized: Quantized) -> Callable[..., PerplexityRun]:
    """Measure a format: measure_perplexity(label, text, n_first, path of the NLL file)."""

    def measure(label: str, text: TextSource, n_first: int | None, nll_path: Path, **options: Any) -> PerplexityRun:
        settings = {"n_threads": 1, "n_ctx": 512, **options}
        record: PerplexityRun = child(
            PerplexityTask(
                model_path=str(quantized.paths[label]),
                format=label,
                text=text,
                n_first=n_first,
                nll_path=str(nll_path),
                shown_nll_path=nll_path.name,
                provenance=provenance("perplexity"),
                **settings,
            ),
            PerplexityRun,
        )
        return record

    return measure


# -- whole labs -------------------------------------------------------------------------------------------------------


class Cli:
    """The `labctl` command in a process of its own, without the settings of whoever runs the tests."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LABCTL_", "HF_"))},
            "HOME": str(home),
            "HF_ENDPOINT": "http://127.0.0.1:9",  # the discard port: refused at once
            "LABCTL_LAB_DATA": str(ROOT / "lab_data"),
        }

    def start(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Start it and return the process; stdout and stderr are pipes unless told otherwise."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen(
            [sys.executable, "-c", "from labctl.__main__ import main; main()", *arguments],
            cwd=cwd,
            env={**self.environment, **(env or {})},
            text=True,
            encoding="utf-8",
            **options,
        )

    def __call__(
        self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.start(*arguments, cwd=cwd, env=env, **options) as process:
            try:
                out, err = process.communicate(timeout=240)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


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
