"""The table of record groups: each of its rows is packed, read back and checked, and its failures are told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from conftest import Cli

from labctl.cli.output import Display
from labctl.errors import LabError
from labctl.handin import submission
from labctl.handin.submission import load_folder, read_manifest, read_zip, write_zip
from labctl.handin.verify import verify
from labctl.lab.config import LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.pipeline import plan
from labctl.pipeline import reporting as results
from labctl.pipeline import run as pipeline
from labctl.report.gaps import gaps
from labctl.steps.divergence import step as divergence
from labctl.steps.groups import GROUPS, Group, of_group, record_keys, runs
from labctl.steps.measured import LabRecords

Open = Callable[..., Lab]


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


def test_every_group_of_a_lab_is_in_the_table() -> None:
    hints = get_type_hints(LabRecords)
    mappings = {name: hint for name, hint in hints.items() if getattr(hint, "__origin__", None) is dict}
    assert {group.field: group.kind for group in GROUPS} == {name: hint.__args__[1] for name, hint in mappings.items()}
    assert len({group.step for group in GROUPS}) == len(GROUPS)


@pytest.mark.slow
def test_batches_and_sweeps_of_threads_are_honest_work(cli: Cli, everything: Path, packed: Path) -> None:
    sheet = (everything / "reports/labllama-15m/worksheet.md").read_text("utf-8")
    assert "records/batch-{F16,Q8_0,Q4_K_M}.json" in sheet and "records/threads-Q4_K_M.json" in sheet
    checked = cli("verify", str(packed), "--json", cwd=everything)
    assert {one["status"] for one in json.loads(checked.stdout)} == {"ok"}, checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.field)
def test_each_group_is_packed_loaded_and_checked(
    everything: Path, packed: Path, open_lab: Open, tmp_path: Path, group: Group
) -> None:
    lab = open_lab(everything)
    records = results.load_records(lab)
    there = of_group(records, group)
    assert there
    files = read_zip(packed)
    manifest = read_manifest(packed, files)
    root = f"outputs/{lab.model.name}"
    for label, record in there.items():
        assert f"{root}/records/{group.step}-{label}.json" in files
        assert all(f"{root}/{name}" in files for name in group.raw(record))
        assert manifest.record_keys[f"{group.step}-{label}"] == record_keys(records)[f"{group.step}-{label}"]
    submission.unpack(files, tmp_path / "zip")
    loaded = load_folder(tmp_path / "zip" / root, manifest.formats)
    assert list(of_group(loaded, group)) == list(there)

    gone = next(name for name in files if f"/records/{group.step}-" in name)
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


@pytest.mark.parametrize("group", [group for group in GROUPS if group.step not in ("quantize", "batch", "threads")])
def test_a_record_without_its_raw_samples_does_not_count(lab_copy: Path, open_lab: Open, group: Group) -> None:
    record = of_group(results.load_records(open_lab(lab_copy)), group)["Q8_0"]
    names = group.raw(record)
    for name in names:
        (lab_copy / "outputs/labllama-15m" / name).unlink()
    assert ("Q8_0" in of_group(results.load_records(open_lab(lab_copy)), group)) is not bool(names)


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
    from labctl.steps.groups import Failures
    from labctl.steps.measured import StepFailure

    lab = open_lab(lab_copy)
    old = StepFailure(step="divergence", format="F16", message="The disk is full.")
    write_record(lab.folder.record_path("failures"), Failures(failures=(old,)))
    assert results.load_records(lab).failures == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "made", "fresh"),
    [
        ({}, 0, 17),
        ({"chunks": 6}, 3, 14),
        ({"seed": 7}, 3, 14),
        ({"chunks": "auto", "kl_chunks": 2, "formats": ("Q8_0",)}, 2 + 1, 2 + 2 + 2),
        ({"bench_rounds": 3, "bench_max_rounds": 3}, 3, 14),
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
    mine = {f"{one.group.step}-{one.label}.json" for one in runs(outcome.records) if one.group.step in names}
    written = {name for name in mine if (records / name).read_bytes() != before.get(name)}
    assert (outcome.made, outcome.fresh) == (len(written), len(mine) - len(written)) == (made, fresh)


@pytest.mark.slow
def test_what_could_not_be_tried_counts_as_neither(new_lab: Path, open_lab: Open) -> None:
    lab = open_lab(new_lab, chunks=2)
    lab.gguf_path("Q4_K_M").mkdir()  # a folder where the file should come
    outcome = pipeline.run(lab, Display(quiet=True), names=("quantize", "perplexity"), report=False)
    assert (outcome.made, outcome.fresh, len(outcome.failures)) == (4, 0, 1)
    assert dataclasses.replace(outcome, made=0).failures[0].step == "quantize"
