"""Odd surroundings: clocks that jump, locales, paths, no HOME, closed streams, pipes, Ctrl-C at any time."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_faults import MODEL, assert_nothing_left, run_figures

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and streams")
COMMANDS = ("fit --ram 8", "score", "report", "prepare", "models", "run", "--help")
READING = ("fit --ram 8", "score --json", "report", "run", "submit --incomplete --json", "doctor --no-hub")


def assert_no_traceback(done: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in (done.stderr or ""), done.stderr
    assert "Exception ignored" not in (done.stderr or ""), done.stderr


# -- the clock --------------------------------------------------------------------------------------------------------

# Every look at the clock is a year off from the last one, forward and back; what measures time must not care.
JUMPING = """
import itertools, time
_now, _now_ns, _jumps = time.time, time.time_ns, itertools.cycle((0, 3e7, -3e7, 3e8, -1e9))
time.time = lambda: _now() + next(_jumps)
time.time_ns = lambda: _now_ns() + int(next(_jumps)) * 10**9
"""


def _numbers(value: Any, name: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [one for key, part in value.items() for one in _numbers(part, key)]
    if isinstance(value, list):
        return [one for part in value for one in _numbers(part, name)]
    return [(name, value)] if isinstance(value, (int, float)) else []


def lose_a_format(folder: Path) -> None:
    """Remove what a lab holds of Q8_0, but for what takes long."""
    for path in (folder / "outputs").rglob("*-Q8_0*"):
        if not path.name.startswith(("bench", "memory")):
            path.unlink()


@pytest.mark.slow
def test_a_jumping_clock_changes_nothing(cli: Any, small_lab: Path, lab_copy: Path, tmp_path: Path) -> None:
    lose_a_format(lab_copy)
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(JUMPING, "utf-8")
    environment = {"PYTHONPATH": str(tmp_path / "clock")}
    for _ in range(2):
        begun = time.monotonic()
        done = cli("run", cwd=lab_copy, env=environment)
        assert done.returncode == 0, done.stderr
        assert_no_traceback(done)
        assert time.monotonic() - begun < 100
        assert not [line for line in done.stderr.splitlines() if " formats in -" in line or " format in -" in line]
    assert "Nothing to do" in done.stderr
    assert run_figures(lab_copy) == run_figures(small_lab)
    for path in (lab_copy / "outputs" / MODEL / "records").glob("*.json"):
        for name, number in _numbers(json.loads(path.read_text("utf-8"))):
            assert not name.endswith(("_s", "_tps", "_ns")) or number >= 0, (path, name, number)


def test_nothing_but_one_note_looks_at_the_clock_on_the_wall(root: Path) -> None:
    """Durations come from clocks that never jump; a record's date is datetime's."""
    users = [path.name for path in (root / "labctl").rglob("*.py") if "time.time(" in path.read_text("utf-8")]
    assert users == ["opening.py"]


def test_a_note_of_the_future_does_not_keep_the_hub_from_being_asked(cli: Any, tmp_path: Path) -> None:
    shutil.copytree(Path(cli.environment["LABCTL_LAB_DATA"]) / "demo", tmp_path / "data/demo")
    mark = tmp_path / "outputs/.hub-unreachable"
    arguments = ("prepare", "--lab-data", str(tmp_path / "data"))
    assert cli(*arguments, cwd=tmp_path).returncode == 0
    for days, fresh in ((0, False), (400, True), (-400, True)):
        mark.write_text("an old note\n", "utf-8")
        os.utime(mark, (time.time() + 86_400 * days,) * 2)
        assert cli(*arguments, cwd=tmp_path).returncode == 0
        assert (mark.read_text("utf-8") != "an old note\n") == fresh


# -- locales and encodings --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a locale with decimal commas; made here where the system has the means, named in any case."""
    folder = tmp_path_factory.mktemp("locale")
    environment = {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8"}
    if shutil.which("localedef"):
        command = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            environment["LOCPATH"] = str(folder)
    return environment


@pytest.mark.slow
def test_decimal_commas_spaces_and_letters_of_the_world_change_no_figure(
    cli: Any, lab_copy: Path, german: dict[str, str]
) -> None:
    folder = lab_copy.rename(lab_copy.with_name("Größe und 模型 ☃ [x] 'q' $HOME"))
    # As a program that honours the locale would: C's own printf and strtod then speak of commas.
    (folder / "sitecustomize.py").write_text(
        "import contextlib, locale\nwith contextlib.suppress(locale.Error):\n    locale.setlocale(locale.LC_ALL, '')\n"
    )
    environment = {"PYTHONPATH": str(folder), **german}
    before = run_figures(folder)
    columns = _quality_columns(folder)
    lose_a_format(folder)
    done = cli("run", cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert run_figures(folder) == before
    assert _quality_columns(folder) == columns
    text = (Path(cli.environment["LABCTL_LAB_DATA"]) / "demo/demo_text.txt").read_bytes()
    (folder / "Text mit Ü.txt").write_bytes(text)
    again = cli("perplexity", "--text", "Text mit Ü.txt", "--formats", "Q8_0", "--json", cwd=folder, env=environment)
    assert again.returncode == 0, again.stderr
    assert cli("submit", "--incomplete", cwd=folder, env=environment).returncode == 0


def _quality_columns(folder: Path) -> list[list[str]]:
    """Format, sizes and perplexities of results.csv; every row has as many fields as the first."""
    with (folder / "reports" / MODEL / "results.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    chosen = [place for place, name in enumerate(header) if name == "format" or name.startswith(("size", "bpw", "ppl"))]
    assert len(chosen) >= 5
    assert {len(row) for row in rows} == {len(header)}
    return [[row[place] for place in chosen] for row in rows]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "commands"),
    [({"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, READING[:2]), (ASCII, READING)],
    ids=["ascii streams", "ascii all over"],
)
def test_ascii_terminals_work(cli: Any, lab_copy: Path, environment: dict[str, str], commands: tuple[str, ...]) -> None:
    for command in commands:
        done = cli(*command.split(), cwd=lab_copy, env=environment)
        assert done.returncode == 0 or command.startswith("doctor"), done.stderr
        assert_no_traceback(done)
        assert done.stdout.isascii() and done.stderr.isascii()
        if "--json" in command:
            json.loads(done.stdout)


@pytest.mark.slow
@posix
def test_a_name_that_is_no_text_is_one_line_or_works(cli: Any, lab_copy: Path) -> None:
    odd = os.fsdecode(b"gr\xf6\xdfe")
    for command in (("quantize", "--outputs", odd), ("report", "--reports", odd), ("report", "--text", odd)):
        done = cli(*command, cwd=lab_copy)
        assert_no_traceback(done)
        assert done.returncode == 0 or (done.stderr.count("error:") >= 1 and "hint:" in done.stderr), done.stderr


# -- paths ------------------------------------------------------------------------------------------------------------


def test_a_long_path_works(cli: Any, tmp_path: Path) -> None:
    outputs = "/".join(["a" * 200] * 10)
    done = cli("quantize", "--text", "demo", "--formats", "Q3_K_M", "--outputs", outputs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["y" * 200] * 30)], ids=["a name", "a path"])
@pytest.mark.parametrize("option", ["--outputs", "--reports", "--text", "--model", "--lab-data"])
def test_a_path_that_is_too_long_is_one_line(cli: Any, lab_copy: Path, option: str, name: str) -> None:
    command = "report" if option == "--reports" else "prepare"
    done = cli(command, "--text", "demo", option, name, cwd=lab_copy)
    assert done.returncode == 1
    assert_no_traceback(done)
    assert done.stderr.count("error:") == done.stderr.count("hint:") == 1


# -- no HOME, no terminal, no streams ---------------------------------------------------------------------------------


def run_without_home(cli: Any, folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in cli.environment.items() if name not in ("HOME", "USER", "LOGNAME")}
    return subprocess.run(
        [sys.executable, "-m", "labctl", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )


@pytest.mark.slow
def test_home_may_be_unset(cli: Any, lab_copy: Path) -> None:
    shutil.rmtree(lab_copy / "reports")
    for command in ("run", "prepare --model hf:owner/name", "prepare --text wikitext-2"):
        done = run_without_home(cli, lab_copy, *command.split())
        assert_no_traceback(done)
        assert done.returncode == (1 if "prepare" in command and "hf:" in command else done.returncode)
    assert (lab_copy / "reports" / MODEL / "worksheet.md").is_file()


@pytest.mark.slow
@posix
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams(cli: Any, lab_copy: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    before = run_figures(lab_copy)
    if 0 in closed:
        (lab_copy / "outputs" / MODEL / "records/quantize-Q8_0.json").unlink()
    for command in ("quantize", "score --json") if 0 in closed else ("fit --ram 8", "score --json"):
        done = cli(*command.split(), cwd=lab_copy, preexec_fn=close)
        assert done.returncode == 0, (command, done.stderr)
        assert_no_traceback(done)
    assert run_figures(lab_copy) == before  # no message went into a file that got a stream's number


@pytest.mark.slow
@posix
@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe_is_no_error(cli: Any, lab_copy: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = cli(*command.split(), cwd=lab_copy, stdout=writing)
    finally:
        os.close(writing)
    assert_no_traceback(done)
    assert "Broken" not in done.stderr
    assert done.returncode in (0, 1)


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@posix
def test_ctrl_c_at_any_time_is_one_line_and_the_next_run_goes_on(cli: Any, small_lab: Path, lab_copy: Path) -> None:
    lose_a_format(lab_copy)
    script = "import sys; print('up', flush=True); from labctl.__main__ import main; main()"
    # While it loads; at work; at the end, as the report is made. Every other time a nervous finger presses twice.
    for number, delay_s in enumerate((0.02, 0.08, 0.2, 0.4, 0.7, 1.0, 1.2)):
        process = subprocess.Popen(
            [sys.executable, "-c", script, "run"],
            cwd=lab_copy,
            env=cli.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(delay_s)
        assert process.poll() is None, "it was over already"
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        if number % 2:
            time.sleep(0.03)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, (delay_s, err)
        assert "Traceback" not in err, (delay_s, err)
        assert err.count("error:") == 1, (delay_s, err)
        assert psutil.wait_procs(children, timeout=20)[1] == []
    done = cli("run", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert run_figures(lab_copy) == run_figures(small_lab)
    assert_nothing_left(lab_copy)
