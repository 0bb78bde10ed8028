"""Two runs at once on one model: one works, the other is told whom it waits for; the dead block nobody."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from labctl.errors import LabError
from labctl.records.lock import lock

_HOLD = """
import sys, time
from pathlib import Path
from labctl.records.lock import lock
sys.argv[1:] = ["run", "--chunks", "4", sys.argv[1]]
with lock(Path(sys.argv[-1])):
    print("held", flush=True)
    time.sleep(60)
"""
LOCKING = ("run", "quantize", "perplexity", "divergence", "generate", "bench", "memory", "report", "submit")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock of tmp_path/model."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path / "model")], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_who_holds_the_lock_is_named_with_process_time_and_command(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(LabError) as caught, lock(tmp_path / "model"):
        pytest.fail("two at once")
    assert re.search(
        rf"working on model \(process {holder.pid}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\S*: labctl run --chunks 4 ",
        caught.value.message,
    )
    assert "--wait" in caught.value.hint


def test_waiting_says_for_whom_and_gets_the_lock(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    said: list[str] = []

    def heard(text: str) -> None:
        said.append(text)
        holder.kill()

    with lock(tmp_path / "model", wait=True, say=heard):
        assert holder.wait(10) != 0
    assert len(said) == 1
    assert f"process {holder.pid}," in said[0]
    assert "labctl run --chunks 4" in said[0]


def test_a_dead_holder_does_not_block(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()
    with lock(tmp_path / "model"):
        assert json.loads((tmp_path / "model" / ".lock-holder").read_text("utf-8"))["pid"] == os.getpid()


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), lock(tmp_path / "model"):
        raise ValueError("inside")
    with lock(tmp_path / "model"):
        pass


@pytest.mark.parametrize("note", ["", "{", "[]", "12345", '{"pid": "x", "since": 1, "command": []}', "[" * 9999])
def test_a_damaged_note_of_the_holder_hides_nothing_but_itself(
    tmp_path: Path, holder: subprocess.Popen[bytes], note: str
) -> None:
    (tmp_path / "model/.lock-holder").write_text(note, "utf-8")
    with pytest.raises(LabError, match="Another labctl is working on model"), lock(tmp_path / "model"):
        pytest.fail("two at once")


@pytest.mark.parametrize("pid", [1, os.getppid(), os.getpid(), 4_000_000], ids=["init", "parent", "self", "gone"])
def test_a_note_left_by_the_dead_does_not_block_whoever_has_the_number_now(tmp_path: Path, pid: int) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / ".lock").touch()
    note = {"pid": pid, "since": "2024-02-30 25:00:00", "command": "labctl run"}
    (folder / ".lock-holder").write_text(json.dumps(note), "utf-8")
    with lock(folder):
        assert json.loads((folder / ".lock-holder").read_text("utf-8"))["pid"] == os.getpid()
    assert not (folder / ".lock-holder").exists()


@pytest.mark.parametrize("command", LOCKING)
def test_every_command_that_takes_the_lock_can_wait(cli: Any, tmp_path: Path, command: str) -> None:
    assert "--wait" in cli(command, "--help", cwd=tmp_path).stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_second_run_waits_and_then_works_and_ctrl_c_ends_the_waiting(cli: Any, lab_copy: Path) -> None:
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    hold = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lab_copy / "outputs/labllama-15m")], stdout=subprocess.PIPE
    )
    with hold:
        assert hold.stdout is not None
        assert hold.stdout.readline() == b"held\n"
        refused = cli("report", cwd=lab_copy)
        assert refused.returncode == 1
        assert f"process {hold.pid}, since 2" in refused.stderr
        waiting = [cli.start(name, "--wait", cwd=lab_copy, **listening) for name in ("report", "run")]
        try:
            for process in waiting:
                line = ""
                while "Waiting for another labctl" not in line:
                    line = process.stderr.readline()
                    assert line, "it ended without waiting"
                assert str(hold.pid) in line
            assert [process.poll() for process in waiting] == [None, None]
            waiting[0].send_signal(signal.SIGINT)
            _, err = waiting[0].communicate(timeout=30)
            assert waiting[0].returncode == 130
            assert "Stopped" in err
            assert "Traceback" not in err
            assert waiting[1].poll() is None
            hold.kill()
            waiting[1].communicate(timeout=60)
            assert waiting[1].returncode == 0
        finally:
            hold.kill()
            for process in waiting:
                process.kill()
                process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_lock_left_by_a_killed_run_does_not_block(cli: Any, new_lab: Path) -> None:
    process = cli.start("perplexity", "--chunks", "all", "--formats", "Q8_0", cwd=new_lab)
    holder = new_lab / "outputs/labllama-15m/.lock-holder"
    deadline = time.monotonic() + 60
    while not holder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert holder.exists()
    done = cli("quantize", "--formats", "Q8_0", cwd=new_lab)
    assert done.returncode == 0, done.stderr
