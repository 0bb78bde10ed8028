"""What a lab was asked is kept: commands that only read show what was measured, single steps go on with it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.command import SMALL_LAB, Cli
from kit.notes import Notes

from labctl.cli.output import Display
from labctl.lab.config import FIELDS
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.pipeline import asked, plan, reopening
from labctl.pipeline import reporting as results
from labctl.pipeline import run as pipeline
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.step import PERPLEXITY

NAME = "labllama-15m"
DATA = {"lab_data": "lab_data"}


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, root: Path) -> Callable[[Path], None]:
    """Work in a folder, without the settings of the person who runs the tests."""

    def go(folder: Path) -> None:
        import os

        monkeypatch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("LABCTL_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("LABCTL_LAB_DATA", str(root / "lab_data"))

    return go


def kept(records: Measured) -> list[tuple[str, str, str]]:
    return [(step.name, str(case), record.provenance.key) for step, case, record in records]


# -- reading ----------------------------------------------------------------------------------------------------------


def test_every_setting_of_a_step_is_a_setting() -> None:
    assert {name for names in asked.OF_STEP.values() for name in names} <= set(FIELDS)
    assert {*asked.OF_MODEL, *asked.OF_REPORT} <= set(FIELDS)
    told = {*asked.OF_MODEL, *asked.OF_REPORT, *(name for names in asked.OF_STEP.values() for name in names)}
    assert set(FIELDS) - told == {"model", "outputs", "reports", "hang_s", "memory_limit_bytes", "yes"}


@pytest.mark.parametrize(
    "other",
    [
        'chunks = "all"\n',
        "chunks = 1\n",
        "ctx = 256\n",
        "seed = 7\n",
        "threads = 2\n",
        'text = "wikitext-2"\n',
        'formats = ["Q2_K"]\n',
        "new_tokens = 50\nkl_chunks = 1\nbench_rounds = 3\n",
        "",
    ],
    ids=str.strip,
)
def test_lab_toml_of_now_does_not_hide_what_was_measured(
    lab_copy: Path, open_lab: Callable[..., Lab], at: Callable[[Path], None], other: str
) -> None:
    measured = kept(results.load_records(open_lab(lab_copy)))
    at(lab_copy)
    (lab_copy / "lab.toml").write_text(other, "utf-8")
    for lose in (False, True):  # with lab.json, and as labs of before have none
        if lose:
            (lab_copy / "outputs" / NAME / asked.NAME).unlink()
        lab = reopening.to_read({}, display := Notes())
        assert kept(results.load_records(lab)) == measured, lose
        assert not any("Traceback" in text for text in display.said)


def test_a_flag_asks_for_other_figures(lab_copy: Path, at: Callable[[Path], None]) -> None:
    at(lab_copy)
    records = results.load_records(reopening.to_read({"chunks": 1}, Notes()))
    assert (dict(records.of(PERPLEXITY)), len(records.of(MEMORY))) == ({}, 3)
    records = results.load_records(reopening.to_read({"formats": ("Q8_0",)}, Notes()))
    assert records.formats == ("F16", "Q8_0") and list(records.of(PERPLEXITY)) == ["F16", "Q8_0"]


def test_settings_of_the_report_come_from_lab_toml(lab_copy: Path, at: Callable[[Path], None]) -> None:
    at(lab_copy)
    (lab_copy / "lab.toml").write_text(f"limit = 0.05\nblank = true\n{SMALL_LAB}", "utf-8")
    lab = reopening.to_read({}, Notes())
    assert (lab.config.limit, lab.config.blank, len(results.load_records(lab).of(PERPLEXITY))) == (0.05, True, 3)


def test_a_setting_that_was_not_measured_is_named(lab_copy: Path, at: Callable[[Path], None]) -> None:
    at(lab_copy)
    (lab_copy / "lab.toml").write_text(SMALL_LAB.replace("chunks = 4", "chunks = 64"), "utf-8")
    reopening.to_read({}, display := Notes())
    assert display.said == ["lab.toml: chunks 64: not yet measured; the figures are with 4."]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b'{"schema_version": 1, "kind": "Asked", "record": {}}',
        b'{"schema_version": 99, "kind": "Asked", "record": {"spec": 1}}',
        b'{"schema_version": 0, "kind": "Asked", "record": {}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=["empty", "no JSON", "no fields", "newer", "older", "deep", "no UTF-8"],
)
def test_an_unreadable_lab_json_is_one_line_and_loses_nothing(
    lab_copy: Path, open_lab: Callable[..., Lab], at: Callable[[Path], None], content: bytes
) -> None:
    measured = kept(results.load_records(open_lab(lab_copy)))
    at(lab_copy)
    path = lab_copy / "outputs" / NAME / asked.NAME
    path.write_bytes(content)
    ways: tuple[Callable[[Notes], Lab], ...] = (
        lambda display: reopening.to_read({}, display),
        lambda display: reopening.to_measure({}, display, ("quantize", "memory")),
    )
    for opened in ways:
        lab = opened(display := Notes())
        assert [text for text in display.said if "lab.json" in text and "cannot be read" in text] == display.said
        assert len(display.said) == 1
        assert kept(results.load_records(lab)) == measured


def test_impossible_settings_in_lab_json_are_not_taken(lab_copy: Path, at: Callable[[Path], None]) -> None:
    at(lab_copy)
    path = lab_copy / "outputs" / NAME / asked.NAME
    whole = json.loads(path.read_text("utf-8"))
    for step, name, value in (("memory", "ctx", 7), ("perplexity", "chunks", "many"), ("bench", "formats", ["Q9"])):
        content = json.loads(json.dumps(whole))
        content["record"]["steps"][step][name] = value
        path.write_text(json.dumps(content), "utf-8")
        assert not asked.is_readable(RunFolder(path.parent))
        reopening.to_read({}, display := Notes())
        assert "cannot be read" in display.said[0]


@pytest.mark.slow
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
    assert "This step has not been run with these settings yet." in sheet.read_text("utf-8")


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
    assert done.returncode == 1 and "There is nothing to rank: perplexity is not measured." in " ".join(
        done.stderr.split()
    )
    (lab_copy / "outputs" / "labllama-15m" / "records" / "perplexity-Q8_0.json").unlink()
    done = cli("score", cwd=lab_copy)
    assert done.returncode == 0 and "Not ranked: perplexity is not measured for Q8_0." in " ".join(done.stdout.split())


# -- measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_step_with_other_settings_leaves_the_others_figures_on_the_worksheet(cli: Cli, lab_copy: Path) -> None:
    """The README's own examples: memory at another context, fewer formats, threads; then report, submit, verify."""
    before = json.loads(cli("score", "--json", cwd=lab_copy).stdout)
    for arguments in (
        ("memory", "--ctx", "256"),
        ("perplexity", "--formats", "Q8_0"),
        ("bench", "--formats", "Q8_0"),
        ("generate", "--formats", "Q4_K_M"),
    ):
        done = cli(*arguments, "--json", cwd=lab_copy)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["made"] == (3 if arguments[0] == "memory" else 0), arguments
    done = cli("submit", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    assert json.loads(cli("score", "--json", cwd=lab_copy).stdout) == before
    checked = cli("verify", done.stdout.strip(), "--json", cwd=lab_copy)
    assert {one["status"] for one in json.loads(checked.stdout)} == {"ok"}, checked.stdout
    sheet = (lab_copy / "reports" / NAME / "worksheet.md").read_text("utf-8")
    assert "This step has not been run with these settings yet." not in sheet


@pytest.mark.slow
def test_a_lab_of_flags_is_reported_and_handed_in_without_them(cli: Cli, new_lab: Path) -> None:
    (new_lab / "lab.toml").write_text(
        "new_tokens = 4\nprobe_items = 1\nbench_rounds = 1\nbench_max_rounds = 1\nthreads = 1\n", "utf-8"
    )
    done = cli("run", "--formats", "Q8_0,Q2_K", "--chunks", "2", "--text", "demo", "--ctx", "128", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    sheet = new_lab / "reports" / NAME / "worksheet.md"
    before = sheet.read_text("utf-8")
    assert "This step has not been run with these settings yet." not in before
    done = cli("report", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    assert sheet.read_text("utf-8") == before
    assert [row["format"] for row in json.loads(cli("score", "--json", cwd=new_lab).stdout)]
    done = cli("submit", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    # one format more, by a step alone: it is the lab's from now on
    assert cli("perplexity", "--formats", "Q3_K_M", cwd=new_lab).returncode == 0
    assert cli("report", cwd=new_lab).returncode == 0
    after = sheet.read_text("utf-8")
    assert "Q3_K_M" in after and "2 of" in after
    folder = RunFolder(new_lab / "outputs" / NAME)
    found = asked.read(folder)
    assert found is not None and found.formats == ("Q8_0", "Q3_K_M", "Q2_K")
    assert found.steps["perplexity"]["chunks"] == 2 and found.steps["bench"]["formats"] == ["Q8_0", "Q2_K"]


def test_lab_toml_is_heard_by_a_step_once_it_has_changed(lab_copy: Path, at: Callable[[Path], None]) -> None:
    at(lab_copy)
    lab = reopening.to_measure({"chunks": 6, "formats": ("Q8_0",)}, Notes(), plan.STEPS)
    pipeline.run(lab, Notes(), names=plan.STEPS, report=False)
    names = ("quantize", "perplexity")
    config = reopening.to_measure({}, Notes(), names).config
    assert (config.chunks, config.formats, config.new_tokens) == (6, ("Q8_0",), 8)
    (lab_copy / "lab.toml").write_text(SMALL_LAB.replace("chunks = 4", "chunks = 8"), "utf-8")
    config = reopening.to_measure({}, Notes(), names).config
    assert (config.chunks, config.formats) == (8, ("Q8_0",))
    assert reopening.to_measure({"chunks": 3}, Notes(), names).config.chunks == 3
    assert reopening.to_measure({}, Notes(), plan.STEPS).config.formats == ("Q8_0", "Q4_K_M")


def test_a_step_hears_lab_toml_the_first_time_it_is_asked_for(new_lab: Path, at: Callable[[Path], None]) -> None:
    (new_lab / "lab.toml").write_text('formats = ["Q8_0"]\ntext = "demo"\nbench_budget_s = 6.0\n', "utf-8")
    at(new_lab)
    first = reopening.to_measure({}, Display(quiet=True), ("quantize",))
    asked.note(
        first.folder, first.model, first.config, first.n_threads, ("quantize",), whole=False, standing=first.standing
    )
    then = reopening.to_measure({}, Display(quiet=True), ("quantize", "bench"))
    assert (then.config.bench_budget_s, then.config.text) == (6.0, "demo")


def test_a_step_asked_for_the_first_time_does_not_take_another_steps_settings(
    lab_copy: Path, at: Callable[[Path], None]
) -> None:
    at(lab_copy)
    shutil.rmtree(lab_copy / "outputs" / NAME / "records")
    for toml, ctx in (("", 512), ("ctx = 128\n", 128)):
        (lab_copy / "outputs" / NAME / asked.NAME).unlink()
        (lab_copy / "lab.toml").write_text(toml, "utf-8")
        lab = reopening.to_measure({"ctx": 2048, "formats": ("Q8_0",)}, Notes(), ("quantize", "memory"))
        asked.note(
            lab.folder, lab.model, lab.config, lab.n_threads, ("quantize", "memory"), whole=False, standing=lab.standing
        )
        assert reopening.to_measure({}, Notes(), ("quantize", "memory")).config.ctx == 2048
        lab = reopening.to_measure({}, Notes(), ("quantize", "perplexity"))
        assert (lab.config.ctx, lab.config.formats, lab.at("memory").config.ctx) == (ctx, ("Q8_0",), 2048)


@pytest.mark.slow
def test_the_baseline_alone_is_a_lab(cli: Cli, new_lab: Path) -> None:
    done = cli("run", "--formats", "F16", "--chunks", "2", cwd=new_lab)
    assert done.returncode == 0, done.stderr
    for arguments in (("report",), ("fit", "--ram", "8"), ("score",), ("bench",), ("memory",), ("divergence",)):
        done = cli(*arguments, cwd=new_lab)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0 or arguments == ("score",), (arguments, done.stderr)
    done = cli("submit", cwd=new_lab)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "Not complete" in done.stderr
    reports = {path.name for path in (new_lab / "reports" / NAME).iterdir()}
    assert {"worksheet.md", "index.html", "size_vs_quality.png", "recommendation.md"} <= reports
    assert not list((new_lab / "outputs" / NAME).glob("*.gguf"))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["quantize", "perplexity", "divergence", "generate", "memory", "bench"])
def test_each_step_makes_what_it_needs(cli: Cli, new_lab: Path, step: str) -> None:
    for formats in ("F16", "Q8_0"):
        few = ("--chunks", "2") if step in ("perplexity", "divergence") else ()
        done = cli(step, "--formats", formats, *few, "--json", cwd=new_lab)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["failures"] == []
    assert (new_lab / "outputs" / NAME / "records" / f"{step}-Q8_0.json").is_file()


def test_the_command_for_a_lab_can_be_typed_and_keeps_folders_private(
    lab_copy: Path, at: Callable[[Path], None]
) -> None:
    at(lab_copy)
    lab = reopening.to_read({}, Notes())
    assert lab.command("report") == "labctl report --model demo"
    assert lab.command("run") == "labctl run --model demo --formats Q8_0,Q4_K_M --chunks 4 --text demo"
    shutil.move(lab_copy / "outputs", lab_copy / "my outputs")
    outputs = str(lab_copy / "my outputs")
    other = reopening.to_read({"outputs": outputs, "reports": "r"}, Notes())
    assert other.command("submit") == "labctl submit --model demo --outputs OUTPUTS --reports r"
    assert other.command("submit", exact=True) == f"labctl submit --model demo --outputs '{outputs}' --reports r"
