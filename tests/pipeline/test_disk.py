"""Full disks, read-only disks and folders that vanish: one line, nothing half-written, and on it goes with room."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit.hub_server import Hub, Repo, hub_for_this_test
from kit.tiny_gguf import F16
from test_convert import checkout, folder_with, ready
from test_faults import MODEL, assert_nothing_half_written, run_figures

from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import checkpoint, convert
from labctl.records.digests import DigestCache
from labctl.records.sources import TextSource
from labctl.steps.divergence.keep import Comparison

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX mounts and limits")]

# What each writing step leaves, to be removed so that it has to write again.
WRITES = {
    "quantize": ("outputs/*/*-Q8_0.gguf", "outputs/*/records/quantize-Q8_0.json"),
    "perplexity": ("outputs/*/nll/*", "outputs/*/records/perplexity-*", "outputs/*/records/divergence-*"),
    "divergence": ("outputs/*/nll/*-kl-*", "outputs/*/records/divergence-*"),
    "generate": ("outputs/*/records/generate-Q8_0.json", "outputs/*/Q8_0/*"),
    "memory": ("outputs/*/records/memory-Q8_0.json",),
    "bench": ("outputs/*/records/bench-*",),
    "report": ("reports/*/*", "reports/*/.report.json"),
    "submit --incomplete": ("reports/*/*.zip",),
}
SHIFTING = (
    "lab.json",
    ".lock",
    ".lock-holder",
    "failures.json",
    "source.json",
    "text.json",
    "conditions.json",
    ".digests.json",
)


def strip(folder: Path, step: str) -> dict[Path, bytes]:
    """Remove what a step wrote.

    Returns: all other files, which must stay as they are.
    """
    for pattern in WRITES[step]:
        for path in folder.glob(pattern):
            path.unlink()
    kept = [path for part in ("outputs", "reports") for path in (folder / part).rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in kept if path.parent.name != "logs" and path.name not in SHIFTING}


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Exit 1, an error with a hint, one of these words, no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "error:" in done.stderr
    assert "hint:" in done.stderr
    assert any(word in done.stderr for word in said), done.stderr
    words = done.stderr.splitlines()
    assert sum(line.startswith("error:") for line in words) <= 4  # three formats and the sum


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


@pytest.fixture
def disk_lab(small_disk: Any, small_lab: Path) -> Path:
    """A finished small lab, outputs and reports, on a disk of 120 MB."""
    folder = Path(small_disk(120 << 20)) / "lab"
    shutil.copytree(small_lab, folder)
    return folder


def fill(folder: Path, leave_bytes: int) -> Path:
    """Use up a disk but for some bytes."""
    ballast = folder / "ballast"
    free = psutil.disk_usage(str(folder)).free
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, free - leave_bytes))
    return ballast


@pytest.mark.parametrize("step", WRITES)
def test_a_full_disk_is_said_and_earlier_results_stay(cli: Any, disk_lab: Path, step: str) -> None:
    kept = strip(disk_lab, step)
    ballast = fill(disk_lab, 0)
    done = cli(*step.split(), cwd=disk_lab)
    assert_refused(done, "disk is full", "Not enough disk", "disk may be full")
    for path, data in kept.items():
        assert path.read_bytes() == data, path
    assert_nothing_half_written(disk_lab)
    ballast.unlink()
    again = cli(*step.split(), cwd=disk_lab)
    assert again.returncode == 0, again.stderr
    assert_nothing_half_written(disk_lab)


# Where mounting is not allowed, a limit on the size of files refuses in the same places.
@pytest.mark.parametrize(
    ("step", "limit_bytes"),
    [
        ("quantize", 1 << 20),
        ("perplexity", 6000),
        ("divergence", 1 << 20),
        ("generate", 300),
        ("report", 20_000),
        ("submit --incomplete", 20_000),
    ],
)
def test_a_limit_on_files_is_said_and_earlier_results_stay(
    cli: Any, lab_copy: Path, step: str, limit_bytes: int
) -> None:
    import resource

    kept = strip(lab_copy, step)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    done = cli(*step.split(), cwd=lab_copy, preexec_fn=limit)
    assert_refused(done, "allows no file of that size", "disk may be full", "disk is full", "file too large")
    for path, data in kept.items():
        assert path.read_bytes() == data, path
    assert_nothing_half_written(lab_copy)
    again = cli(*step.split(), cwd=lab_copy)
    assert again.returncode == 0, again.stderr


def test_a_disk_that_fills_up_under_perplexity_names_the_reason_and_goes_on_later(cli: Any, disk_lab: Path) -> None:
    ballast = fill(disk_lab, 24 << 10)  # room for some chunks, not for 14
    arguments = ("perplexity", "--chunks", "14", "--formats", "Q8_0")
    done = cli(*arguments, cwd=disk_lab)
    assert_refused(done, "disk is full")
    ballast.unlink()
    again = cli(*arguments, "--json", cwd=disk_lab)
    assert again.returncode == 0, again.stderr
    record = json.loads((disk_lab / f"outputs/{MODEL}/records/perplexity-F16.json").read_text("utf-8"))["record"]
    assert record["chunks"] == [[0, 14]]
    assert record["n_tokens_evaluated"] <= 10 * 512  # the four chunks of before stay, whatever came on top


def test_without_room_for_probabilities_perplexity_is_measured_and_the_gap_is_said(
    cli: Any, disk_lab: Path, small_lab: Path
) -> None:
    strip(disk_lab, "perplexity")
    planned = json.loads(cli("run", "--dry-run", "--json", cwd=disk_lab).stdout)
    (spool,) = [one for one in planned if one["step"] == "divergence"]
    assert spool["write_bytes"] == 2 * 255 * 8192 * 4  # kl_chunks of lab.toml, scored tokens, vocabulary, float32
    ballast = fill(disk_lab, 14 << 20)
    doctor = {one["name"]: one for one in json.loads(cli("doctor", "--no-hub", "--json", cwd=disk_lab).stdout)}
    assert doctor["Disk"]["status"] == "warning" and "KL divergence is left out" in doctor["Disk"]["hint"]
    done = cli("run", cwd=disk_lab)
    assert_refused(done, "Not enough disk for the temporary file of probabilities: 33.5 MB needed")
    assert "1 step failed: divergence F16" in done.stderr and "kl_spool_bytes" in done.stderr
    records = disk_lab / f"outputs/{MODEL}/records"
    assert {path.stem for path in records.glob("perplexity-*")} == {
        f"perplexity-{one}" for one in ("F16", "Q8_0", "Q4_K_M")
    }
    assert not list(records.glob("divergence-*")) and not list(disk_lab.rglob(".scratch/*"))
    sheet = (disk_lab / f"reports/{MODEL}/worksheet.md").read_text("utf-8")
    assert "KL divergence is left out" in sheet
    ballast.unlink()
    again = cli("run", cwd=disk_lab)
    assert again.returncode == 0, again.stderr
    assert run_figures(disk_lab)[:3] == run_figures(small_lab)[:3]


def test_a_disk_that_fills_up_under_probabilities_loses_no_perplexity(
    small_disk: Any, tmp_path: Path, measure_perplexity: Any, demo_text: TextSource
) -> None:
    whole = measure_perplexity("Q4_K_M", demo_text, 3, tmp_path / "whole.npy")
    disk = small_disk(20 << 20)  # two rows of 8.4 MB, and a half
    baseline = functools.partial(Comparison, disk / "spool", 3, 512, None)
    found = measure_perplexity("Q4_K_M", demo_text, 3, disk / "nll.npy", rider=baseline(optional=True))
    assert (found.ppl, found.chunks) == (whole.ppl, ((0, 3),))
    assert [path.name for path in disk.iterdir()] == ["nll.npy"]
    (disk / "nll.npy").unlink()
    with pytest.raises(LabError, match="disk is full"):
        measure_perplexity("Q4_K_M", demo_text, 3, disk / "nll.npy", rider=baseline(optional=False))


def test_stdout_on_a_full_disk_is_one_line(cli: Any, lab_copy: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    for arguments in (("fit", "--ram", "8"), ("score", "--json"), ("report",)):
        with Path("/dev/full").open("w") as full:
            done = cli(*arguments, cwd=lab_copy, stdout=full)
        assert_refused(done, "disk is full")


# -- downloads and conversion -----------------------------------------------------------------------------------------


def test_a_download_that_does_not_fit_is_one_line_and_works_later(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    server = Hub(models={"lab/tiny": Repo({"tiny-F16.gguf": F16})})
    with hub_for_this_test(server, tmp_path / "hf", monkeypatch) as running:
        environment = {"HF_ENDPOINT": running.url, "HF_HOME": str(tmp_path / "hf")}
        arguments = ("prepare", "--model", "hf:lab/tiny", "--text", "demo")
        done = cli(
            *arguments,
            cwd=tmp_path,
            env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        )
        assert_refused(done, "Cannot write to the Hugging Face cache")
        assert not [path for path in (tmp_path / "hf").rglob("*.gguf") if path.stat().st_size not in (0, len(F16))]
        again = cli(*arguments, cwd=tmp_path, env=environment)
        assert again.returncode == 0, again.stderr


def test_a_conversion_on_a_full_disk_is_one_line_and_works_later(tmp_path: Path, small_disk: Any) -> None:
    disk = small_disk(100 << 20)
    (tmp_path / "fits.gguf").write_bytes(F16)
    script = (
        "import shutil, sys\nfrom pathlib import Path\na = sys.argv\nout = a[a.index('--outfile') + 1]\n"
        f"if Path({str(tmp_path / 'big')!r}).exists():\n"
        "    with open(out, 'wb') as stream:\n        stream.write(bytes(200 << 20))\n"
        f"shutil.copy({str(tmp_path / 'fits.gguf')!r}, out)\n"
    )
    (tmp_path / "big").touch()
    found = checkpoint.read_checkpoint(folder_with(tmp_path / "m"))
    data = disk / "data"
    converter = ready(checkout(tmp_path / "cpp", script), data / ".convert")
    digests = DigestCache(tmp_path / "digests.json")
    with pytest.raises(LabError, match="the disk is full"):
        convert.convert(found, "m", converter, data, digests, Dialogue())
    assert not list(data.glob("converted/**/*.gguf*"))
    (tmp_path / "big").unlink()
    made = convert.convert(found, "m", converter, data, digests, Dialogue())
    assert made.path.read_bytes() == F16


# -- read-only and vanishing folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["quantize", "memory --threads 2", "report", "submit --incomplete"])
def test_a_read_only_disk_is_one_line(cli: Any, disk_lab: Path, step: str) -> None:
    if subprocess.run(["mount", "-o", "remount,ro", str(disk_lab.parent)], check=False).returncode != 0:
        pytest.skip("remounting is not permitted here")
    done = cli(*step.split(), cwd=disk_lab)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error:") == done.stderr.count("hint:") == 1
    assert "read-only" in done.stderr
    for reading in (("fit", "--ram", "8"), ("score",)):
        assert cli(*reading, cwd=disk_lab).returncode == 0  # what only reads works


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
    assert {path.stem.removeprefix(f"{MODEL}-") for path in new_lab.rglob("*.gguf")} == {"Q8_0", "Q4_K_M"}


def test_a_working_folder_that_is_gone_is_one_line(cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    done = cli("prepare", "--text", "demo", cwd=folder, preexec_fn=folder.rmdir)
    assert_refused(done, "no such file")


def test_no_place_for_temporary_files_is_one_line(cli: Any, new_lab: Path) -> None:
    (new_lab / "outputs/.engine.json").unlink()  # asking llama.cpp needs one
    nowhere = {name: str(new_lab / "nowhere") for name in ("TMPDIR", "TEMP", "TMP")}
    with contextlib.suppress(OSError):
        done = cli("quantize", cwd=new_lab, env=nowhere)
        assert done.returncode in (0, 1)
        assert "Traceback" not in done.stderr, done.stderr
