"""A child that takes too much memory, crashes or hangs: named with step and format, and the rest of the lab goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit.command import ROOT, SMALL_LAB

from labctl.cli.app import cli as command
from labctl.engines import base
from labctl.engines.llama_cpp import engine as limits
from labctl.engines.llama_cpp.deaths import death
from labctl.engines.llama_cpp.gguf.header import contents
from labctl.executors import local
from labctl.executors.base import ChildError, Progress, Task
from labctl.executors.local import run_task
from labctl.lab import lab as opened
from labctl.records.sources import TextSource
from labctl.steps.memory.record import MemoryTask
from labctl.steps.perplexity.record import BatchShape, PerplexityTask, Scored

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS as Linux has it, and signals")


@pytest.fixture
def perplexity(demo_model: Path, demo_text: TextSource) -> PerplexityTask:
    return PerplexityTask(model_path=str(demo_model), format="F16", n_threads=2, text=demo_text, n_ctx=512, n_first=2)


def test_the_child_has_the_limit_and_stays_far_below_it(perplexity: PerplexityTask, tmp_path: Path) -> None:
    limit = limits.footprint_bytes(perplexity)
    assert limit is not None
    seen: list[tuple[int, int, int]] = []

    def look(_: Progress) -> None:
        child = psutil.Process().children()[0]
        core = child.rlimit(psutil.RLIMIT_CORE)[0]
        seen.append((child.rlimit(psutil.RLIMIT_AS)[0], child.memory_info().vms, core))

    run = run_task(perplexity, Scored, log_path=tmp_path / "x.log", hang_s=120, on_progress=look, limit_bytes=limit)
    assert {one[0] for one in seen} == {limit} and {one[2] for one in seen} == {0}
    assert max(one[1] for one in seen) < limit / 2
    announced = contents(Path(perplexity.model_path)).peak_ram_bytes(512)
    assert run.peak_rss_bytes < 1.5 * announced


def test_the_limit_follows_model_context_text_and_machine(perplexity: PerplexityTask, demo_model: Path) -> None:
    import msgspec

    def limit(**changed: Any) -> int:
        found = limits.footprint_bytes(msgspec.structs.replace(perplexity, **changed))
        assert found is not None
        return found

    here = limit()
    shape = BatchShape(n_side=4, n_ubatch=256, n_outputs=64)
    assert limit(shape=shape) > here and limit(n_threads=8) == here + 6 * limits._THREAD_BYTES
    there = psutil.virtual_memory().total + psutil.swap_memory().total
    most = there + 2 * demo_model.stat().st_size + limits._SLACK_BYTES + 2 * limits._THREAD_BYTES
    assert limit(n_ctx=1 << 30) == most  # a header or a setting gone wrong does not open the door
    assert limits.footprint_bytes(msgspec.structs.replace(perplexity, model_path="/none.gguf")) is None


@pytest.mark.parametrize("limit_mb", [150, 200, 320])
def test_out_of_memory_is_named(perplexity: PerplexityTask, tmp_path: Path, limit_mb: int) -> None:
    wide = MemoryTask(model_path=perplexity.model_path, format="F16", n_threads=1, n_ctx=1 << 16, mmap=False)
    with pytest.raises(ChildError) as caught:
        run_task(wide, dict, log_path=tmp_path / "x.log", hang_s=120, limit_bytes=limit_mb << 20, deaths=death)
    assert caught.value.message.startswith("memory F16: out of memory: "), caught.value.message
    assert f"more than the {(limit_mb << 20) / 1e6:.0f} MB" in caught.value.message
    assert "memory_limit_bytes" in caught.value.hint


@pytest.mark.slow
def test_the_command_says_so_and_a_setting_lifts_it(cli: Any, new_lab: Path) -> None:
    low = {"LABCTL_MEMORY_LIMIT_BYTES": "150000000"}
    done = cli("quantize", "--formats", "Q8_0", cwd=new_lab, env=low)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "F16: out of memory" in done.stderr and "memory_limit_bytes" in done.stderr
    assert cli("quantize", "--formats", "Q8_0", cwd=new_lab, env={"LABCTL_MEMORY_LIMIT_BYTES": "0"}).returncode == 0


@pytest.mark.slow
def test_crash_hang_and_memory_leave_gaps_and_the_rest_goes_on(
    new_lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three real children of one run come to three real ends; the run ends with status 1 and a worksheet with gaps."""
    monkeypatch.chdir(new_lab)
    for name in [name for name in os.environ if name.startswith("LABCTL_")]:
        monkeypatch.delenv(name)
    started, limit_of = local._started, base.limit_bytes
    doomed: dict[str, Callable[[Any], None]] = {
        "Q8_0": lambda child: child.send_signal(signal.SIGSEGV),
        "Q5_K_M": lambda child: child.send_signal(signal.SIGSTOP),
    }
    now: list[Task] = []

    def limit_bytes(footprint: Callable[[Task], int | None], task: Task, asked: int | None) -> int:
        now[:] = [task]
        tight = isinstance(task, PerplexityTask) and task.format == "Q4_K_M"
        return 160 << 20 if tight else limit_of(footprint, task, asked)

    @contextlib.contextmanager
    def start(log: Any, limit: int) -> Iterator[Any]:
        with started(log, limit) as child:
            if now and isinstance(now[0], PerplexityTask) and now[0].format in doomed:
                log.write(b"the last line\n")
                log.flush()
                doomed[now[0].format](child)
            yield child

    monkeypatch.setattr(opened, "limit_bytes", limit_bytes)
    monkeypatch.setattr(local, "_started", start)
    (new_lab / "lab.toml").write_text(SMALL_LAB + "hang_s = 12.0\n", "utf-8")
    arguments = ["perplexity", "--formats", "Q8_0,Q5_K_M,Q4_K_M,Q2_K", "--chunks", "2", "--json"]
    status = command.main([*arguments, "--lab-data", str(ROOT / "lab_data")], standalone_mode=False)
    assert status == 1
    captured = capsys.readouterr()
    found = {(one["step"], one["format"]): one for one in json.loads(captured.out)["failures"]}
    assert set(found) == {("perplexity", label) for label in ("Q8_0", "Q5_K_M", "Q4_K_M")}
    for label, said in (("Q8_0", "SIGSEGV"), ("Q5_K_M", "no sign of life for 12 s"), ("Q4_K_M", "out of memory")):
        one = found["perplexity", label]
        assert one["message"].startswith(f"perplexity {label}: ") and said in one["message"]
        assert one["hint"] and said in captured.err
    assert found["perplexity", "Q8_0"]["log_tail"] == ["the last line"]
    records = new_lab / "outputs/labllama-15m/records"
    assert (records / "perplexity-F16.json").is_file() and (records / "perplexity-Q2_K.json").is_file()
    assert psutil.Process().children() == []

    status = command.main(["report", *arguments[1:5], "--lab-data", str(ROOT / "lab_data")], standalone_mode=False)
    capsys.readouterr()
    sheet = (new_lab / "reports/labllama-15m/worksheet.md").read_text("utf-8")
    assert status in (0, None)
    for said in ("SIGSEGV", "no sign of life", "out of memory"):
        assert said in sheet
    row = next(line for line in sheet.split("### Q2.")[1].splitlines() if line.startswith("| Q8_0"))
    assert "not measured" in row
