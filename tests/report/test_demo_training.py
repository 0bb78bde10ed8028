"""Scores of the demo model stand beside what it was trained on; other models know nothing of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from kit.command import ROOT
from kit.lab_factory import make_lab

from labctl.report import worksheet
from labctl.report.advice import costs
from labctl.report.demo_training import DEMO_SHA256, is_demo, training_note, unseen_changes, unseen_scores
from labctl.report.figures import figures_of, table
from labctl.report.sheet import Sheet
from labctl.report.tables import probes, sums
from labctl.steps.generate.probes import read_probe
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured


def marked(lab: Measured) -> Measured:
    """All capitals seen in training; of the sums, the first half."""
    for name, run in lab.of(GENERATE).items():
        lab.of(GENERATE)[name] = replace(
            run,
            probes=tuple(
                replace(
                    probe,
                    answers=tuple(
                        replace(answer, in_demo_training=probe.name == "capitals" or place < 44)
                        for place, answer in enumerate(probe.answers)
                    ),
                )
                for probe in run.probes
            ),
        )
    return lab


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    return marked(make_lab(tmp_path, ("F16", "Q4_K_M", "Q3_K_M")))


def test_the_demo_models_digest_and_its_probes_flags() -> None:
    demo = ROOT / "lab_data" / "demo"
    assert hashlib.sha256((demo / "labllama-f16.gguf").read_bytes()).hexdigest() == DEMO_SHA256
    flags = {
        name: [q.in_demo_training for q in read_probe(demo / f"probes/{name}.csv")] for name in ("capitals", "sums")
    }
    assert flags["capitals"] == [True] * 194
    assert (flags["sums"].count(True), flags["sums"].count(False)) == (44, 44)


def test_a_probe_without_the_column_knows_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("prompt,answer,in_demo_training\na,b,\nc,d,perhaps\n", "utf-8")
    assert [one.in_demo_training for one in read_probe(tmp_path / "mine.csv")] == [None, None]


def test_the_note_stands_with_the_scores(lab: Measured) -> None:
    figures = figures_of(lab)
    note = training_note(lab)
    assert "all 194 questions of capitals and 44 of 88 of sums" in note and "MODEL_CARD.md" in note
    assert unseen_scores(lab) == {"sums": {"F16": (43, 44), "Q4_K_M": (40, 44), "Q3_K_M": (31, 44)}}
    assert "| sums not trained on |" in probes(lab, figures) and "| 43 of 44 |" in probes(lab, figures)
    assert "| Sums not trained on |" in sums(lab, figures) and "| 40 of 44 |" in sums(lab, figures)
    frame = table(lab, figures)
    assert frame.loc["Q4_K_M", ["sums_untrained_correct", "sums_untrained_of"]].tolist() == [40, 44]
    sheet = Sheet(records=lab, figures=figures, weights=(0.3, 0.4, 0.3), limit=0.02)
    sections = worksheet.render_worksheet(sheet).split("\n### Q")
    assert [one.split(".")[0] for one in sections if "trained" in one and "⚠" in one] == ["6", "7", "12", "13", "14"]
    said = "trained on 238 of these 282 questions"
    (found,) = (one for one in costs(lab, figures, "Q4_K_M") if said in one)
    assert found.endswith("of the other 44 it loses 3 and gains 0.") and found == unseen_changes(lab, "Q4_K_M")


def test_the_demo_model_is_known_by_its_bytes_too(lab: Measured) -> None:
    copied = replace(lab.model, origin="gguf", sha256=DEMO_SHA256)
    assert is_demo(copied) and training_note(replace(lab, model=copied)) == training_note(lab)


def test_no_other_model_is_told_so(lab: Measured) -> None:
    other = replace(lab, model=replace(lab.model, origin="hub", sha256="1" * 64))
    figures = figures_of(other)
    assert training_note(other) == "" and unseen_scores(other) == {} and unseen_changes(other, "Q4_K_M") == ""
    assert "trained" not in probes(other, figures) + sums(other, figures) + " ".join(costs(other, figures, "Q4_K_M"))


def test_records_made_before_the_flag_say_nothing_of_it(tmp_path: Path) -> None:
    old = make_lab(tmp_path, ("F16", "Q4_K_M"))
    assert training_note(old) == "" and unseen_scores(old) == {} and unseen_changes(old, "Q4_K_M") == ""
