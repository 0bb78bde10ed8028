"""kill -9, full disks and folders that vanish: the next run goes on to the same figures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and mounts")

ROW_BYTES = 12 + 8 * 255
N_KILLS = int(os.environ.get("LABCTL_TEST_KILLS", "12"))


def figures(folder: Path, labels: tuple[str, ...]) -> dict[str, object]:
    """All that must not depend on how often a run was interrupted."""
    root = folder / "outputs/labllama-15m"
    found: dict[str, object] = {}
    for label in labels:
        records = {
            step: json.loads((root / f"records/{step}-{label}.json").read_text("utf-8"))["record"]
            for step in ("quantize", "perplexity", "generate", "memory", "bench")
        }
        found[label] = (
            records["quantize"]["sha256"],
            records["perplexity"]["ppl"],
            records["perplexity"]["chunks"],
            np.nan_to_num(np.load(root / records["perplexity"]["nll_path"])).tobytes(),
            [(one["decoding"], one["tokens"]) for one in records["generate"]["generations"]],
            [[answer["output"] for answer in probe["answers"]] for probe in records["generate"]["probes"]],
            [load["mmap"] for load in records["memory"]["loads"]],
            [visit["round"] for visit in records["bench"]["visits"]],
        )
    return found


def assert_nothing_half_written(folder: Path) -> None:
    """Every file under a real name is whole."""
    from labctl.prepare.header import read_header

    for path in folder.rglob("*"):
        if path.name.startswith(".partial-") or not path.is_file():
            continue
        if path.suffix == ".gguf":
            read_header(path)
        elif path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".npy":
            np.load(path)


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


def test_a_run_killed_again_and_again_ends_with_the_same_figures(cli: Any, small_lab: Path, new_lab: Path) -> None:
    rng = np.random.default_rng(N_KILLS)
    killed_at: set[str] = set()
    for number in range(N_KILLS):
        process = cli.start("run", "--formats", "Q8_0", cwd=new_lab)
        before = {path.name for path in (new_lab / "outputs").rglob("records/*.json")}
        deadline = time.monotonic() + 60
        # every third kill at once, the others after the next record: so the run gets on, and is hit everywhere
        while number % 3 and process.poll() is None and time.monotonic() < deadline:
            if (
                {path.name for path in (new_lab / "outputs").rglob("records/*.json")}
                - before
                - {"source.json", "text.json"}
            ):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        over = process.poll() is not None
        end(process)
        assert_nothing_half_written(new_lab)
        killed_at.add("after the end" if over else ",".join(sorted(before)))
    assert len(killed_at) >= min(4, N_KILLS)
    done = cli("run", "--formats", "Q8_0", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    labels = ("F16", "Q8_0")
    assert figures(new_lab, labels) == figures(small_lab, labels)
    assert not list(new_lab.rglob(".partial-*-*.gguf"))
    assert not list(new_lab.rglob(".journal-*"))
    reports = {path.name for path in (new_lab / "reports/labllama-15m").iterdir()}
    assert {path.name for path in (small_lab / "reports/labllama-15m").iterdir()} <= reports
    again = cli("run", "--formats", "Q8_0", cwd=new_lab)
    assert "Nothing to do" in again.stderr


@pytest.mark.parametrize("n_before", [1, 7])
def test_perplexity_killed_in_the_middle_repeats_one_chunk_at_most(cli: Any, new_lab: Path, n_before: int) -> None:
    arguments = ("perplexity", "--chunks", "10", "--formats", "Q8_0")
    assert cli("quantize", "--formats", "Q8_0", cwd=new_lab).returncode == 0
    nll = new_lab / "outputs/labllama-15m/nll"

    def rows() -> int:
        return max((path.stat().st_size // ROW_BYTES for path in nll.glob(".journal-F16*")), default=0)

    process = cli.start(*arguments, cwd=new_lab)
    deadline = time.monotonic() + 60
    while rows() < n_before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    end(process)
    kept = rows()
    if not kept:
        pytest.skip("this machine was through before it could be killed")
    assert kept >= n_before
    assert cli(*arguments, cwd=new_lab).returncode == 0
    record = json.loads((nll.parent / "records/perplexity-F16.json").read_text("utf-8"))["record"]
    assert record["n_tokens_evaluated"] == (10 - kept) * 512
    assert record["chunks"] == [[0, 10]]


# -- full disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Any]:
    """Mount a disk of some size: small_disk(bytes) -> its folder. Skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(size_bytes: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        if sys.platform != "linux" or shutil.which("mount") is None:
            pytest.skip("needs Linux's tmpfs")
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting is not permitted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Use up a disk but for some bytes."""
    ballast = folder / "ballast"
    free = psutil.disk_usage(str(folder)).free
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, free - leave_bytes))
    return ballast


@pytest.mark.parametrize("step", ["quantize", "perplexity", "generate", "memory", "bench"])
def test_a_full_disk_is_said_and_earlier_results_stay(cli: Any, lab_copy: Path, small_disk: Any, step: str) -> None:
    disk = small_disk(60 << 20)
    shutil.copytree(lab_copy / "outputs", disk / "outputs")
    root = disk / "outputs/labllama-15m"
    for path in [*root.glob(f"records/{step}-*.json"), *(root.glob("nll/*") if step == "perplexity" else ())]:
        path.unlink()
    if step == "quantize":
        (root / "labllama-15m-Q8_0.gguf").unlink()
    kept = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.parent.name != "logs"}
    ballast = fill(disk, 0)
    done = cli(step, "--outputs", str(disk / "outputs"), cwd=lab_copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "disk" in done.stderr.lower()
    for path, data in kept.items():
        if path.name not in (".lock-holder", ".lock", "failures.json", "source.json", "text.json"):
            assert path.read_bytes() == data, path
    assert_nothing_half_written(disk / "outputs")
    ballast.unlink()
    again = cli(step, "--outputs", str(disk / "outputs"), cwd=lab_copy)
    assert again.returncode == 0, again.stderr
    assert_nothing_half_written(disk / "outputs")


def test_a_disk_that_fills_up_under_perplexity_names_the_reason_and_goes_on_later(
    cli: Any, lab_copy: Path, small_disk: Any
) -> None:
    disk = small_disk(60 << 20)
    shutil.copytree(lab_copy / "outputs", disk / "outputs")
    ballast = fill(disk, 24 << 10)  # room for records, not for 30 chunks
    arguments = ("perplexity", "--chunks", "30", "--formats", "Q8_0", "--outputs", str(disk / "outputs"))
    done = cli(*arguments, cwd=lab_copy)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    assert "disk is full" in done.stderr
    ballast.unlink()
    again = cli(*arguments, "--json", cwd=lab_copy)
    assert again.returncode == 0, again.stderr


def test_a_read_only_disk_is_one_line(cli: Any, lab_copy: Path, small_disk: Any) -> None:
    disk = small_disk(60 << 20)
    shutil.copytree(lab_copy / "outputs", disk / "outputs")
    if subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False).returncode != 0:
        pytest.skip("remounting is not permitted here")
    done = cli("memory", "--threads", "2", "--outputs", str(disk / "outputs"), cwd=lab_copy)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error:") == done.stderr.count("hint:") == 1
    assert "read-only" in done.stderr


def test_an_outputs_folder_that_vanishes_is_no_traceback(cli: Any, new_lab: Path) -> None:
    process = cli.start("perplexity", cwd=new_lab)
    deadline = time.monotonic() + 60
    while not list(new_lab.rglob("quantize-Q8_0.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    shutil.rmtree(new_lab / "outputs", ignore_errors=True)
    _, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    done = cli("quantize", "--json", cwd=new_lab)
    assert not [one for one in json.loads(done.stdout)["failures"] if one["step"] == "quantize"]
    assert {path.stem.removeprefix("labllama-15m-") for path in new_lab.rglob("*.gguf")} == {"Q8_0", "Q4_K_M"}


# -- paths ------------------------------------------------------------------------------------------------------------


def test_a_long_path_works(cli: Any, tmp_path: Path) -> None:
    done = cli("prepare", "--text", "demo", "--outputs", "/".join(["a" * 60] * 10), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["y" * 200] * 30)], ids=["a name", "a path"])
def test_a_path_that_is_too_long_is_one_line(cli: Any, tmp_path: Path, name: str) -> None:
    done = cli("prepare", "--text", "demo", "--outputs", name, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr


def test_a_lock_left_by_a_killed_run_does_not_block(cli: Any, new_lab: Path) -> None:
    process = cli.start("perplexity", "--chunks", "all", "--formats", "Q8_0", cwd=new_lab)
    holder = new_lab / "outputs/labllama-15m/.lock-holder"
    deadline = time.monotonic() + 60
    while not holder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    end(process)
    assert holder.exists()
    done = cli("quantize", "--formats", "Q8_0", cwd=new_lab)
    assert done.returncode == 0, done.stderr
