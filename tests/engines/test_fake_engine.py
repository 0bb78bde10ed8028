"""A second engine needs no change above engines/: its lab is run, and what it cannot do is a gap with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from labctl import engines, steps
from labctl.cli import app
from labctl.engines.base import Ability
from labctl.errors import LabError

ROOT = Path(__file__).resolve().parents[2]
LACKING = {
    "perplexity": "Fake does not tell how likely each token is.",
    "divergence": "Fake does not tell how likely each token is.",
    "memory": "Fake does not tell what it takes of memory.",
    "speed": "Fake cannot be timed.",
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with a model of the fake engine, which is in the table."""
    monkeypatch.setitem(engines.TABLE, "fake", "kit.fake_engine:ENGINE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.fake").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "lab.toml").write_text('text = "demo"\nprobe_items = 1\nnew_tokens = 2\n', "utf-8")
    return tmp_path


def labctl(fake: Path, *arguments: str) -> None:
    """A command in this process, whose table has the fake engine."""
    options = ["--model", str(fake / "m.fake"), "--json", "--lab-data", str(ROOT / "lab_data")]
    assert not app.cli.main([*arguments, *options], standalone_mode=False)


def test_its_lab_is_run_and_reported(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labctl(fake, "run", "--formats", "HALF,EIGHTH")
    said = json.loads(capsys.readouterr().out)
    assert (said["made"], said["failures"]) == (6, [])  # files and texts of three formats
    sheet = (fake / "reports" / "m" / "worksheet.md").read_text("utf-8")
    for step, reason in LACKING.items():
        gap = next(line for line in sheet.splitlines() if line.startswith(f"| {step} |"))
        assert reason in gap and "HALF, EIGHTH" in gap
    sizes = [(fake / "outputs" / "m" / f"m-{name}.fake").stat().st_size for name in ("HALF", "EIGHTH")]
    assert sizes == [8192, 2048]


def test_formats_of_another_engine_are_refused(fake: Path) -> None:
    with pytest.raises(LabError, match="Q8_0: not formats that Fake makes of m") as caught:
        labctl(fake, "quantize", "--formats", "Q8_0,HALF")
    assert "HALF,EIGHTH" in caught.value.hint


def test_each_engine_says_all_that_a_step_may_ask(fake: Path) -> None:
    for engine in engines.every():
        assert engine.name in engines.TABLE and engine.can <= set(get_args(Ability)), engine.name
        assert set(engine.usual_formats) <= set(engine.formats)
        assert all(name == format_.name for name, format_ in engine.formats.items())
        assert all(engine.lacks(ability).startswith(engine.title) for ability in set(get_args(Ability)) - engine.can)
    assert [step.asks for step in steps.every() if step.asks is not None and step.asks not in get_args(Ability)] == []
    assert list(engines.formats())[-2:] == ["HALF", "EIGHTH"]
