"""How long a whole lab is said to take before anything of a model is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from kit.command import Cli
from kit.notes import Notes

from labctl.cli.models import models
from labctl.errors import LabError
from labctl.lab.sources.presets import PRESETS
from labctl.pipeline import forecast
from labctl.steps.rates import Rates

MACHINE = Rates(n_params=100_000_000, bits=16.0, prompt_s=0.002, token_s=0.02, open_s=0.2)


def whole_lab_s(name: str) -> float:
    lab = forecast.any_lab("outputs", Notes())
    preset = PRESETS[name]
    baseline = MACHINE.at(8 * preset.baseline_bytes / preset.n_params).of(preset.n_params)
    return forecast.whole_lab_s(lab, baseline, is_demo=name == "demo")


@pytest.mark.slow
def test_a_larger_model_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    times_s = [whole_lab_s(name) for name in ("demo", "smollm2-135m", "tinyllama-1.1b", "qwen2.5-1.5b", "llama-2-7b")]
    assert times_s == sorted(times_s) and times_s[0] > 30
    assert times_s[-1] > 3 * times_s[-2]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_machine_is_timed_once_where_the_answer_can_be_kept(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "outputs").mkdir()
    first = cli("models", cwd=tmp_path)
    assert first.returncode == 0 and "Timing this machine" in first.stderr, first.stderr
    kept = (tmp_path / "outputs" / ".rates.json").read_bytes()
    second = cli("models", cwd=tmp_path)
    assert "Timing" not in second.stderr and second.stdout == first.stdout
    assert (tmp_path / "outputs" / ".rates.json").read_bytes() == kept
    assert json.loads(cli("models", "--json", cwd=tmp_path).stdout)[0]["whole_lab_s"] > 30


def test_where_nothing_can_be_timed_the_list_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise LabError("There is no llama-cpp-python here.")

    monkeypatch.setattr(forecast, "any_lab", refuse)
    done = CliRunner().invoke(models, [])
    assert done.exit_code == 0, done.output
    assert "How long a lab takes is not known: There is no llama-cpp-python here." in done.stderr
    assert done.stdout.count("not known") == len(PRESETS) and "Qwen2.5" in done.stdout
