"""The command line as a person uses it: exit codes, one line for each error, data on stdout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from labctl import steps
from labctl.cli.app import cli as app

HEAVY = ("numpy", "pandas", "matplotlib", "llama_cpp", "huggingface_hub", "rich", "scipy", "gguf", "jinja2")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, links and pipes")
linux_root = pytest.mark.skipif(sys.platform != "linux", reason="mounts")


def assert_one_line(done: subprocess.CompletedProcess[str], *said: str, hint: str = "") -> None:
    """Exit 1 with exactly one error line and one hint line, and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1, (done.stdout, done.stderr)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    hints = [line for line in done.stderr.splitlines() if line.startswith("hint:")]
    assert len(errors) == len(hints) == 1, done.stderr
    for text in said:
        assert text in errors[0]
    assert hint in hints[0]
    assert len(hints[0]) > len("hint: ")


# -- help and exit codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", app.commands)
def test_every_command_has_help_with_an_example(cli: Any, tmp_path: Path, command: str) -> None:
    done = cli(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: labctl {command}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_commands_in_the_order_of_the_work(cli: Any, tmp_path: Path) -> None:
    done = cli("--help", cwd=tmp_path)
    listed = re.findall(r"^  (\w+) ", done.stdout.split("Measure:")[1], re.MULTILINE)
    assert sorted(listed) == sorted(app.commands)
    work = [
        "run",
        "prepare",
        *(step.name for step in steps.every() if not step.on_request),
        "report",
        "submit",
        "verify",
    ]
    assert [name for name in listed if name in work] == work


def test_help_loads_nothing_heavy(cli: Any, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom labctl.cli.app import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        f"sys.stderr.write(' '.join(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "Measure:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["perplexty"], "'perplexity'"),
        (["run", "--no-such"], "--no-such"),
        (["fit", "--ram", "0"], "--ram"),
        (["run", "--chunks", "many"], "many"),
        (["run", "--threads", "two"], "two"),
    ],
)
def test_wrong_usage_is_exit_2(cli: Any, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# -- what a finished lab prints ---------------------------------------------------------------------------------------


def test_a_second_run_says_that_nothing_is_to_do(cli: Any, lab_copy: Path) -> None:
    done = cli("run", cwd=lab_copy)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Nothing to do" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "--dry-run"],
        ["prepare"],
        ["report"],
        ["score"],
        ["fit", "--ram", "8"],
        ["perplexity", "--chunks", "4"],
    ],
    ids=" ".join,
)
def test_json_is_all_of_stdout(cli: Any, lab_copy: Path, arguments: list[str]) -> None:
    done = cli(*arguments, "--json", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


def test_json_of_run_names_what_was_done(cli: Any, lab_copy: Path) -> None:
    found = json.loads(cli("run", "--json", cwd=lab_copy).stdout)
    assert (found["model"], found["made"], found["failures"]) == ("labllama-15m", 0, [])
    assert all(Path(lab_copy, path).is_file() for path in found["reports"])


def test_a_dry_run_writes_nothing_and_says_what_is_due(cli: Any, new_lab: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in new_lab.rglob("*")}
    done = cli("run", "--dry-run", "--json", cwd=new_lab)
    planned = {(one["step"], one["label"]) for one in json.loads(done.stdout)}
    assert {("quantize", "Q8_0"), ("perplexity", "F16"), ("bench", "Q4_K_M")} <= planned
    assert {path: path.stat().st_mtime_ns for path in new_lab.rglob("*")} == before


def test_a_dry_run_of_a_model_of_ones_own_times_it_and_leaves_nothing(
    cli: Any, lab_copy: Path, demo_model: Path
) -> None:
    shutil.copy(demo_model, lab_copy / "own.gguf")
    before = {path: path.stat().st_mtime_ns for path in lab_copy.rglob("*")}
    done = cli("run", "--dry-run", "--model", "own.gguf", "--formats", "Q4_0", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert "Timing" in done.stderr and "judging by the speed of this model here" in " ".join(done.stdout.split())
    assert {path: path.stat().st_mtime_ns for path in lab_copy.rglob("*")} == before


def test_fit_takes_this_machines_memory_and_ends_with_the_largest_that_fits(cli: Any, lab_copy: Path) -> None:
    done = cli("fit", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert "this machine's" in done.stdout.splitlines()[0]
    assert not re.search(r"^F16 ", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "Largest that fits: Q8_0."
    asked = cli("fit", "--ram", "16", "--formats", "F16,Q4_K_M", cwd=lab_copy).stdout
    assert re.search(r"^F16 ", asked, re.MULTILINE) and asked.splitlines()[-1] == "Largest that fits: F16."
    assert "in 16 GiB of memory" in asked and " GB " not in asked
    small = cli("fit", "--ram", "1", cwd=lab_copy).stdout
    assert small.splitlines()[-1] == "None fits. The smallest is Q4_K_M."


@pytest.mark.parametrize(
    ("asked", "said"), [("3B", "taken as Llama-3.2-3B."), ("3.3B", "taken as Llama-3.2-3B."), ("Mistral-7B", "")]
)
def test_fit_says_which_model_a_number_of_weights_is_taken_for(cli: Any, lab_copy: Path, asked: str, said: str) -> None:
    done = cli("fit", "--params", asked, "--ram", "8", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr and (said or "taken" not in done.stderr)
    assert done.stdout.splitlines()[-1].startswith("Largest that fits: ")


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb"}, {}], ids=str)
def test_no_colour_where_none_is_wanted(cli: Any, lab_copy: Path, variable: Mapping[str, str]) -> None:
    done = cli("prepare", cwd=lab_copy, env=variable)
    assert done.returncode == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", done.stdout + done.stderr)  # no colour; bold is not one


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["fit", "--ram", "8"], ["score"], ["report"]], ids=" ".join)
@posix
def test_a_closed_pipe_is_no_error(cli: Any, lab_copy: Path, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = cli(*arguments, cwd=lab_copy, stdout=writing)
    finally:
        os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
    assert done.returncode in (0, 1)


def test_without_home_terminal_or_ascii_locale(cli: Any, new_lab: Path) -> None:
    folder = new_lab.rename(new_lab.with_name("Größe und Übung"))
    environment = {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8", "TERM": "", "COLUMNS": "20", "HOME": ""}
    done = cli("quantize", "--formats", "Q3_K_M", "--json", cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made"] == 2


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("damaged")
    data = demo_model.read_bytes()
    files = {"text.gguf": b"This is a text, not a model.\n" * 10, "cut.gguf": data[:-5000], "head.gguf": data[:1000]}
    files |= {"empty.gguf": b"", "magic.gguf": b"GGUF", "short.txt": b"A few words.\n", "binary.txt": b"\0\1\2" * 5000}
    files |= {"latin.txt": "Grüße ".encode("latin-1") * 3000, "empty.txt": b"\n"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in files}


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["--model", "nowhere.gguf"], "nowhere.gguf", "demo"),
        (["--model", "{text.gguf}"], "text.gguf", ""),
        (["--model", "{cut.gguf}"], "cut.gguf", ""),
        (["--model", "{head.gguf}"], "head.gguf", ""),
        (["--model", "{empty.gguf}"], "empty.gguf", ""),
        (["--model", "{magic.gguf}"], "magic.gguf", ""),
        (["--model", ""], "No model", "demo"),
        (["--formats", "Q4_K_N"], "'Q4_K_N'", "Q4_K_M"),
        (["--formats", ","], "No format", "Q4_K_M"),
        (["--text", "nowhere.txt"], "nowhere.txt", "wikitext-2"),
        (["--text", "{binary.txt}"], "binary.txt", "UTF-8"),
        (["--text", "{latin.txt}"], "latin.txt", "UTF-8"),
        (["--text", "{empty.txt}"], "empty", ""),
        (["--chunks", "0"], "--chunks 0", ""),
        (["--threads", "-1"], "--threads -1", ""),
        (["--ctx", "511"], "--ctx 511", "even"),
        (["--outputs", "a_file/outputs"], "a_file", ""),
        (["--outputs", "/proc/labctl"], "/proc", ""),
        (["--model", "a\x1b[31mb"], "No such model", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_one_hint(
    cli: Any, tmp_path: Path, damaged: dict[str, Path], arguments: list[str], said: str, hint: str
) -> None:
    if "/proc/labctl" in arguments and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    (tmp_path / "a_file").write_text("kept", "utf-8")
    filled = [str(damaged[word[1:-1]]) if word.startswith("{") else word for word in arguments]
    done = cli("run", "--text", "demo", *filled, cwd=tmp_path)
    assert_one_line(done, said, hint=hint)
    assert "\x1b[31m" not in done.stderr
    assert (tmp_path / "a_file").read_text("utf-8") == "kept"
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_text_shorter_than_two_chunks_is_one_line(cli: Any, lab_copy: Path, damaged: dict[str, Path]) -> None:
    done = cli("perplexity", "--text", str(damaged["short.txt"]), "--formats", "Q8_0", cwd=lab_copy)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "short.txt is too short" in done.stderr


def test_a_text_shorter_than_two_chunks_is_said_once(cli: Any, lab_copy: Path, damaged: dict[str, Path]) -> None:
    done = cli("perplexity", "--text", str(damaged["short.txt"]), "--formats", "Q8_0", cwd=lab_copy)
    assert_one_line(done, "short.txt is too short")


def test_an_altered_wikitext_is_refused(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "wiki.test.raw").write_text(" \n = Robert Boulter = \n" * 100, "utf-8")
    done = cli("run", cwd=tmp_path, env={"LABCTL_WIKITEXT": str(tmp_path / "wiki.test.raw")})
    assert_one_line(done, "sha256", "173c87a5", hint="LABCTL_WIKITEXT")


def test_an_official_wikitext_with_one_byte_changed_is_refused(cli: Any, tmp_path: Path, wikitext: Any) -> None:
    data = bytearray(Path(wikitext.path).read_bytes())
    data[1000] ^= 1
    (tmp_path / "wiki.test.raw").write_bytes(data)
    done = cli("prepare", cwd=tmp_path, env={"LABCTL_WIKITEXT": str(tmp_path / "wiki.test.raw")})
    assert_one_line(done, "sha256", hint="LABCTL_WIKITEXT")


@pytest.mark.parametrize(
    ("toml", "said", "hint"),
    [("chunk = 4", "'chunk'", "'chunks'"), ("threads = 'x'", "threads", ""), ("= [", "not valid TOML", "")],
)
def test_a_wrong_lab_toml_is_one_line(cli: Any, tmp_path: Path, toml: str, said: str, hint: str) -> None:
    (tmp_path / "lab.toml").write_text(toml, "utf-8")
    assert_one_line(cli("run", cwd=tmp_path), "lab.toml", said, hint=hint)


def test_nothing_measured_yet_is_one_line(cli: Any, new_lab: Path) -> None:
    for arguments in (["report"], ["score"], ["fit", "--ram", "8"]):
        assert_one_line(cli(*arguments, cwd=new_lab), "measured", hint="labctl")


def test_debug_shows_the_traceback(cli: Any, tmp_path: Path) -> None:
    done = cli("run", "--model", "nowhere.gguf", cwd=tmp_path, env={"LABCTL_DEBUG": "1"})
    assert "Traceback" in done.stderr
    assert "LabError" in done.stderr


# -- the source is never written over ---------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("kind", ["itself", "symbolic", "hard"])
def test_output_equal_to_input_is_refused_and_the_source_stays(
    cli: Any, tmp_path: Path, demo_model: Path, kind: str
) -> None:
    folder = tmp_path / "outputs" / "m"
    folder.mkdir(parents=True)
    # the target of format BF16 of a model named m
    target = folder / "m-BF16.gguf"
    source = target if kind == "itself" else tmp_path / "m-f16.gguf"
    shutil.copy(demo_model, source)
    if kind == "symbolic":
        target.symlink_to(source)
    elif kind == "hard":
        target.hardlink_to(source)
    done = cli("quantize", "--model", str(source), "--formats", "BF16", cwd=tmp_path, env={"LABCTL_TEXT": "demo"})
    assert done.returncode == 1
    assert "same file" in done.stderr
    assert "Traceback" not in done.stderr
    assert source.read_bytes() == demo_model.read_bytes()


# -- two at once, Ctrl-C ----------------------------------------------------------------------------------------------


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@posix
def test_two_runs_at_once_and_then_ctrl_c(cli: Any, new_lab: Path, demo_text: Any) -> None:
    words = Path(demo_text.path).read_text("utf-8")
    (new_lab / "long.txt").write_text(words * 12, "utf-8")  # minutes of work, so that all this happens during it
    arguments = ("perplexity", "--chunks", "all", "--text", "long.txt", "--formats", "Q8_0")
    # A suite in a shell's background inherits "ignore" for Ctrl-C, and so would labctl.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    first = cli.start(*arguments, cwd=new_lab, start_new_session=True, **listening)
    try:
        nll = new_lab / "outputs/labllama-15m/nll"
        wait_for(lambda: any(path.stat().st_size for path in nll.glob(".journal-*")))
        children = psutil.Process(first.pid).children()
        assert len(children) == 1
        second = cli("perplexity", "--formats", "Q8_0", cwd=new_lab)
        assert_one_line(second, "Another labctl", str(first.pid), hint="--wait")
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=30)
        assert first.returncode == 130
        assert "Traceback" not in err
        assert "kept" in err
        assert psutil.wait_procs(children, timeout=20)[1] == []
        rows = np.concatenate([np.load(path) for path in nll.glob("[FQ]*.npy")])
        assert np.isfinite(rows).all(axis=1).any()  # what was measured is there, the rest still to be done
        assert not np.isfinite(rows).all()
    finally:
        first.kill()
        first.communicate()
    done = cli("perplexity", "--chunks", "4", "--formats", "Q8_0", "--json", cwd=new_lab)
    assert done.returncode == 0, done.stderr


def test_doctor_looks_at_everything(cli: Any, new_lab: Path) -> None:
    done = cli("doctor", "--no-hub", "--json", cwd=new_lab)
    checks = json.loads(done.stdout)
    assert done.returncode == int(any(one["status"] == "problem" for one in checks))
    assert {one["status"] for one in checks} <= {"ok", "warning", "problem"}
    assert next(one for one in checks if "computes" in one["name"])["status"] == "ok"
    assert all(one["hint"] for one in checks if one["status"] != "ok")
