"""What is read back of a lab: commands that only read take the measurements that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from conftest import Cli

from labctl.results import as_measured, load_records
from labctl.steps import Lab


def test_other_chunks_in_the_settings_do_not_hide_what_was_measured(
    open_lab: Callable[..., Lab], lab_copy: Path
) -> None:
    lab = open_lab(lab_copy)
    measured = load_records(lab)
    assert measured.perplexity and measured.divergence
    for chunks in ("all", 1):
        other = open_lab(lab_copy, chunks=chunks)
        assert load_records(other).perplexity == {}
        found = load_records(as_measured(other))
        assert (found.perplexity, found.divergence) == (measured.perplexity, measured.divergence)
    assert as_measured(lab) is lab


def test_an_empty_lab_is_taken_as_it_is(open_lab: Callable[..., Lab], new_lab: Path) -> None:
    lab = open_lab(new_lab)
    assert as_measured(lab) is lab


def test_report_shows_what_was_measured_unless_other_chunks_are_asked_for(cli: Cli, lab_copy: Path) -> None:
    sheet = lab_copy / "reports" / "labllama-15m" / "worksheet.md"
    before = sheet.read_text("utf-8")
    settings = (lab_copy / "lab.toml").read_text("utf-8").splitlines()
    kept = [line for line in settings if not line.startswith("chunks")]
    (lab_copy / "lab.toml").write_text("\n".join(['chunks = "all"', *kept]) + "\n", "utf-8")
    assert cli("report", cwd=lab_copy).returncode == 0
    assert sheet.read_text("utf-8") == before
    assert '"normalised_score"' in cli("score", "--json", cwd=lab_copy).stdout
    assert cli("report", "--chunks", "1", cwd=lab_copy).returncode == 0
    assert "This step has not been run yet." in sheet.read_text("utf-8")


def test_score_says_what_is_missing_and_ranks_as_the_worksheet_does(cli: Cli, lab_copy: Path) -> None:
    found = json.loads(cli("score", "--json", cwd=lab_copy).stdout)
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    sheet = (lab_copy / "reports" / "labllama-15m" / "worksheet.md").read_text("utf-8")
    for one in found:
        low, high = one["place"]
        words = str(low) if low == high else f"{low} to {high}"
        assert re.search(rf"^\| {one['format']} \|.*\| {one['score']:.3f} \| {words} \|", sheet, re.MULTILINE)
    (lab_copy / "other.txt").write_text("Another text. " * 2000, "utf-8")
    done = cli("score", "--text", "other.txt", cwd=lab_copy)
    assert done.returncode == 1 and "There are no scores: perplexity is not measured." in " ".join(done.stderr.split())
    (lab_copy / "outputs" / "labllama-15m" / "records" / "perplexity-Q8_0.json").unlink()
    done = cli("score", cwd=lab_copy)
    assert done.returncode == 0 and "Not ranked: perplexity is not measured for Q8_0." in " ".join(done.stdout.split())
