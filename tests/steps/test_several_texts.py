"""A lab of several texts: what was measured on one stays when another is measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.command import Cli

from labctl.handin.submission import read_manifest, read_zip
from labctl.lab.lab import Lab
from labctl.pipeline.reporting import load_records
from labctl.records.sources import TextSource
from labctl.steps.base import Case
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.perplexity.step import PERPLEXITY

Open = Callable[..., Lab]
FOLDER = "outputs/labllama-15m"


def text(name: str, kind: str = "custom", sha256: str = "0123456789abcdef") -> TextSource:
    return TextSource(name=name, kind=kind, path=name, size_bytes=1, sha256=sha256)


def test_a_texts_name_in_files_is_no_part_of_a_formats() -> None:
    assert text("demo text", "demo").slug == text("WikiText-2", "wikitext-2").slug == ""
    assert text("My Notes (2).txt").slug == "my_notes_2-01234567"
    assert text("../..").slug == text("\u4e2d.txt").slug == "text-01234567"
    assert text("q8_0.txt").slug != text("q8_0.txt", sha256="f" * 64).slug
    assert str(Case("Q8_0", text("notes.txt").slug)) == "Q8_0-notes-01234567"


@pytest.mark.slow
def test_another_text_is_measured_beside_the_first(cli: Cli, lab_copy: Path, open_lab: Open) -> None:
    folder = lab_copy / FOLDER / "records"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith(("perpl", "diverg"))}
    words = (lab_copy / "other.txt", "The river was old and the people of the city came in winter to see it. " * 400)
    words[0].write_text(words[1], "utf-8")
    done = cli("perplexity", "--text", "other.txt", "--chunks", "3", "--json", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["made"], json.loads(done.stdout)["up_to_date"]) == (3, 3)
    assert {name: (folder / name).read_bytes() for name in before} == before
    new = {path.name for path in folder.glob("perplexity-*")} - set(before)
    assert len(new) == 3 and all("-other-" in name for name in new)

    done = cli("report", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    sheet = (lab_copy / "reports/labllama-15m/worksheet.md").read_text("utf-8")
    assert "other.txt" in sheet and "perplexity-{F16,Q8_0,Q4_K_M}-other-" in sheet
    done = cli("submit", "--incomplete", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    zipped = lab_copy / done.stdout.strip()
    manifest = read_manifest(zipped, read_zip(zipped))
    assert {f"{FOLDER}/records/{name}" for name in (*before, *new)} <= set(manifest.files)
    assert {name.removesuffix(".json") for name in (*before, *new)} <= set(manifest.record_keys)
    checked = {
        one["name"]: one["status"] for one in json.loads(cli("verify", str(zipped), "--json", cwd=lab_copy).stdout)
    }
    assert {name for name, status in checked.items() if status == "wrong"} <= {"complete"}

    done = cli("report", "--text", "demo", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    sheet = (lab_copy / "reports/labllama-15m/worksheet.md").read_text("utf-8")
    assert "demo text" in sheet and "records/perplexity-{F16,Q8_0,Q4_K_M}.json" in sheet


def test_a_record_in_the_place_of_the_labs_own_text_is_read_there_and_makes_room(
    lab_copy: Path, open_lab: Open
) -> None:
    lab = open_lab(lab_copy)
    own = lab.folder.record_path("perplexity", "Q8_0")
    content = json.loads(own.read_bytes())
    record = PERPLEXITY.read(lab.folder, Case("Q8_0"))
    assert record is not None
    content["record"]["text"] |= {"kind": "custom", "name": "old.txt"}
    own.write_text(json.dumps(content), "utf-8")
    case = Case("Q8_0", f"old-{record.text.sha256[:8]}")
    assert PERPLEXITY.path(lab.folder, case) == own
    assert list(PERPLEXITY.there(lab.folder, ["Q8_0"])) == [case]
    PERPLEXITY.write(lab.folder, Case("Q8_0"), record)
    assert PERPLEXITY.path(lab.folder, case).name == f"perplexity-{case}.json"
    assert set(PERPLEXITY.there(lab.folder, ["Q8_0"])) == {case, Case("Q8_0")}
    assert set(load_records(lab)[PERPLEXITY]) >= {case, Case("Q8_0")}
    assert list(load_records(lab).of(PERPLEXITY)) == ["F16", "Q8_0", "Q4_K_M"]
    assert set(load_records(lab)[DIVERGENCE]) == {Case("Q8_0"), Case("Q4_K_M")}
