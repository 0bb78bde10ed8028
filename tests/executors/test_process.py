"""A child that crashes, hangs or babbles is named; the parent survives and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import labctl
from labctl.engines.llama_cpp.deaths import death
from labctl.engines.llama_cpp.identity import EngineTask
from labctl.errors import LabError
from labctl.executors.base import ChildError, Progress, Rows
from labctl.executors.local import run_task
from labctl.executors.reasons import log_tail
from labctl.steps.quantize.record import Made, QuantizeTask

pytestmark = pytest.mark.skipif(os.name == "nt", reason="plays a child with a shell script")
ENGINE = EngineTask(model_path="", format="Q4_K_M", n_threads=1)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a task whose child is a shell script, in place of Python."""

    def run(script: str, hang_s: float = 30, **options: Any) -> Any:
        path = tmp_path / "child.sh"
        path.write_text(f"#!/bin/sh\nread task\n{script}\n", "utf-8")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        try:
            return run_task(
                ENGINE, dict[str, str], log_path=tmp_path / "logs" / "x.log", hang_s=hang_s, deaths=death, **options
            )
        finally:
            monkeypatch.undo()
            assert psutil.Process().children() == []

    return run


def test_a_real_child_answers(tmp_path: Path) -> None:
    found = run_task(ENGINE, dict[str, str], log_path=tmp_path / "x.log", hang_s=120)
    assert found["llama_cpp"]
    assert found["system_info"]


def test_the_child_runs_the_labctl_of_its_parent(tmp_path: Path) -> None:
    """Another labctl that is installed, or comes first where modules are looked for, is not mixed in."""
    copy = tmp_path / "copy"
    shutil.copytree(Path(labctl.__file__).parent, copy / "labctl", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "labctl" / "mine.py").write_text(
        "from labctl.engines.llama_cpp.identity import EngineTask\n"
        "from labctl.executors.base import Report\n"
        "def work(task: EngineTask, report: Report) -> dict[str, str]:\n    return {'from': __file__}\n",
        "utf-8",
    )
    code = (
        "import sys; from pathlib import Path; from labctl.__main__ import _settle; _settle()\n"
        "from labctl.engines.llama_cpp.identity import EngineTask\n"
        "from labctl.executors.local import run_task\n"
        "class Mine(EngineTask, frozen=True, kw_only=True): work = 'labctl.mine:work'\n"
        "task = Mine(model_path='', format='', n_threads=1)\n"
        "print(run_task(task, dict[str, str], log_path=Path('x.log'), hang_s=60)['from'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(copy / "labctl" / "mine.py"), done.stderr


@pytest.mark.parametrize("name", ["KILL", "SEGV", "ABRT", "BUS", "ILL", "FPE", "TERM"])
def test_a_dead_child_is_named_with_step_format_signal_and_last_lines(play: Callable[..., Any], name: str) -> None:
    with pytest.raises(ChildError, match=rf"^engine Q4_K_M: .*\(SIG{name}\)\.$") as caught:
        play(f"echo about to die >&2; kill -{name} $$")
    assert caught.value.log_tail == ("about to die",)
    assert caught.value.log_path is not None
    assert caught.value.log_path.read_text("utf-8") == "about to die\n"
    assert caught.value.hint
    if name == "KILL":
        assert "memory" in caught.value.message


def test_a_child_that_ends_without_a_result_or_with_a_bad_status_is_named(play: Callable[..., Any]) -> None:
    with pytest.raises(ChildError, match="status 7"):
        play("exit 7")
    with pytest.raises(ChildError, match="status 0"):
        play("exit 0")
    with pytest.raises(ChildError, match="status 3"):
        play("""echo '{"event":"result","record":{"a":"b"}}'; exit 3""")


def test_a_childs_own_reason_is_passed_on(play: Callable[..., Any]) -> None:
    with pytest.raises(ChildError) as caught:
        play("""echo '{"event":"failure","message":"No good.","hint":"Do better."}'; exit 1""")
    assert (caught.value.message, caught.value.hint) == ("engine Q4_K_M: No good.", "Do better.")


_PROGRESS = """echo '{"event":"progress","done":%d,"total":%d}'"""
_ROW = """echo '{"event":"rows","to":"x","number":%d,"values":"AAEC/w=="}'"""
_DONE = """echo '{"event":"result","record":{"a":"b"}}'"""


def test_progress_and_result_come_through_in_order(play: Callable[..., Any]) -> None:
    seen: list[int] = []
    script = "\n".join(_PROGRESS % (n, 3) for n in (1, 2, 3))
    found = play(f"{script}\n{_DONE}", on_progress=lambda event: seen.append(event.done))
    assert (found, seen) == ({"a": "b"}, [1, 2, 3])


def test_rows_come_through_bit_for_bit_and_one_that_is_enough_stops_the_child(play: Callable[..., Any]) -> None:
    """This child sends two rows more before it hears that the second was the last one wanted."""
    kept: list[tuple[str, int, bytes]] = []
    shown: list[int] = []

    def keep(rows: Rows) -> bool:
        kept.append((rows.to, rows.number, rows.values))
        return rows.number == 2

    told = [f"{_ROW % number}\n{_PROGRESS % (number, 9)}" for number in (1, 2, 3, 4)]
    script = "\n".join([_PROGRESS % (0, 9), *told, "read line; [ $line = stop ]", _DONE])
    assert play(script, on_rows=keep, on_progress=lambda event: shown.append(event.done)) == {"a": "b"}
    assert shown == [0, 1]
    assert kept == [("x", 1, b"\x00\x01\x02\xff"), ("x", 2, b"\x00\x01\x02\xff")]
    assert play(f"{_ROW % 1}\n{_DONE}") == {"a": "b"}  # nobody wants any


def test_rows_that_cannot_be_kept_end_the_task_under_its_name(play: Callable[..., Any]) -> None:
    def refuse(_: Rows) -> bool:
        raise LabError("The disk is full.", "Free some space.")

    with pytest.raises(ChildError) as caught:
        play(f"echo the log >&2\n{_ROW % 1}; exec sleep 600", on_rows=refuse)
    assert (caught.value.message, caught.value.hint) == ("engine Q4_K_M: The disk is full.", "Free some space.")
    assert caught.value.log_tail == ("the log",)


def test_a_silent_child_is_given_up_and_killed(play: Callable[..., Any]) -> None:
    begun = time.monotonic()
    with pytest.raises(ChildError, match="no sign of life for 1 s") as caught:
        play("exec sleep 600", hang_s=1)
    assert time.monotonic() - begun < 60
    assert "hang_s" in caught.value.hint


@pytest.mark.slow
def test_a_frozen_real_child_is_given_up(tmp_path: Path, demo_model: Path) -> None:
    def freeze(_: Progress) -> None:
        for child in psutil.Process().children():
            child.suspend()

    task = QuantizeTask(model_path=str(demo_model), format="Q3_K_M", n_threads=1, target_path=str(tmp_path / "x.gguf"))
    with pytest.raises(ChildError, match="quantize Q3_K_M: no sign of life"):
        run_task(task, Made, log_path=tmp_path / "x.log", hang_s=5, on_progress=freeze)
    assert psutil.Process().children() == []


@pytest.mark.parametrize("torn", ['{"event":"result","record":{"a":', "not json at all", '{"event":"unknown"}', "[1]"])
def test_a_line_torn_by_a_kill_is_a_crash_like_any_other(play: Callable[..., Any], torn: str) -> None:
    with pytest.raises(ChildError, match="SIGKILL"):
        play(f"printf '%s' '{torn}'; kill -KILL $$")


def test_a_failing_callback_kills_the_child(play: Callable[..., Any]) -> None:
    def fail(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play("""echo '{"event":"progress","done":1,"total":3}'; exec sleep 600""", on_progress=fail)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(LabError, match="Cannot write"):
        run_task(ENGINE, dict[str, str], log_path=tmp_path / "file" / "x.log", hang_s=30)


def test_the_tail_of_a_log_has_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n" * 5000 + b"\x1b[31mred\x07\n\n\xff\xfe\n" + b"y" * 1000 + b"\n")
    tail = log_tail(path)
    assert len(tail) == 12
    assert tail[-1] == "y" * 300
    assert tail[-3] == "[31mred"
    assert all(line.isprintable() for line in tail)
    assert log_tail(tmp_path / "none") == ()


_PARENT = """
import sys
from pathlib import Path
from labctl.executors.local import run_task
from labctl.steps.bench.record import BenchEffort, BenchTask
task = BenchTask(model_path=sys.argv[1], format="F16", n_threads=1, n_prompt=512, n_gen=128, round=0, order=0,
                       effort=BenchEffort(min_reps=10_000, max_reps=10_000, max_s=1e9))
run_task(task, dict, log_path=Path(sys.argv[2]), hang_s=600)
"""


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, demo_model: Path) -> None:
    parent = psutil.Popen([sys.executable, "-c", _PARENT, str(demo_model), str(tmp_path / "log")])
    log = tmp_path / "log"
    deadline = time.monotonic() + 60
    while not (log.is_file() and b"llama_context" in log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = parent.children()
    assert len(children) == 1
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    assert alive == []


def test_a_folder_with_modules_of_the_same_names_does_not_reach_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('a stranger was run')", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_task(ENGINE, dict[str, str], log_path=tmp_path / "x.log", hang_s=120)
