"""What is read back of a lab: commands that only read take the measurements that are there."""

from __future__ import annotations

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
