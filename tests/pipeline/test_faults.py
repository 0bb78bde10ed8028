"""kill -9 at many points of every step: the next run goes on to the same figures and repeats next to nothing.

A dozen kills here; `make test-faults` makes LABCTL_TEST_KILLS of them (120), spread over the life of each step.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]

N_KILLS = int(os.environ.get("LABCTL_TEST_KILLS", "12"))
MODEL = "labllama-15m"
FAULT_LAB = """\
text = "demo"
ctx = 128
new_tokens = 8
probe_items = 3
bench_rounds = 2
bench_max_rounds = 2
kl_chunks = 16
threads = 1
"""

# The steps, as `labctl` makes them, telling on stdout of each chunk that was taken: its format.
DRIVER = """
import dataclasses, sys
from labctl.cli.output import Display
from labctl.lab.values import load_config
from labctl.pipeline import opening, run

def telling(task, kind, *, on_rows=None, **others):
    def taken(rows):
        last = on_rows(rows)
        if rows.to == "nll":
            print(task.format, flush=True)
        return last
    return lab.executor(task, kind, on_rows=on_rows and taken, **others)

display = Display(quiet=True)
lab = opening.open_lab(load_config({}), display)
told = dataclasses.replace(lab, executor=telling)
sys.exit(bool(run.run(told, display, names=sys.argv[1:], report=False).failures))
"""


@dataclass(frozen=True)
class Target:
    """A step to be killed: what is run, further settings, and what must come out the same."""

    names: tuple[str, ...]
    figures: Callable[[Path], object]
    settings: str = ""
    formats: tuple[str, ...] = ("Q5_K_M",)


def records(folder: Path, step: str) -> dict[str, dict[str, Any]]:
    """Format -> record of a step."""
    paths = sorted((folder / "outputs" / MODEL / "records").glob(f"{step}-*.json"))
    return {path.stem.split("-", 1)[1]: json.loads(path.read_text("utf-8"))["record"] for path in paths}


def samples(folder: Path, name: str) -> bytes:
    return bytes(np.nan_to_num(np.load(folder / "outputs" / MODEL / name)).tobytes())


def _quantized(folder: Path) -> object:
    return {label: record["sha256"] for label, record in records(folder, "quantize").items()}


def _perplexity(folder: Path) -> object:
    return {
        label: (one["ppl"], one["ppl_se"], one["chunks"], samples(folder, one["nll_path"]))
        for label, one in records(folder, "perplexity").items()
    }


def _divergence(folder: Path) -> object:
    return {
        label: (
            {name: value for name, value in one.items() if name.startswith(("kld", "same", "n_")) or name == "chunks"},
            samples(folder, one["values_path"]),
        )
        for label, one in records(folder, "divergence").items()
    }


def _generated(folder: Path) -> object:
    texts = {path.name: path.read_bytes() for path in folder.rglob("prompt_*.txt")}
    return texts, {
        label: (
            [(text["decoding"], text["tokens"]) for text in one["generations"]],
            [[answer["output"] for answer in probe["answers"]] for probe in one["probes"]],
        )
        for label, one in records(folder, "generate").items()
    }


def _timed(folder: Path) -> object:
    return {label: [visit["round"] for visit in one["visits"]] for label, one in records(folder, "bench").items()}


def _weighed(folder: Path) -> object:
    return {label: [load["mmap"] for load in one["loads"]] for label, one in records(folder, "memory").items()}


def _reported(folder: Path) -> object:
    return {path.name: path.read_bytes() for path in (folder / "reports" / MODEL).iterdir()}


TARGETS = {
    "quantize": Target(("quantize",), _quantized, formats=("Q8_0", "Q5_K_M")),
    "perplexity": Target(("perplexity",), _perplexity, "chunks = 24"),
    "perplexity auto with divergence": Target(
        ("perplexity", "divergence"), lambda folder: (_perplexity(folder), _divergence(folder)), 'chunks = "auto"'
    ),
    "divergence": Target(("divergence",), _divergence, "chunks = 16"),
    "generate": Target(("generate",), _generated),
    "bench": Target(("bench",), _timed),
    "memory": Target(("memory",), _weighed),
    "report": Target((), _reported),
}
KILLS_A_STEP = max(1, 2 * N_KILLS // 3 // len(TARGETS))
KILLS_OF_RUN = N_KILLS // 3


def assert_nothing_half_written(folder: Path) -> None:
    """Every file under a real name is whole."""
    from labctl.engines.llama_cpp.gguf.reader import read_header

    for path in folder.rglob("*"):
        unnamed = path.name.startswith((".partial-", ".lock-holder")) or path.parent.name == ".scratch"
        if unnamed or not path.is_file():
            continue
        if path.suffix == ".gguf":
            read_header(path)
        elif path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".png":
            assert path.read_bytes()[-8:-4] == b"IEND"
        elif path.suffix in (".svg", ".html"):
            assert path.read_text("utf-8").rstrip().endswith((">",)), path


def assert_nothing_left(folder: Path) -> None:
    """No temporary file is left after a run that came to its end."""
    for pattern in (".partial-*", ".journal-*", ".scratch/*", ".lock-holder"):
        assert not list(folder.rglob(pattern)), pattern


def end(process: Any) -> None:
    """kill -9, and look that no child of it stays."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(children, timeout=20)
        for child in alive:
            child.kill()
        assert alive == []
    process.communicate()


# -- one step, killed -------------------------------------------------------------------------------------------------


class Stage:
    """A step on its stage: a fresh copy of the lab before it, to run it in."""

    def __init__(self, cli: Any, target: Target, before: Path, place: Path) -> None:
        self._cli, self._target, self._before, self._place = cli, target, before, place
        self._count = 0

    def folder(self) -> Path:
        self._count += 1
        folder = self._place / str(self._count)
        shutil.copytree(self._before, folder)
        if self._target.names:
            settings = f"formats = {json.dumps(self._target.formats)}\n{FAULT_LAB}{self._target.settings}\n"
            (folder / "lab.toml").write_text(settings, "utf-8")
        return folder

    def start(self, folder: Path) -> Any:
        """Start the step and return once it is at work: with the model's lock in hand."""
        if self._target.names:
            process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, *self._target.names],
                cwd=folder,
                env=self._cli.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        else:
            process = self._cli.start("report", cwd=folder)
        holder = folder / "outputs" / MODEL / ".lock-holder"
        deadline = time.monotonic() + 60
        while not holder.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return process

    def finish(self, folder: Path) -> dict[str, int]:
        """Run the step to its end.

        Returns: how many chunks it computed of each format.
        """
        process = self.start(folder)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return dict(Counter(out.split()) if self._target.names else {})


def kept_chunks(folder: Path, label: str) -> int:
    """How many chunks of a format are on disk."""
    chunks: set[int] = set()
    for path in (folder / "outputs" / MODEL / "nll").glob(f"{label}-*.npy"):
        if "-kl-" not in path.name:
            chunks |= {int(chunk) for chunk in np.flatnonzero(~np.isnan(np.load(path)[:, 0]))}
    for path in (folder / "outputs" / MODEL / "nll").glob(f".journal-{label}-*"):
        if "-kl-" not in path.name:
            data = path.read_bytes()
            size = 12 + 8 * int.from_bytes(data[4:8], "little") if len(data) >= 12 else 1 << 30
            chunks |= {int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) - size + 1, size)}
    return len(chunks)


def done_parts(folder: Path) -> dict[str, object]:
    """What a kill must not cost: finished records, files that a record describes, whole rounds."""
    root = folder / "outputs" / MODEL
    parts: dict[str, object] = {
        path.name: path.read_bytes()
        for step in ("quantize", "generate", "memory")
        for path in root.glob(f"records/{step}-*.json")
    }
    for label in records(folder, "quantize"):
        path = root / f"{MODEL}-{label}.gguf"
        if path.exists():
            parts[path.name] = path.stat().st_ino
    with contextlib.suppress(FileNotFoundError):
        n_rounds = json.loads((root / "records/conditions.json").read_text("utf-8"))["record"]["n_rounds"]
        for label, one in records(folder, "bench").items():
            parts[f"rounds of {label}"] = [visit for visit in one["visits"] if visit["round"] < n_rounds]
    return parts


def assert_kept(folder: Path, before: dict[str, object]) -> None:
    after = done_parts(folder)
    for name, part in before.items():
        if isinstance(part, list):
            found = after[name]
            assert isinstance(found, list)
            assert found[: len(part)] == part, name
        else:
            assert after[name] == part, name


@pytest.fixture(scope="module")
def quantized_lab(cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab with its files made and nothing measured."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "lab.toml").write_text(FAULT_LAB, "utf-8")
    done = cli("quantize", "--formats", "Q5_K_M", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def stage(cli: Any, quantized_lab: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Stage]:
    def staged(name: str) -> Stage:
        before = quantized_lab
        if name == "quantize":
            before = tmp_path / "before"
            (before / "outputs").mkdir(parents=True)
            shutil.copy(quantized_lab / "outputs/.engine.json", before / "outputs")
        elif name == "report":
            before = tmp_path / "before"
            shutil.copytree(request.getfixturevalue("small_lab"), before)
            shutil.rmtree(before / "reports")
        return Stage(cli, TARGETS[name], before, tmp_path)

    return staged


@pytest.mark.parametrize("name", TARGETS)
def test_a_killed_step_goes_on_to_the_same_figures(stage: Callable[[str], Stage], name: str) -> None:
    target, at_work = TARGETS[name], stage(name)
    undisturbed = at_work.folder()
    begun = time.monotonic()
    computed = at_work.finish(undisturbed)
    life_s = time.monotonic() - begun
    wanted = target.figures(undisturbed)
    all_chunks = {label: kept_chunks(undisturbed, label) for label in ("F16", *target.formats)}
    if "perplexity" in name or name == "divergence":
        assert computed == all_chunks, "no chunk is computed twice"

    hit: list[float] = []
    # A single kill falls elsewhere in each step, many are spread evenly.
    first = 0.5 if KILLS_A_STEP > 1 else (0.15 + 0.618 * list(TARGETS).index(name)) % 0.8
    shares = [(number + first) / KILLS_A_STEP for number in range(KILLS_A_STEP)]
    for share in shares:
        for earlier in (1.0, 0.9, 0.8, 0.6, 0.4):  # the machine is faster this time: it was over
            folder = at_work.folder()
            process = at_work.start(folder)
            time.sleep(life_s * share * earlier)
            alive = process.poll() is None
            end(process)
            if alive:
                hit.append(share * earlier)
                break
            shutil.rmtree(folder)
        else:
            pytest.fail(f"{name} was over before it could be killed at {share:.0%} of {life_s:.1f} s")
        assert_nothing_half_written(folder)
        kept, parts = {label: kept_chunks(folder, label) for label in all_chunks}, done_parts(folder)
        computed = at_work.finish(folder)
        assert target.figures(folder) == wanted, f"killed at {hit[-1]:.0%}"
        assert_kept(folder, parts)
        repeated = sum(computed.get(label, 0) - (all_chunks[label] - kept[label]) for label in all_chunks)
        if "perplexity" in name or name == "divergence":
            assert repeated <= 1, f"killed at {hit[-1]:.0%}: {kept} were there, {computed} computed, of {all_chunks}"
        assert_nothing_left(folder)
        shutil.rmtree(folder)
    assert len(hit) == KILLS_A_STEP
    if KILLS_A_STEP >= 6:  # not all in one corner of its life
        assert min(hit) < 0.25
        assert max(hit) > 0.7
        assert len({int(4 * one) for one in hit}) == 4


def test_the_kills_are_as_many_as_asked_for() -> None:
    assert KILLS_A_STEP * len(TARGETS) + KILLS_OF_RUN >= N_KILLS
    assert {"quantize", "perplexity", "divergence", "generate", "bench", "memory", "report"} <= set(TARGETS)


# -- a whole run, killed again and again ------------------------------------------------------------------------------


def run_figures(folder: Path) -> tuple[object, ...]:
    """All that must not depend on how often a run was interrupted."""
    kinds = (_quantized, _perplexity, _divergence, _generated, _timed, _weighed)
    return tuple(kind(folder) for kind in kinds)


def records_there(folder: Path) -> set[str]:
    """Names of the records under a real name."""
    return {path.name for path in (folder / "outputs").rglob("records/[!.]*.json")}


def test_a_run_killed_again_and_again_ends_with_the_same_figures(cli: Any, small_lab: Path, new_lab: Path) -> None:
    rng = np.random.default_rng(N_KILLS)
    killed_at: set[str] = set()
    for number in range(KILLS_OF_RUN):
        process = cli.start("run", cwd=new_lab)
        before = records_there(new_lab)
        deadline = time.monotonic() + 60
        # every third kill at once, the others after the next record: so the run gets on, and is hit everywhere
        while number % 3 and process.poll() is None and time.monotonic() < deadline:
            if records_there(new_lab) - before - {"source.json", "text.json", "notices.json"}:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        over = process.poll() is not None
        end(process)
        assert_nothing_half_written(new_lab)
        killed_at.add("after the end" if over else ",".join(sorted(records_there(new_lab))))
    assert len(killed_at) >= min(3, KILLS_OF_RUN)
    done = cli("run", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    assert run_figures(new_lab) == run_figures(small_lab)
    assert_nothing_left(new_lab)
    assert {path.name for path in (small_lab / "reports" / MODEL).iterdir()} <= {
        path.name for path in (new_lab / "reports" / MODEL).iterdir()
    }
    again = cli("run", cwd=new_lab)
    assert "Nothing to do" in again.stderr
