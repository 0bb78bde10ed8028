"""Options: each is made from a setting, and is shown by the commands that read it and by no other."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from kit.command import ROOT, Cli

from labctl.cli.app import cli as group
from labctl.errors import LabError
from labctl.lab.config import FIELDS, SETTINGS, LabConfig

PASSED_ON = (
    "dataclasses",
    "labctl.lab.values",
    "labctl.lab.command",
    "labctl.pipeline.asked",
    "labctl.pipeline.reopening",
)
"""Modules that hand settings on; what they read has no effect yet."""
HAVING = ("having", "replace")
OWN = ("--model", "own.gguf", "--text", "demo")
RUNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "prepare": ((), OWN),
    "quantize": (("--force", *OWN),),
    "perplexity": (("--force", "--chunks", "auto", *OWN),),
    "divergence": (("--force", *OWN),),
    "generate": (("--force", *OWN),),
    "memory": (("--force", *OWN),),
    "bench": (("--force", *OWN),),
    "report": ((), ("--chunks", "auto", *OWN)),
    "score": ((), ("--chunks", "auto", *OWN)),
    "fit": ((), ("--model", "own.gguf")),
    "submit": (("--incomplete",), ("--incomplete", "--chunks", "auto", *OWN)),
    "verify": (("submission.zip",),),
    "compare": (("outputs/own", "submission.zip"),),
    "doctor": (("--no-hub", *OWN),),
    "models": ((),),
}
"""What is typed to see which settings a command reads. `run` makes all steps; `convert` needs PyTorch."""


def settings_of(name: str) -> set[str]:
    """The settings that a command shows as options."""
    command = group.commands[name]
    return {str(option.name) for option in command.get_params(click.Context(command))} & set(FIELDS)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of settings that were read since."""
    names: set[str] = set()

    def spy(self: LabConfig, name: str) -> object:
        caller = sys._getframe(1)
        handed_on = caller.f_globals.get("__name__") in PASSED_ON or caller.f_code.co_name in HAVING
        if name in FIELDS and not handed_on:
            names.add(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(LabConfig, "__getattribute__", spy)
    yield names


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_option_shown_is_read(
    cli: Cli, own_lab: Path, read: set[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = own_lab
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LABCTL_LAB_DATA", str(ROOT / "lab_data"))
    for arguments in RUNS[name]:
        try:
            group.main([name, *arguments], standalone_mode=False)
        except click.exceptions.Exit as leaving:  # doctor finds fault with this machine
            assert name == "doctor" and leaving.exit_code == 1
        except LabError:  # these are not measured with --chunks auto
            assert name == "score" and "auto" in arguments
    assert settings_of(name) - {"model", "outputs", "lab_data"} <= read, name


@pytest.fixture(scope="module")
def measured(cli: Cli, small_lab: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small lab, handed in, and a measured model that no name stands for."""
    folder = tmp_path_factory.mktemp("own") / "lab"
    shutil.copytree(small_lab, folder)
    (folder / "lab.toml").write_text(
        (folder / "lab.toml").read_text("utf-8").replace('"Q8_0", "Q4_K_M"', '"Q4_0"'), "utf-8"
    )
    shutil.copy(demo_model, folder / "own.gguf")
    with (folder / "own.gguf").open("ab") as stream:
        stream.write(b"\0" * 64)
    for arguments in (("submit", "--incomplete"), ("run", "--model", "own.gguf")):
        done = cli(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    shutil.copy(next(folder.glob("reports/*/submission-*.zip")), folder / "submission.zip")
    return folder


@pytest.fixture
def own_lab(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(measured, tmp_path / "lab"))


def test_run_shows_what_its_steps_and_the_report_show() -> None:
    steps = ("quantize", "perplexity", "divergence", "generate", "memory", "bench")
    assert settings_of("run") == {name for step in steps for name in settings_of(step)} | {"blank"}


def test_every_setting_with_a_flag_is_an_option_somewhere_and_no_other() -> None:
    shown = {name for command in group.commands for name in settings_of(command)}
    assert shown == {name for name, setting in SETTINGS.items() if setting.flag}


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("verify", {"chunks", "ctx", "model", "imatrix"}),
        ("compare", {"model", "text", "threads"}),
        ("memory", {"chunks", "budget_s"}),
        ("report", {"allow_quantized_source", "bench_budget_s"}),
    ],
)
def test_options_without_effect_are_not_taken(cli: Cli, tmp_path: Path, name: str, absent: set[str]) -> None:
    assert not absent & settings_of(name)
    for setting in absent - {"allow_quantized_source"}:
        done = cli(name, SETTINGS[setting].flag, "4", cwd=tmp_path)
        assert done.returncode == 2 and "No such option" in done.stderr, done.stderr
