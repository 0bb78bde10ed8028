"""Which lab a command reads, and that labs of different models share nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.command import Cli

from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.pipeline import asked, labs
from labctl.pipeline import reporting as results
from labctl.records.sources import SourceModel
from labctl.records.store import write_record

NAME = "labllama-15m"


def known(outputs: Path, name: str, sha256: str, when: float = 0.0, spec: str = "") -> None:
    import os

    folder = RunFolder(outputs / name)
    model = SourceModel(
        name=name, spec=spec or f"{name}.gguf", path=f"/gone/{name}.gguf", origin="gguf", size_bytes=1, sha256=sha256
    )
    write_record(folder.record_path("source"), model)
    os.utime(folder.record_path("source"), (when, when))


def model_of(name: str, sha256: str) -> SourceModel:
    return SourceModel(name=name, spec=f"b/{name}.gguf", path="x", origin="gguf", size_bytes=1, sha256=sha256)


def test_a_folder_belongs_to_one_model(tmp_path: Path) -> None:
    outputs, reports = tmp_path / "outputs", tmp_path / "reports"
    one, two = "1" * 64, "2" * 64
    assert labs.folder_name(model_of("model", one), outputs, reports) == ("model", "")
    known(outputs, "model", one)
    assert labs.folder_name(model_of("model", one), outputs, reports) == ("model", "")
    name, why = labs.folder_name(model_of("model", two), outputs, reports)
    assert name == "model-22222222"
    assert "belongs to another model" in why and str(outputs / name) in why
    known(outputs, name, two)
    assert labs.folder_name(model_of("model", two), outputs, reports)[0] == name
    (outputs / "model" / "records" / "source.json").write_text("{", "utf-8")  # damaged: lab.json still says whose it is
    asked.note(RunFolder(outputs / "model"), model_of("model", one), LabConfig(), 1, (), whole=True, standing={})
    assert labs.owner(outputs / "model") == one
    known(outputs, "model", one)
    # the same model under another name keeps its lab
    found, why = labs.folder_name(model_of("renamed", one), outputs, reports)
    assert found == "model" and "goes on there" in why


def test_a_reports_folder_belongs_to_one_model(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    (reports / "model").mkdir(parents=True)
    (reports / "model" / labs.STAMP).write_text(json.dumps({"key": "", "model": "1" * 64, "files": []}), "utf-8")
    name, why = labs.folder_name(model_of("model", "2" * 64), tmp_path / "outputs", reports)
    assert name == "model-22222222" and str(reports / "model") in why
    assert labs.folder_name(model_of("model", "1" * 64), tmp_path / "outputs", reports) == ("model", "")


def test_labs_are_listed_with_the_last_measured_first(tmp_path: Path) -> None:
    for name, when in (("a", 10.0), ("b", 30.0), ("c", 20.0)):
        known(tmp_path, name, name * 64, when)
    (tmp_path / "d" / "records").mkdir(parents=True)
    (tmp_path / "d" / "records" / "source.json").write_text("{", "utf-8")
    assert [lab.name for lab in labs.labs(tmp_path)] == ["b", "c", "a"]
    assert labs.labs(tmp_path / "none") == ()


@pytest.mark.slow
def test_report_finds_the_lab_by_itself_and_by_its_name(cli: Cli, lab_copy: Path, demo_model: Path) -> None:
    shutil.move(lab_copy / "outputs" / NAME, lab_copy / "kept")
    shutil.copy(demo_model, lab_copy / "mine-f16.gguf")
    with (lab_copy / "mine-f16.gguf").open("ab") as stream:
        stream.write(b"\0" * 64)  # another file with the same weights
    done = cli("quantize", "--model", "mine-f16.gguf", "--formats", "Q8_0", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert cli("report", cwd=lab_copy).returncode == 0
    assert "report --model mine" in (lab_copy / "reports" / "mine" / "answers.toml").read_text("utf-8")
    shutil.move(lab_copy / "kept", lab_copy / "outputs" / NAME)
    for command in (("report",), ("quantize", "--formats", "Q8_0")):
        done = cli(*command, cwd=lab_copy)
        assert done.returncode == 0, done.stderr
        assert "This is mine, measured last. Others, for --model: labllama-15m." in done.stderr
    for name, lab in (("mine", "mine"), (NAME, NAME), ("demo", NAME), ("mine-f16.gguf", "mine")):
        done = cli("report", "--model", name, cwd=lab_copy)
        assert done.returncode == 0, done.stderr
        assert f"reports/{lab}/worksheet.md" in done.stdout
    (lab_copy / "mine-f16.gguf").rename(lab_copy / "moved.gguf")
    done = cli("report", "--model", "moved.gguf", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert "reports/mine/worksheet.md" in done.stdout
    done = cli("memory", "--model", "moved.gguf", "--formats", "Q8_0", "--json", cwd=lab_copy)
    assert json.loads(done.stdout)["outputs"] == "outputs/mine", done.stderr


def test_a_model_without_a_lab_is_told_which_labs_there_are(cli: Cli, lab_copy: Path, demo_model: Path) -> None:
    (lab_copy / "other.gguf").write_bytes(demo_model.read_bytes() + b"\0")
    for command in ("report", "submit"):
        done = cli(command, "--model", "other.gguf", cwd=lab_copy)
        assert done.returncode == 1
        assert "Nothing is measured for other yet." in done.stderr
        assert "labctl run --model other.gguf" in done.stderr and f"outputs holds {NAME}" in done.stderr
    assert not (lab_copy / "outputs" / "other").exists()
    assert not (lab_copy / "reports" / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [("a/model.gguf", "b/model.gguf"), ("模型.gguf", "型模.gguf"), ("t-f16.gguf", "t-bf16.gguf")]
)
def test_two_models_of_one_name_share_nothing(
    cli: Cli, new_lab: Path, demo_model: Path, first: str, second: str
) -> None:
    data = demo_model.read_bytes()
    for name, tail in ((first, b"\0" * 32), (second, b"\0" * 64)):
        (new_lab / name).parent.mkdir(exist_ok=True)
        (new_lab / name).write_bytes(data + tail)
    flags = ("--formats", "Q8_0", "--chunks", "2")
    done = cli("perplexity", "--model", first, *flags, "--json", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    mine = new_lab / json.loads(done.stdout)["outputs"]
    assert cli("report", cwd=new_lab).returncode == 0
    answers = new_lab / "reports" / mine.name / "answers.toml"
    answers.write_text('Q6 = "MY ANSWER about the first"\n', "utf-8")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    done = cli("perplexity", "--model", second, *flags, "--json", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    other = new_lab / json.loads(done.stdout)["outputs"]
    assert other.name.startswith(f"{mine.name}-") and other != mine
    assert cli("report", "--model", second, cwd=new_lab).returncode == 0
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before
    sheet = (new_lab / "reports" / other.name / "worksheet.md").read_text("utf-8")
    assert "MY ANSWER" not in sheet
    assert "MY ANSWER" in cli("report", "--model", first, cwd=new_lab).stdout + (
        new_lab / "reports" / mine.name / "worksheet.md"
    ).read_text("utf-8")


def test_a_report_is_not_written_over_another_models(lab_copy: Path, open_lab: Callable[..., Lab]) -> None:
    lab = open_lab(lab_copy)
    stamp = lab_copy / "reports" / NAME / labs.STAMP
    stamp.write_text(json.dumps({"key": "", "model": "9" * 64, "files": []}), "utf-8")
    with pytest.raises(LabError, match="another model") as caught:
        results.build_report(lab, results.load_records(lab))
    assert "--reports" in caught.value.hint


def test_what_is_asked_is_written_down_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("x", "utf-8")
    config = LabConfig(text="book.txt", lab_data="data", formats=("Q8_0",), weights={"size": 1.0})
    folder = RunFolder(tmp_path / "outputs" / "m")
    names: tuple[Any, ...] = ("perplexity",)
    found = asked.note(folder, model_of("m", "1" * 64), config, 2, names, whole=False, standing={})
    assert asked.read(folder) == found
    assert found.steps["perplexity"]["text"] == str(tmp_path / "book.txt")
    assert found.of_lab == {"lab_data": str(tmp_path / "data"), "weights": {"size": 1.0}}


@pytest.mark.slow
def test_a_bf16_source_is_its_own_baseline_and_f16_is_a_format_of_it(cli: Cli, new_lab: Path) -> None:
    assert cli("quantize", "--formats", "BF16", cwd=new_lab).returncode == 0
    (new_lab / "outputs" / NAME / f"{NAME}-BF16.gguf").rename(new_lab / "brain.gguf")
    flags = ("--model", "brain.gguf", "--chunks", "2", "--json")
    done = cli("perplexity", *flags, "--formats", "BF16", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["made"], json.loads(done.stdout)["outputs"]) == (2, "outputs/brain")
    done = cli("perplexity", *flags, "--formats", "F16", cwd=new_lab)
    assert json.loads(done.stdout)["made"] == 2, done.stderr
    assert (new_lab / "outputs/brain/brain-F16.gguf").is_file()
    assert cli("report", "--model", "brain", cwd=new_lab).returncode == 0
    assert "| BF16 |" in (new_lab / "reports/brain/worksheet.md").read_text("utf-8")


def test_what_reads_in_an_empty_folder_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    for arguments in (("report",), ("score",), ("report", "--model", "none"), ("submit",), ("fit", "--ram", "8")):
        assert cli(*arguments, cwd=tmp_path).returncode == 1
        assert not list(tmp_path.iterdir()), arguments
