"""What a run will write, need and take is said first, and asked about where it is much."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.command import Cli
from kit.lab_factory import make_lab

from labctl import engines
from labctl.cli.output import Display
from labctl.errors import LabError
from labctl.lab.lab import Lab
from labctl.machine import checks
from labctl.pipeline import plan, preflight
from labctl.pipeline import run as pipeline
from labctl.pipeline.preflight import Preflight
from labctl.records.disk import write_text
from labctl.records.files import TensorFallback
from labctl.report.build import ReportOptions, build
from labctl.report.findings import notices
from labctl.report.gaps import mark_names, mislabelled, mislabelled_notice, shown_name
from labctl.steps.quantize.step import QUANTIZE

SMALL = Preflight(
    write_bytes=50_000_000,
    free_bytes=90_000_000_000,
    peak_ram_bytes=10**9,
    ram_bytes=16_000_000_000,
    estimate_s=90,
    probed=True,
)


class Heard(Display):
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def lab(new_lab: Path, open_lab: Callable[..., Lab], demo_model: Path) -> Lab:
    """A lab of the demo model's file under another name: no demo lab."""
    shutil.copy(demo_model, new_lab / "other.gguf")
    opened = open_lab(new_lab, model="other.gguf", text="demo", formats=("Q8_0", "Q4_K_M"), chunks=2)
    assert not opened.is_demo
    return opened


def test_a_guess_is_two_operations_a_weight_and_token() -> None:
    assert preflight.guessed_tokens_per_s(1_000_000_000, 4) == 80.0


def test_the_probe_measures_once_and_replaces_the_guess(lab: Lab) -> None:
    assert preflight.stored_probe(lab) is None
    guess = preflight.rates(lab)
    assert 1 / guess.prompt_s == pytest.approx(preflight.guessed_tokens_per_s(15_211_008, lab.n_threads))
    probe = preflight.ensure_probe(lab)
    assert probe is not None and probe.tokens_per_s > 0 and 30e6 < probe.peak_rss_bytes < 4e9
    assert 0 < probe.token_s < 1 and 0 < probe.open_s < 10
    assert preflight.ensure_probe(lab) == probe == preflight.stored_probe(lab)
    rates = preflight.rates(lab)
    assert 1 / rates.prompt_s == pytest.approx(probe.tokens_per_s) and rates.token_s == probe.token_s
    assert rates.n_params == 15_211_008 and 16 <= rates.bits < 17
    other = dataclasses.replace(lab, n_threads=lab.n_threads + 1)
    assert preflight.stored_probe(other) is None
    assert not list(lab.folder.nll.glob("*"))


def test_an_engine_that_cannot_score_is_not_probed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.TABLE, "fake", "kit.fake_engine:ENGINE")
    other = dataclasses.replace(lab, model=dataclasses.replace(lab.model, engine="fake"))
    assert preflight.ensure_probe(other) is None
    assert not list(lab.folder.logs.glob("probe*"))  # no child was started


def test_bytes_come_from_the_dry_run(lab: Lab) -> None:
    planned = plan.plan(lab, ("quantize",))
    found = preflight.preflight(lab, planned)
    made = pipeline.run(lab, Display(quiet=True), names=("quantize",), report=False).records.of(QUANTIZE)
    exact = sum(made[label].tensor_bytes for label in ("Q8_0", "Q4_K_M"))
    assert found.write_bytes == exact
    assert found.peak_ram_bytes > Path(lab.model.path).stat().st_size and not found.probed


def test_a_small_run_is_said_and_not_asked(lab: Lab) -> None:
    heard = Heard()
    preflight.check(lab, SMALL, heard)
    assert heard.notes == [
        "other: writes 50.0 MB (90.0 GB free), needs about 1.00 GB of memory at most (16.0 GB here) and takes about"
        " 1 min 30 s, judging by the first chunks."
    ]
    assert not heard.warnings


def test_a_large_run_needs_consent(lab: Lab) -> None:
    large = dataclasses.replace(SMALL, write_bytes=27_100_000_000, probed=False)
    with pytest.raises(LabError, match=r"other: writes 27\.1 GB") as caught:
        preflight.check(lab, large, Heard())
    assert caught.value.hint == "Add --yes to agree."
    agreed = dataclasses.replace(lab, config=dataclasses.replace(lab.config, yes=True))
    heard = Heard()
    preflight.check(agreed, large, heard)
    assert "give or take a factor of 3" in heard.notes[0]


def test_too_little_disk_or_memory(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"Not enough disk: this run writes 50.0 MB, and .* has 1.00 MB free"):
        preflight.check(lab, dataclasses.replace(SMALL, free_bytes=10**6), Heard())
    heard = Heard()
    preflight.check(lab, dataclasses.replace(SMALL, peak_ram_bytes=20 * 10**9), heard)
    assert "more than the 16.0 GB that are here" in heard.warnings[0]


def test_a_run_says_it_first(cli: Cli, new_lab: Path, demo_model: Path) -> None:
    shutil.copy(demo_model, new_lab / "other.gguf")
    arguments: tuple[Any, ...] = ("quantize", "--model", "other.gguf", "--formats", "Q8_0", "--text", "demo")
    done = cli(*arguments, cwd=new_lab)
    assert done.returncode == 0, done.stderr
    assert re.search(r"other: writes 16\.\d MB .*\nload: 1 format .*\nquantize: 2 formats", done.stderr), done.stderr
    again = cli(*arguments, cwd=new_lab)
    assert "writes" not in again.stderr


@pytest.mark.parametrize(
    ("seconds", "rough"),
    [(48.4, 48), (90, 90), (251, 250), (3590, 3600), (5_000, 4_800), (13_800, 14_400), (84_540, 82_800)],
)
def test_an_estimate_has_no_digits_that_nobody_knows(seconds: float, rough: float) -> None:
    assert preflight.rough_s(seconds) == rough


# -- formats whose files are not what their names say -----------------------------------------------------------------


def test_fallbacks_are_said_and_marked_wherever_the_name_begins_a_row(tmp_path: Path) -> None:
    records = make_lab(tmp_path)
    assert mislabelled(records) == () and mislabelled_notice(records) == ""
    gone = TensorFallback(tensor="blk.0.ffn_down.weight", row_length=576, wanted="q6_K", got="q8_0")
    changed = dataclasses.replace(records.of(QUANTIZE)["Q6_K"], fallbacks=(gone,))
    records = records.having(QUANTIZE, {**records.of(QUANTIZE), "Q6_K": changed})
    assert mislabelled(records) == ("Q6_K",)
    assert "576" in notices(records)[-1] and "Q6_K: q6_K 100 %" in notices(records)[-1]
    text = "x\n| Q6_K | 1 |\n| Q8_0 | Q6_K |\n| Q6_K ⚠ | 2 |\nQ6_K is, Q6_K_L not\n"
    assert mark_names(text, records) == (
        "x\n| Q6_K ⚠ | 1 |\n| Q8_0 | Q6_K ⚠ |\n| Q6_K ⚠ | 2 |\nQ6_K ⚠ is, Q6_K_L not\n"
    )
    as_it_is = "## Q6_K?\n> Note: Q6_K holds\n⚠ Q6_K: most\n![Q6_K](x.png)\n`a-{F16,Q6_K}.json`, `Q6_K`"
    assert mark_names(as_it_is, records) == as_it_is
    assert (shown_name(records, "Q6_K"), shown_name(records, "Q8_0")) == ("Q6_K ⚠", "Q8_0")


@pytest.mark.slow
def test_a_students_words_are_not_marked(tmp_path: Path) -> None:
    records = make_lab(tmp_path)
    gone = TensorFallback(tensor="blk.0.ffn_down.weight", row_length=576, wanted="q6_K", got="q8_0")
    records.of(QUANTIZE)["Q6_K"] = dataclasses.replace(records.of(QUANTIZE)["Q6_K"], fallbacks=(gone,))
    folder = tmp_path / "reports"
    write_text(folder / "answers.toml", 'Q6 = """Q6_K is mine.\n\nAnd Q6_K\nagain."""\n')
    build(records, folder, ReportOptions())
    sheet = (folder / "worksheet.md").read_text("utf-8")
    assert "**In my own words:** Q6_K is mine.\n\nAnd Q6_K\nagain.\n" in sheet
    assert "\ue000" not in sheet and "Q6_K ⚠" in sheet


@pytest.mark.slow
def test_a_quantized_baseline_is_said_at_every_table_and_answer(tmp_path: Path) -> None:
    records = make_lab(tmp_path)
    said = "The baseline F16 is not the original model."
    build(records, tmp_path / "plain", ReportOptions())
    assert said not in (tmp_path / "plain" / "worksheet.md").read_text("utf-8")
    records = dataclasses.replace(records, model=dataclasses.replace(records.model, quantized=True))
    build(records, tmp_path / "reports", ReportOptions())
    sheet = (tmp_path / "reports" / "worksheet.md").read_text("utf-8")
    answers = re.findall(r"^\*\*(?:Answer|Draft)[^\n]*:\*\* [^\n]+", sheet, re.MULTILINE)  # Q13's is a table
    assert len(answers) > 12 and all(answer.endswith(said) for answer in answers)
    sources = re.findall(r"<sub>(?:Source|From)[^\n]*", sheet)
    assert len(sources) > 10 and all(said in source for source in sources)


def test_a_disk_without_room_for_probabilities_alone_does_not_stop_a_run(lab: Lab) -> None:
    spool = 40_000_000
    heard = Heard()
    tight = dataclasses.replace(SMALL, spool_bytes=spool, free_bytes=SMALL.write_bytes - 1)
    preflight.check(lab, tight, heard)
    assert heard.warnings[0].startswith("KL divergence will be left out: its temporary file takes 40.0 MB, and")
    with pytest.raises(LabError, match="Not enough disk"):
        preflight.check(lab, dataclasses.replace(tight, free_bytes=SMALL.write_bytes - spool - 1), Heard())
    checked = [checks.check_disk(Path(), need, 10**18) for need in (10**18, 2 * 10**18 + 10**15)]
    assert [one.status for one in checked] == ["warning", "problem"]
