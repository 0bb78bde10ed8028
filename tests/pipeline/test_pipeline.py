"""A run makes what is stale, reuses what is not, and goes on past what fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from labctl.cli.output import Display
from labctl.executors.base import AnyEvent, Failure, Progress
from labctl.lab.lab import Lab
from labctl.pipeline import plan
from labctl.pipeline import reporting as results
from labctl.pipeline import run as pipeline
from labctl.records.arrays import load_rows
from labctl.records.store import read_record
from labctl.steps.bench import step as rounds
from labctl.steps.bench.record import BenchEffort
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE, prompt_path
from labctl.steps.measured import Failures
from labctl.steps.memory.step import MEMORY
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

Open = Callable[..., Lab]


class Watched(Display):
    """A quiet display that notes steps and errors, and lets a test act at a moment of the run."""

    def __init__(self, at: Callable[[str, str, int], None] | None = None) -> None:
        super().__init__(quiet=True)
        self.steps: list[tuple[str, str]] = []
        self.errors: list[str] = []
        self._at = at

    def step(self, name: str, label: str, unit: str = "") -> None:
        self.steps.append((name, label))
        if self._at is not None:
            self._at(name, label, 0)
        super().step(name, label)

    def progress(self, done: int, total: int, note: str, cost_done: float) -> None:
        if self._at is not None and done:
            self._at(*self.steps[-1], done)
        super().progress(done, total, note, cost_done)

    def error(self, message: str, hint: str = "") -> None:
        self.errors.append(message)
        assert hint


@pytest.fixture(autouse=True)
def short_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """One repetition, and part of the key only where a test times anew."""
    monkeypatch.setattr(rounds, "EFFORT", BenchEffort(min_reps=1, max_reps=1, min_s=0.0))


def stale(lab: Lab, names: tuple[str, ...] = ("quantize", "perplexity", "generate", "memory")) -> set[tuple[str, str]]:
    return {(one.step, one.label) for one in plan.plan(lab, names)}


def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a child process was started"))


def test_a_finished_lab_is_whole(small_lab: Path, monkeypatch: pytest.MonkeyPatch, open_lab: Open) -> None:
    monkeypatch.setattr(rounds, "EFFORT", BenchEffort())
    lab = open_lab(small_lab)
    records = results.load_records(lab)
    assert records.formats == ("F16", "Q8_0", "Q4_K_M")
    for group in (
        records.of(QUANTIZE),
        records.of(PERPLEXITY),
        records.of(BENCH),
        records.of(MEMORY),
        records.of(GENERATE),
    ):
        assert list(group) == ["F16", "Q8_0", "Q4_K_M"]
    assert records.failures == ()
    for speed in records.of(BENCH).values():
        assert [visit.round for visit in speed.visits] == [0]
    assert sorted(visit.order for run in records.of(BENCH).values() for visit in run.visits) == [0, 1, 2]
    for label, run in records.of(GENERATE).items():
        for one in run.generations:
            path = prompt_path(lab, label, one.prompt_number, one.decoding)
            assert path.read_text("utf-8") == one.prompt + one.text + "\n"
    assert not list(small_lab.rglob(".partial-*"))
    assert not list(small_lab.rglob(".journal-*"))


def test_a_second_run_makes_nothing_and_starts_no_process(
    lab_copy: Path, monkeypatch: pytest.MonkeyPatch, open_lab: Open
) -> None:
    monkeypatch.setattr(rounds, "EFFORT", BenchEffort())
    no_children(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in (lab_copy / "reports").rglob("*")}
    outcome = pipeline.run(open_lab(lab_copy), display := Watched(), report=True)
    assert (outcome.made, outcome.fresh, outcome.failures, display.steps) == (0, 18, (), [])
    assert {path: path.stat().st_mtime_ns for path in (lab_copy / "reports").rglob("*")} == before


def test_changing_a_setting_redoes_what_depends_on_it_and_nothing_else(small_lab: Path, open_lab: Open) -> None:
    labels = ("F16", "Q8_0", "Q4_K_M")
    assert stale(open_lab(small_lab)) == set()
    for setting in ({"seed": 43}, {"temperature": 0.8}, {"new_tokens": 9}, {"top_p": 0.8}, {"probe_items": 4}):
        assert stale(open_lab(small_lab, **setting)) == {("generate", label) for label in labels}, setting
    assert stale(open_lab(small_lab, ctx=256)) == {
        (step, label) for step in ("perplexity", "memory") for label in labels
    }
    assert stale(open_lab(small_lab, chunks=8)) == {("perplexity", label) for label in labels}
    assert stale(open_lab(small_lab, threads=2)) == {
        (step, label) for step in ("generate", "memory") for label in labels
    }
    assert stale(open_lab(small_lab, limit=0.05, bench_rounds=2)) == set()
    assert stale(open_lab(small_lab, formats=("Q8_0",))) == set()


def test_another_text_redoes_perplexity_only(small_lab: Path, open_lab: Open, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("Other words. " * 2000, "utf-8")
    found = stale(open_lab(small_lab, text=str(tmp_path / "other.txt")))
    assert found == {("perplexity", label) for label in ("F16", "Q8_0", "Q4_K_M")}


def test_a_new_seed_makes_generation_anew_and_keeps_the_rest(lab_copy: Path, open_lab: Open) -> None:
    records = lab_copy / "outputs/labllama-15m/records"
    before = {path.name: path.read_bytes() for path in records.iterdir()}
    display = Watched()
    pipeline.run(
        open_lab(lab_copy, seed=7), display, names=("quantize", "perplexity", "generate", "memory"), report=False
    )
    assert {name for name, _ in display.steps} == {"generate"}
    changed = {path.name for path in records.iterdir() if before.get(path.name) != path.read_bytes()}
    assert changed == {"generate-F16.json", "generate-Q8_0.json", "generate-Q4_K_M.json"}
    assert stale(open_lab(lab_copy, seed=7)) == set()


@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped"])
def test_a_lost_or_damaged_file_is_made_again_and_nothing_else(lab_copy: Path, open_lab: Open, damage: str) -> None:
    path = lab_copy / "outputs/labllama-15m/labllama-15m-Q4_K_M.gguf"
    whole = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:-1000])
    else:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    display = Watched()
    outcome = pipeline.run(
        open_lab(lab_copy), display, names=("quantize", "perplexity", "generate", "memory"), report=False
    )
    assert display.steps == [("quantize", "Q4_K_M")]
    assert outcome.failures == ()
    assert path.read_bytes() == whole
    # the file is the same to the byte, so what was measured on it still holds
    assert stale(open_lab(lab_copy)) == set()


def test_more_chunks_measure_only_the_new_ones(lab_copy: Path, open_lab: Open) -> None:
    lab = open_lab(lab_copy, chunks=6)
    first = results.load_records(open_lab(lab_copy)).of(PERPLEXITY)["Q8_0"]
    old = load_rows(lab.folder.root / first.nll_path)
    assert old is not None
    old = old.copy()
    pipeline.run(lab, Watched(), names=("perplexity",), report=False)
    run = results.load_records(lab).of(PERPLEXITY)["Q8_0"]
    new = load_rows(lab.folder.root / run.nll_path)
    assert new is not None
    assert (run.n_chunks, run.n_tokens_evaluated, run.nll_path) == (6, 2 * 512, first.nll_path)
    assert (new[:4] == old[:4]).all()
    assert run.ppl == float(np.exp(new[:6].mean()))
    fewer = open_lab(lab_copy, chunks=3)
    pipeline.run(fewer, Watched(), names=("perplexity",), report=False)
    again = results.load_records(fewer).of(PERPLEXITY)["Q8_0"]
    assert (again.n_chunks, again.n_tokens_evaluated, again.ppl) == (3, 0, float(np.exp(new[:3].mean())))


def test_one_format_more_means_timing_all(lab_copy: Path, open_lab: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "EFFORT", BenchEffort())
    assert {(one.step, one.label) for one in plan.plan(open_lab(lab_copy, formats=("Q8_0", "Q4_K_M", "Q3_K_M")))} == {
        *((name, "Q3_K_M") for name in ("quantize", "perplexity", "generate", "memory")),
        *(("bench", label) for label in ("F16", "Q8_0", "Q4_K_M", "Q3_K_M")),
        ("divergence", "all formats"),
    }
    assert stale(open_lab(lab_copy), ("bench",)) == set()


def test_rounds_turn_the_order_and_go_on_where_they_stopped(lab_copy: Path, open_lab: Open) -> None:
    def visited(n_rounds: int) -> tuple[list[tuple[str, str]], Mapping[str, Any]]:
        lab = open_lab(lab_copy, bench_rounds=n_rounds, formats=("Q8_0",))
        outcome = pipeline.run(lab, display := Watched(), names=("bench",), report=False)
        return display.steps, outcome.records.of(BENCH)

    forth = [("bench", label) for label in ("F16", "Q8_0")]
    assert visited(1)[0] == forth
    order, runs = visited(2)
    assert order == forth[::-1]
    assert {label: [visit.round for visit in run.visits] for label, run in runs.items()} == {
        label: [0, 1] for label in ("F16", "Q8_0")
    }
    assert sorted(visit.order for run in runs.values() for visit in run.visits) == [0, 1, 2, 3]
    assert visited(2)[0] == []


def test_a_format_that_cannot_be_made_is_reported_and_the_rest_goes_on(new_lab: Path, open_lab: Open) -> None:
    lab = open_lab(new_lab, chunks=2)
    lab.gguf_path("Q4_K_M").mkdir()  # a folder where the file should come
    outcome = pipeline.run(lab, Watched(), names=("quantize", "perplexity"), report=False)
    (failure, *_) = outcome.failures
    assert {one.format for one in outcome.failures} == {"Q4_K_M"}
    assert (failure.step, list(outcome.records.of(PERPLEXITY))) == ("quantize", ["F16", "Q8_0"])
    assert "quantize Q4_K_M" in failure.message
    assert outcome.records.failures == outcome.failures
    assert not list(new_lab.rglob(".partial-*"))
    lab.gguf_path("Q4_K_M").rmdir()
    again = pipeline.run(open_lab(new_lab, chunks=2), Watched(), names=("quantize", "perplexity"), report=False)
    assert again.failures == ()
    assert list(again.records.of(PERPLEXITY)) == ["F16", "Q8_0", "Q4_K_M"]


def test_a_file_damaged_between_steps_fails_its_own_steps_only(lab_copy: Path, open_lab: Open) -> None:
    path = lab_copy / "outputs/labllama-15m/labllama-15m-Q8_0.gguf"

    def damage(name: str, label: str, done: int) -> None:
        if (name, label, done) == ("perplexity", "F16", 0):
            path.write_bytes(b"garbage")

    lab = open_lab(lab_copy, chunks=5)
    outcome = pipeline.run(lab, Watched(damage), names=("quantize", "perplexity"), report=False)
    assert {(one.step, one.format) for one in outcome.failures} == {("perplexity", "Q8_0")}
    assert set(outcome.records.of(PERPLEXITY)) == {"F16", "Q4_K_M"}
    again = pipeline.run(open_lab(lab_copy, chunks=5), Watched(), names=("quantize", "perplexity"), report=False)
    assert again.failures == ()
    assert set(again.records.of(PERPLEXITY)) == {"F16", "Q8_0", "Q4_K_M"}


@pytest.mark.slow
def test_a_killed_child_is_named_the_rest_goes_on_and_the_next_run_repeats_one_chunk_at_most(
    lab_copy: Path, open_lab: Open
) -> None:
    reported: list[int] = []
    formats = ("Q8_0",)

    def kill(name: str, label: str, done: int) -> None:
        if label == "Q8_0" and done >= 6 and not reported:
            reported.append(done)
            for child in psutil.Process().children():
                child.kill()

    lab = open_lab(lab_copy, chunks=10, formats=formats)
    outcome = pipeline.run(lab, Watched(kill), names=("perplexity",), report=False)
    (failure,) = outcome.failures
    assert (failure.step, failure.format) == ("perplexity", "Q8_0")
    assert "SIGKILL" in failure.message
    assert set(outcome.records.of(PERPLEXITY)) == {"F16"}

    again = pipeline.run(
        open_lab(lab_copy, chunks=10, formats=formats), display := Watched(), names=("perplexity",), report=False
    )
    assert display.steps == [("perplexity", "Q8_0")]
    assert again.failures == ()
    run = again.records.of(PERPLEXITY)["Q8_0"]
    # what was reported as done was kept: at most the chunk under way is computed twice
    assert run.n_tokens_evaluated <= (10 - reported[0]) * 512
    interrupted = load_rows(lab.folder.root / run.nll_path)
    shutil.rmtree(lab.folder.nll)
    undisturbed = pipeline.run(
        open_lab(lab_copy, chunks=10, formats=formats), Watched(), names=("perplexity",), report=False
    )
    assert undisturbed.records.of(PERPLEXITY)["Q8_0"].ppl == run.ppl
    assert interrupted is not None
    nll = load_rows(lab.folder.root / run.nll_path)
    assert nll is not None
    assert (nll[:10] == interrupted[:10]).all()


def test_force_measures_again(lab_copy: Path, open_lab: Open) -> None:
    lab = open_lab(lab_copy)
    outcome = pipeline.run(lab, display := Watched(), names=("perplexity",), force=("perplexity",), report=False)
    assert display.steps == [("perplexity", label) for label in ("F16", "Q8_0", "Q4_K_M")]
    assert all(run.n_tokens_evaluated == 4 * 512 for run in outcome.records.of(PERPLEXITY).values())


def test_force_leaves_other_formats_alone(lab_copy: Path, open_lab: Open) -> None:
    pipeline.run(
        open_lab(lab_copy, formats=("Q8_0",)), Watched(), names=("perplexity",), force=("perplexity",), report=False
    )
    assert ("perplexity", "Q4_K_M") not in stale(open_lab(lab_copy))


def _failed(lab: Lab, step: str, label: str) -> None:
    from labctl.records.store import write_record
    from labctl.steps.measured import StepFailure

    failure = StepFailure(step=step, format=label, message="It failed.", hint="Try again.")
    write_record(lab.folder.record_path("failures"), Failures(failures=(failure,)))


@pytest.mark.parametrize("label", ["Q2_K", "Q8_0"], ids=["a format left out now", "a step that is done by now"])
def test_an_old_failure_does_not_stick(lab_copy: Path, open_lab: Open, label: str) -> None:
    lab = open_lab(lab_copy)
    _failed(lab, "perplexity", label)
    assert pipeline.run(lab, Watched(), names=("perplexity",), report=False).failures == ()


def test_a_damaged_nll_file_is_measured_again(lab_copy: Path, open_lab: Open) -> None:
    lab = open_lab(lab_copy)
    run = results.load_records(lab).of(PERPLEXITY)["Q8_0"]
    path = lab.folder.root / run.nll_path
    path.write_bytes(path.read_bytes()[:500])
    assert stale(lab) == {("perplexity", "Q8_0")}


def test_a_damaged_record_is_redone(lab_copy: Path, open_lab: Open) -> None:
    path = lab_copy / "outputs/labllama-15m/records/memory-Q8_0.json"
    path.write_bytes(path.read_bytes()[:100])
    assert stale(open_lab(lab_copy)) == {("memory", "Q8_0")}


def test_a_lost_prompt_file_is_written_again(lab_copy: Path, open_lab: Open) -> None:
    (lab_copy / "outputs/labllama-15m/Q8_0/prompt_3.txt").unlink()
    assert stale(open_lab(lab_copy)) == {("generate", "Q8_0")}


def test_records_name_their_inputs_settings_and_versions(small_lab: Path, open_lab: Open) -> None:
    lab = open_lab(small_lab)
    records = results.load_records(lab)
    run = records.of(PERPLEXITY)["Q8_0"]
    assert run.provenance.inputs == {"model": records.of(QUANTIZE)["Q8_0"].sha256, "text": lab.text.sha256}
    assert run.provenance.versions["llama_cpp"]
    assert run.provenance.settings["chunks"] == 4
    assert run.provenance.machine == lab.machine
    generation = records.of(GENERATE)["Q8_0"].provenance
    assert generation.settings["seed"] == 42
    assert set(generation.inputs) == {"model", "capitals", "sums"}


def test_what_another_run_left_half_written_is_swept(lab_copy: Path, open_lab: Open) -> None:
    root = lab_copy / "outputs/labllama-15m"
    reports = lab_copy / "reports/labllama-15m"
    for folder in (root, root / "records", root / "nll", root / "Q8_0", reports):
        (folder / ".partial-0123456789ab-x").write_bytes(b"half")
    pipeline.run(open_lab(lab_copy), Watched(), names=("quantize",), report=False)
    assert not list(lab_copy.rglob(".partial-*"))


def test_the_plan_is_exact_about_bytes(new_lab: Path, open_lab: Open, quantized: Any) -> None:
    planned = plan.plan(open_lab(new_lab), ("quantize",))
    assert {one.label: one.write_bytes for one in planned if one.write_bytes} == {
        label: quantized.records[label].tensor_bytes for label in ("Q8_0", "Q4_K_M")
    }
    assert not list((new_lab / "outputs").rglob("*.gguf"))


def test_failures_survive_as_a_record(lab_copy: Path, open_lab: Open) -> None:
    lab = open_lab(lab_copy)
    _failed(lab, "bench", "Q8_0")
    stored = read_record(lab.folder.record_path("failures"), Failures)
    assert stored is not None
    assert json.loads(lab.folder.record_path("failures").read_text("utf-8"))["kind"] == "Failures"
    assert results.load_records(lab).failures == stored.failures


def test_tasks_and_events_survive_the_pipe(quantized: Any) -> None:
    import msgspec

    for event in (Progress(done=1, total=2, note="ü"), Failure(message="a\nb", hint="")):
        assert msgspec.json.decode(msgspec.json.encode(event), type=AnyEvent) == event


def test_an_old_failure_to_quantize_does_not_shut_a_format_out(lab_copy: Path, open_lab: Open) -> None:
    lab = open_lab(lab_copy)
    _failed(lab, "quantize", "Q8_0")  # as after --force on a full disk: the old file and its record are still good
    lab.folder.record_path("memory", "Q8_0").unlink()
    outcome = pipeline.run(lab, Watched(), names=("quantize", "memory"), report=False)
    assert "Q8_0" in outcome.records.of(MEMORY)
