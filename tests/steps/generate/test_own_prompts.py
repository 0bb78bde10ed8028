"""A student's own prompts through the real engine: kept, shown, handed in, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kit.command import Cli

MODEL = "labllama-15m"


def run_of(folder: Path, label: str) -> dict[str, Any]:
    text = (folder / "outputs" / MODEL / "records" / f"generate-{label}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)["record"]
    return found


@pytest.mark.slow
def test_own_prompts_stand_beside_the_courses_and_change_nothing_else(cli: Cli, lab_copy: Path) -> None:
    before = run_of(lab_copy, "Q8_0")
    assert "own_prompts" not in before["provenance"]["settings"]
    fresh = cli("generate", "--dry-run", "--json", cwd=lab_copy)
    assert json.loads(fresh.stdout) == [], fresh.stderr  # a lab without prompts of its own stays as it was
    (lab_copy / "mine.txt").write_text("The dog | saw\n\nOne day, a *cat*", "utf-8")
    done = cli("generate", "--prompts", "mine.txt", "--system", "Be brief.", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    run = run_of(lab_copy, "Q8_0")
    assert run["generations"] == before["generations"] and run["probes"] == before["probes"]
    own = run["own"]
    assert [(one["prompt_number"], one["decoding"]) for one in own] == [
        (number, way) for number in (6, 7) for way in ("sampled", "greedy")
    ]
    assert {one["chat"] for one in own} == {False} and {one["sent"] for one in own} == {one["prompt"] for one in own}
    text = (lab_copy / "outputs" / MODEL / "Q8_0" / "prompt_7_greedy.txt").read_text("utf-8")
    assert text == f"One day, a *cat*{own[3]['text']}\n" and own[3]["text"]

    report = cli("report", cwd=lab_copy)
    assert report.returncode == 0, report.stderr
    sheet = (lab_copy / "reports" / MODEL / "worksheet.md").read_text("utf-8")
    part = sheet[sheet.index("## Your own prompts") : sheet.index("## Deliverables")]
    assert "The model has no chat template: these prompts were given as plain text." in part
    assert "The text of --system was left out" in part and "Prompt 6:" in part and "Prompt 7:" in part
    assert part.count("| Q8_0 |") == 2
    packed = cli("submit", "--incomplete", cwd=lab_copy)
    assert packed.returncode == 0, packed.stderr
    (zipped,) = (lab_copy / "reports").rglob("*.zip")
    checked = cli("verify", str(zipped), cwd=lab_copy)
    assert checked.returncode == 0, checked.stdout + checked.stderr

    again = cli("generate", "--prompts", "mine.txt", "--system", "Be brief.", "--dry-run", "--json", cwd=lab_copy)
    assert json.loads(again.stdout) == []
    (lab_copy / "mine.txt").unlink()  # what was written for them stands
    again = cli("report", cwd=lab_copy)
    assert again.returncode == 0, again.stderr
    sheet_again = (lab_copy / "reports" / MODEL / "worksheet.md").read_text("utf-8")
    assert sheet_again[sheet_again.index("## Your own") : sheet_again.index("## Deliverables")] == part
    (lab_copy / "mine.txt").write_text("Another one", "utf-8")
    due = cli("generate", "--dry-run", "--json", cwd=lab_copy)  # the lab remembers the file, and sees what changed
    assert {one["step"] for one in json.loads(due.stdout)} == {"generate"}


def test_a_wrong_file_is_told_before_anything_is_made(cli: Cli, new_lab: Path) -> None:
    done = cli("run", "--prompts", "nowhere.txt", cwd=new_lab)
    assert done.returncode == 1 and "Cannot read the prompts in nowhere.txt" in done.stderr
    assert not (new_lab / "outputs" / MODEL / "records").exists()
