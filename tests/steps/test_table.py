"""The table of steps: the record of each is kept, packed, read back and checked, and its failure is told."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kit.command import Cli

from labctl import steps
from labctl.cli.output import Display
from labctl.errors import LabError
from labctl.handin import submission
from labctl.handin.submission import load_folder, read_manifest, read_zip, write_zip
from labctl.handin.verify import verify
from labctl.lab.config import FIELDS, LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.pipeline import plan
from labctl.pipeline import reporting as results
from labctl.pipeline import run as pipeline
from labctl.records.store import write_record
from labctl.report.gaps import gaps
from labctl.steps.base import Step
from labctl.steps.divergence import step as divergence
from labctl.steps.measured import Failures, StepFailure

Open = Callable[..., Lab]
EVERY = steps.every()


@pytest.fixture(scope="module")
def everything(cli: Cli, small_lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab with every group of records measured, the ones on request, too."""
    folder = tmp_path_factory.mktemp("everything") / "lab"
    shutil.copytree(small_lab, folder)
    done = cli("bench", "--batch", "1,2", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = cli("bench", "--sweep-threads", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def packed(cli: Cli, everything: Path) -> Path:
    """Its submission."""
    done = cli("submit", cwd=everything)
    assert done.returncode == 0, done.stderr
    return everything / done.stdout.strip()


def statuses(path: Path, config: LabConfig) -> dict[str, str]:
    return {one.name: one.status for one in verify(path, config, seed=1)}


def test_each_step_goes_by_its_place_in_the_table() -> None:
    assert [step.name for step in EVERY] == list(steps.TABLE)
    assert len({step.record for step in EVERY}) == len(EVERY)
    for step in EVERY:
        assert type(step).__module__ == f"labctl.steps.{step.name}.step"
        assert {*step.after, step.rides} - {""} <= set(steps.TABLE)


@pytest.mark.slow
def test_batches_and_sweeps_of_threads_are_honest_work(cli: Cli, everything: Path, packed: Path) -> None:
    sheet = (everything / "reports/labllama-15m/worksheet.md").read_text("utf-8")
    assert "records/batch-{F16,Q8_0,Q4_K_M}.json" in sheet and "records/threads-Q4_K_M.json" in sheet
    checked = cli("verify", str(packed), "--json", cwd=everything)
    assert {one["status"] for one in json.loads(checked.stdout)} == {"ok"}, checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("step", EVERY, ids=lambda step: step.name)
def test_each_record_is_packed_loaded_and_checked(
    everything: Path, packed: Path, open_lab: Open, tmp_path: Path, step: Step[Any]
) -> None:
    lab = open_lab(everything)
    records = results.load_records(lab)
    there = records[step]
    assert there
    files = read_zip(packed)
    manifest = read_manifest(packed, files)
    root = f"outputs/{lab.model.name}"
    for case, record in there.items():
        assert f"{root}/records/{step.name}-{case}.json" in files
        assert all(f"{root}/{name}" in files for name in step.raw(record))
        assert (
            manifest.record_keys[f"{step.name}-{case}"] == record.provenance.key == records.keys[f"{step.name}-{case}"]
        )
    submission.unpack(files, tmp_path / "zip")
    loaded = load_folder(tmp_path / "zip" / root, manifest.formats)
    assert list(loaded[step]) == list(there)

    gone = next(name for name in files if f"/records/{step.name}-" in name)
    for change in ("dropped", "another key"):
        forged = {name: data for name, data in files.items() if name != submission.MANIFEST}
        if change == "dropped":
            del forged[gone]
        else:
            content = json.loads(forged[gone])
            content["record"]["provenance"]["key"] = "0" * 64
            forged[gone] = json.dumps(content).encode()
        entries = {
            name: submission.FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in forged.items()
        }
        write_zip(tmp_path / "forged.zip", msgspec.structs.replace(manifest, files=entries), forged)
        config = LabConfig(outputs=str(tmp_path / "none"), lab_data=str(tmp_path / "none"))
        assert statuses(tmp_path / "forged.zip", config)["records are those of the manifest"] == "wrong", change


@pytest.mark.slow
@pytest.mark.parametrize("step", EVERY, ids=lambda step: step.name)
def test_a_record_counts_under_its_own_key_and_with_its_raw_samples_only(
    everything: Path, open_lab: Open, tmp_path: Path, step: Step[Any]
) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(everything, folder)
    lab = open_lab(folder)
    there = step.load(lab)
    case, record = list(there.items())[-1]
    assert case in step.cases(lab) and step.read(lab.folder, case) == record
    assert step.fresh(lab, case) == record and case not in step.stale(lab)
    raw = [lab.folder.root / name for name in step.raw(record)]
    for path in raw:
        kept = path.read_bytes()
        path.unlink()
        assert case not in step.load(lab)
        path.write_bytes(kept)
    assert step.load(lab) == there
    path = lab.folder.record_path(step.name, str(case))
    content = json.loads(path.read_bytes())
    content["record"]["provenance"]["key"] = "0" * 64
    path.write_text(json.dumps(content), "utf-8")
    assert case not in step.load(lab)


@pytest.mark.parametrize("step", EVERY, ids=lambda step: step.name)
def test_what_fails_is_told_with_its_reason(lab_copy: Path, open_lab: Open, step: Step[Any]) -> None:
    lab = open_lab(lab_copy)
    case = step.stale(lab, force=True)[-1]
    lab.folder.record_path(step.name, str(case)).unlink(missing_ok=True)

    failure = StepFailure(step=step.name, format=case.format, text=case.text, message="The disk is full.", hint="Free.")
    write_record(lab.folder.record_path("failures"), Failures(failures=(failure,)))
    told = gaps(results.load_records(lab))
    assert (step.name, case.format, "The disk is full. Free.") in {(gap.step, gap.format, gap.reason) for gap in told}


def test_a_failure_of_the_baselines_pass_is_the_reason_of_every_format(
    lab_copy: Path, open_lab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = open_lab(lab_copy)
    folder = RunFolder(lab.folder.root)
    for path in (*folder.records.glob("divergence-*"), *folder.nll.glob("*-kl-*")):
        path.unlink()

    def full(*_: Any, **__: Any) -> None:
        raise LabError("The disk is full.", "Free some space.")

    with monkeypatch.context() as patch:
        patch.setattr(divergence, "measure", full)
        outcome = pipeline.run(lab, Display(quiet=True), names=("divergence",), report=False)
    assert {(one.step, one.format) for one in outcome.failures} == {("divergence", "F16")}
    assert {(one.format, one.reason) for one in gaps(results.load_records(lab))} == {
        (label, "The disk is full. Free some space.") for label in ("Q8_0", "Q4_K_M")
    }
    again = pipeline.run(lab, Display(quiet=True), names=("divergence",), report=False)
    assert (again.made, again.fresh, again.failures, gaps(again.records)) == (2, 0, (), ())


def test_a_baselines_failure_of_long_ago_is_no_gap_once_all_is_measured(lab_copy: Path, open_lab: Open) -> None:

    from labctl.records.store import write_record

    lab = open_lab(lab_copy)
    old = StepFailure(step="divergence", format="F16", message="The disk is full.")
    write_record(lab.folder.record_path("failures"), Failures(failures=(old,)))
    assert results.load_records(lab).failures == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "made", "fresh"),
    [
        ({}, 0, 18),
        ({"chunks": 6}, 3, 15),
        ({"seed": 7}, 3, 15),
        ({"chunks": "auto", "kl_chunks": 2, "formats": ("Q8_0",)}, 2 + 1, 2 + 2 + 2 + 1),
        ({"bench_rounds": 3, "bench_max_rounds": 3}, 3, 15),
    ],
    ids=str,
)
def test_counts_are_of_records_written_and_up_to_date(
    lab_copy: Path, open_lab: Open, flags: dict[str, Any], made: int, fresh: int
) -> None:
    records = lab_copy / "outputs/labllama-15m/records"
    before = {path.name: path.read_bytes() for path in records.iterdir()}
    lab = open_lab(lab_copy, **flags)
    names = tuple(name for name in plan.STEPS if name != "bench" or flags.get("formats") is None)
    outcome = pipeline.run(lab, Display(quiet=True), names=names, report=False)
    mine = {f"{kept.step.name}-{kept.case}.json" for kept in outcome.records if kept.step.name in names}
    written = {name for name in mine if (records / name).read_bytes() != before.get(name)}
    assert (outcome.made, outcome.fresh) == (len(written), len(mine) - len(written)) == (made, fresh)


@pytest.mark.slow
def test_what_could_not_be_tried_counts_as_neither(new_lab: Path, open_lab: Open) -> None:
    lab = open_lab(new_lab, chunks=2)
    lab.gguf_path("Q4_K_M").mkdir()  # a folder where the file should come
    outcome = pipeline.run(lab, Display(quiet=True), names=("quantize", "perplexity"), report=False)
    assert (outcome.made, outcome.fresh, len(outcome.failures)) == (4, 0, 1)
    assert dataclasses.replace(outcome, made=0).failures[0].step == "quantize"


NAMED = {
    "cli/app.py": {"perplexity"},  # a column's title
    "cli/bench.py": {"bench", "quantize"},  # the command with options that ask for other steps
    "cli/results.py": {"memory"},  # a column's title
}
"""Modules above the steps that name one, and why that is fine."""


def test_no_module_above_the_steps_names_one() -> None:
    root = Path(steps.__file__).parents[1]
    names = set(steps.TABLE) - set(FIELDS)  # threads is a setting, too
    named = {
        path.relative_to(root).as_posix(): found
        for place in ("cli/**/*", "pipeline/**/*", "handin/**/*", "executors/**/*", "lab/**/*", "report/gaps")
        for path in root.glob(f"{place}.py")
        if (
            found := {
                node.value
                for node in ast.walk(ast.parse(path.read_text("utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
                if node.value in names or node.value.startswith(tuple(f"{name}-" for name in names))
            }
        )
    }
    assert named == NAMED


def test_every_step_has_a_command_or_is_asked_for_by_an_option() -> None:
    assert set(steps.COMMANDS) == {step.name for step in steps.every() if not step.on_request}
    for name in steps.COMMANDS:
        assert f"Example: labctl {name}" in steps.command_help(name)
