"""Handing in: what is packed, what a check finds out, what a hostile zip cannot do, runs side by side."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from labctl import steps
from labctl.errors import LabError
from labctl.handin import submission
from labctl.handin.compare import Run, compare, opened
from labctl.handin.submission import load_folder, read_manifest, read_zip, without_paths
from labctl.handin.submit import Submission, submit
from labctl.handin.verify import Check, verify
from labctl.lab.config import LabConfig
from labctl.lab.lab import Lab
from labctl.pipeline.reporting import build_report, load_records
from labctl.records import places
from labctl.records.store import write_record
from labctl.report.figures import cells
from labctl.report.questions import QUESTIONS

JUDGED = tuple(number for number, question in QUESTIONS.items() if question.kind == "judged")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def packed(small_lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Submission]]:
    """A small lab and its submission."""
    from labctl.cli.output import Display
    from labctl.lab.values import load_config
    from labctl.pipeline import opening

    folder = tmp_path_factory.mktemp("handin") / "lab"
    shutil.copytree(small_lab, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lab = opening.open_lab(load_config({"lab_data": str(ROOT / "lab_data")}, environ={}), Display(quiet=True))
        records = load_records(lab)
        build_report(lab, records)
        yield lab, submit(lab, records)


@pytest.fixture
def config(packed: tuple[Lab, Submission]) -> LabConfig:
    return packed[0].config


def results(checks: list[Check]) -> dict[str, str]:
    return {one.name: one.status for one in checks}


def rewritten(packed: tuple[Lab, Submission], target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The submission with changed contents and a manifest that agrees with them: a forger does as much."""
    files = read_zip(packed[1].path.resolve())
    manifest = read_manifest(target, files)
    del files[submission.MANIFEST]
    change(files)
    entries = {name: submission.FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    submission.write_zip(target, msgspec.structs.replace(manifest, files=entries), files)
    return target


def test_an_honest_submission_passes_every_check(packed: tuple[Lab, Submission], config: LabConfig) -> None:
    found = verify(packed[1].path, config, seed=1)
    assert set(results(found).values()) == {"ok"}, found
    assert len(found) == 4 + sum(bool(step.claim) for step in steps.every())
    assert packed[1].drafts == JUDGED


def test_names_marked_for_other_contents_are_not_called_wrong(
    lab_copy: Path, open_lab: Callable[..., Lab], config: LabConfig
) -> None:
    path = next(lab_copy.glob("outputs/*/records/quantize-Q8_0.json"))
    record = json.loads(path.read_text("utf-8"))
    gone = {"tensor": "blk.0.ffn_down.weight", "row_length": 72, "wanted": "q8_0", "got": "f16"}
    record["record"]["fallbacks"] = [gone]
    path.write_text(json.dumps(record), "utf-8")
    lab = open_lab(lab_copy)
    records = load_records(lab)
    build_report(lab, records, force=True)
    done = submit(lab, records)
    assert "| Q8_0 ⚠ |" in (lab_copy / "reports" / lab.model.name / "worksheet.md").read_text("utf-8")
    assert results(verify(done.path, config, seed=1))["tables follow from the records"] == "ok"


def test_equal_work_gives_equal_bytes_and_no_private_path(packed: tuple[Lab, Submission]) -> None:
    lab, done = packed
    first = done.path.read_bytes()
    done.path.unlink()
    assert submit(lab, load_records(lab)).path.read_bytes() == first
    files = read_zip(done.path)
    assert {"reports/worksheet.md", "reports/index.html", "reports/answers.toml", "manifest.json"} <= set(files)
    assert f"outputs/{lab.model.name}/Q4_K_M/prompt_5.txt" in files
    assert not any(name.endswith((".gguf", ".zip", ".log")) for name in files)
    for name, data in files.items():
        assert str(ROOT).encode() not in data and str(Path.cwd()).encode() not in data, name


def test_what_is_missing_is_named_and_stays_named(packed: tuple[Lab, Submission], config: LabConfig) -> None:
    lab, done = packed
    records = load_records(lab)
    chart = done.path.parent / "size_vs_quality.png"
    kept = chart.read_bytes()
    chart.unlink()
    try:
        less = records.only(lambda kept: (kept.step.name, kept.case.format) != ("memory", "Q8_0"))
        with pytest.raises(LabError, match=r"memory Q8_0.*charts as PNG: size_vs_quality\.png"):
            submit(lab, less)
        path = submit(lab, records, incomplete=True).path
        assert results(verify(path, config, seed=1))["complete"] == "wrong"
    finally:
        chart.write_bytes(kept)
        submit(lab, records)


def test_a_file_changed_after_packing_is_found(
    packed: tuple[Lab, Submission], config: LabConfig, tmp_path: Path
) -> None:
    files = read_zip(packed[1].path)
    files["reports/worksheet.md"] += b"x"
    files["reports/extra.txt"] = b"x"
    del files["reports/results.csv"]
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    check = verify(path, config, seed=1)[0]
    assert check.status == "wrong"
    for words in ("worksheet.md was changed", "extra.txt was added", "results.csv is gone"):
        assert words in check.detail


def change_record(files: dict[str, bytes], step: str, **fields: Any) -> None:
    name = next(name for name in files if name.endswith(f"records/{step}.json"))
    content = json.loads(files[name])
    content["record"].update(fields)
    files[name] = json.dumps(content).encode()


@pytest.mark.parametrize(
    ("forge", "check"),
    [
        (lambda f: change_record(f, "perplexity-Q4_K_M", ppl=20.0), "perplexities follow from the tokens' values"),
        (lambda f: change_record(f, "perplexity-F16", ppl_se=0.1), "perplexities follow from the tokens' values"),
        (lambda f: change_record(f, "divergence-Q8_0", kld_mean=0.0), "KL divergences follow from the tokens' values"),
        (lambda f: change_record(f, "quantize-Q8_0", size_bytes=1000), "tables follow from the records"),
        (lambda f: change_record(f, "quantize-Q8_0", sha256="0" * 64), "records are those of the manifest"),
        (lambda f: replace_in(f, "reports/results.csv", b"pass", b"fail"), "tables follow from the records"),
        (lambda f: replace_in(f, "reports/worksheet.md", b"| Q8_0 |", b"| Q8_0 | 9"), "tables follow from the records"),
        (lambda f: replace_in(f, "reports/index.html", b'"ppl":', b'"ppl":1'), "tables follow from the records"),
        (lambda f: change_record(f, "quantize-F16", size_bytes=0), "tables follow from the records"),
        (lambda f: change_record(f, "perplexity-F16", nll_path="../x.npy"), "records are those of the manifest"),
        (lambda f: change_record(f, "perplexity-F16", n_chunks_text=10**12), "tables follow from the records"),
        (
            lambda f: change_record(f, "perplexity-F16", chunks=[[0, 9**9]]),
            "perplexities follow from the tokens' values",
        ),
        (
            lambda f: change_record(f, "divergence-Q8_0", chunks=[[0, 9**9]]),
            "KL divergences follow from the tokens' values",
        ),
        (lambda f: replace_in(f, "/Q4_K_M/prompt_1.txt", b"Once", b"Twice"), "sample outputs are the records'"),
    ],
)
def test_a_forged_figure_is_found(
    packed: tuple[Lab, Submission],
    config: LabConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[[dict[str, bytes]], None],
    check: str,
) -> None:
    monkeypatch.setattr(places, "BESIDE", tmp_path / "none")
    path = rewritten(packed, tmp_path / "s.zip", forge)
    config = replace(config, outputs=str(tmp_path / "none"), lab_data=str(tmp_path / "none"))
    found = results(verify(path, config, seed=1))
    assert found["files are unchanged since packing"] == "ok"
    assert found[check] == "wrong"
    assert found["a chunk measured again gives the same"] == "skipped"


def replace_in(files: dict[str, bytes], ending: str, old: bytes, new: bytes) -> None:
    name = next(name for name in files if name.endswith(ending))
    assert old in files[name], (name, old)
    files[name] = files[name].replace(old, new, 1)


def test_invented_samples_are_found_by_measuring_a_chunk_again(
    packed: tuple[Lab, Submission], config: LabConfig, tmp_path: Path
) -> None:
    def invent(files: dict[str, bytes]) -> None:
        for name in [name for name in files if "/nll/" in name]:
            values = np.load(io.BytesIO(files[name]))
            stream = io.BytesIO()
            np.save(stream, values * 0.97)
            files[name] = stream.getvalue()

    path = rewritten(packed, tmp_path / "s.zip", invent)
    assert results(verify(path, config, seed=3))["a chunk measured again gives the same"] == "wrong"


# -- zips from somebody else ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a\\x", "C:/x", "a//x", ".. /x", "a\n", "a/b/c/d/e/f/g", "é"]
)
def test_a_zip_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(LabError, match="cannot hold"):
        read_zip(path)


def test_links_bombs_and_rubbish_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(LabError, match="cannot hold"):
        read_zip(path)
    monkeypatch.setattr(submission, "_MOST_BYTES", 1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"\0" * (1 << 22))
    with pytest.raises(LabError, match="unpacks to more than 1 MiB"):
        read_zip(path)
    for content in (b"", b"PK\x03\x04rubbish", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(LabError, match="not a sound zip"):
            read_zip(path)
    with pytest.raises(LabError, match="There is no file"):
        read_zip(tmp_path / "none.zip")
    for content in (b"{}", b"[" * 100_000, b"\xff"):
        with pytest.raises(LabError, match="manifest"):
            read_manifest(path, {"manifest.json": content})
    with pytest.raises(LabError, match="no submission"):
        read_manifest(path, {})


def test_a_run_that_is_not_there_is_told_with_what_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="There is no") as caught, opened([tmp_path / "outputs/a", tmp_path / "b.zip"]):
        pass
    assert "outputs/<model> folder" in caught.value.hint and "zip" in caught.value.hint


def test_formats_that_are_paths_are_refused(packed: tuple[Lab, Submission], tmp_path: Path) -> None:
    files = read_zip(packed[1].path)
    content = json.loads(files["manifest.json"])
    for formats in (["../../F16"], [], ["F16/x"]):
        with pytest.raises(LabError, match="impossible"):
            read_manifest(tmp_path / "s.zip", {"manifest.json": json.dumps({**content, "formats": formats}).encode()})


def test_paths_lose_their_folders_and_nothing_else() -> None:
    record = {
        "path": "/home/ann/m.gguf",
        "spec": "C:\\Users\\ann\\m.gguf",
        "text": "/home/ann",
        "nll_path": "nll/x.npy",
    }
    found = json.loads(without_paths(json.dumps({"record": [record, {"path": "m-Q8_0.gguf"}]}).encode()))
    assert found["record"] == [{**record, "path": "m.gguf", "spec": "m.gguf"}, {"path": "m-Q8_0.gguf"}]


def test_folders_and_submissions_open_alike(packed: tuple[Lab, Submission], tmp_path: Path) -> None:
    lab, done = packed
    with opened([lab.folder.root, done.path]) as (folder, archive):
        assert folder.records.formats == archive.records.formats == ("F16", "Q8_0", "Q4_K_M")
        assert rows_equal(folder, archive)
        assert len(compare([folder, archive]).pooled) == 3
    with pytest.raises(LabError, match="1 run cannot"), opened([done.path]):
        pass
    with pytest.raises(LabError, match="holds no run"):
        load_folder(tmp_path)
    write_record(tmp_path / "records" / "source.json", lab.model)
    assert load_folder(tmp_path).formats == ("F16",)


def rows_equal(one: Run, other: Run) -> bool:
    return [cells(row) for row in one.figures.values()] == [cells(row) for row in other.figures.values()]


# -- the command line -------------------------------------------------------------------------------------------------


def test_commands_hand_in_check_and_compare(cli: Any, lab_copy: Path) -> None:
    done = cli("submit", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert ", ".join(f"Q{number}" for number in JUDGED) in done.stderr
    zip_path = done.stdout.strip()
    checked = cli("verify", zip_path, "--json", cwd=lab_copy)
    assert checked.returncode == 0, checked.stdout
    assert {one["status"] for one in json.loads(checked.stdout)} == {"ok"}
    both = cli("compare", "outputs/labllama-15m", zip_path, cwd=lab_copy)
    assert both.returncode == 0, both.stderr
    assert (lab_copy / "reports" / "comparison" / "comparison.png").is_file()
    (lab_copy / zip_path).write_bytes(b"x")
    broken = cli("verify", zip_path, cwd=lab_copy)
    assert broken.returncode == 1 and "not a sound zip" in broken.stderr


@pytest.mark.slow
def test_blank_lines_and_allowances_come_from_the_settings(cli: Any, lab_copy: Path) -> None:
    sheet = lab_copy / "reports" / "labllama-15m" / "worksheet.md"
    assert "____" not in sheet.read_text("utf-8")
    settings = (lab_copy / "lab.toml").read_text("utf-8")
    (lab_copy / "lab.toml").write_text(f"{settings}[q13_limits]\ncreative_ppl_increase_pct = 77.5\n", "utf-8")
    done = cli("report", "--blank", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    text = sheet.read_text("utf-8")
    assert text.count("**Answer:** ____") == 5 and "at most 77.5 %" in text
    (lab_copy / "lab.toml").write_text(f"{settings}[q13_limits]\nchatbot_speed = 1\n", "utf-8")
    wrong = cli("report", cwd=lab_copy)
    assert wrong.returncode == 1 and "chatbot_speed" in wrong.stderr


def test_a_probe_of_ones_own_is_asked(open_lab: Callable[..., Lab], new_lab: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lab_data" / "demo", tmp_path / "lab_data" / "demo")
    own = tmp_path / "lab_data" / "probes" / "colours.csv"
    own.parent.mkdir()
    own.write_text("prompt,answer\nThe colour of snow is,white\n", "utf-8")
    lab = open_lab(new_lab, lab_data=str(tmp_path / "lab_data"))
    assert lab.probes["colours"] == own and {"sums", "capitals"} < set(lab.probes)
