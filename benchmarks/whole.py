"""Comparisons 5 and 6: the whole lab against the course's shell loops, and labctl's own start-up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import logs, quality
from benchmarks.bench import Bench, section
from benchmarks.records import AS_NEEDED, OURS, THEIRS, LabStages, Sample, Section
from labctl.errors import LabError
from labctl.lab.folder import RunFolder
from labctl.records.store import read_record
from labctl.steps.bench.record import SpeedRun
from labctl.steps.generate.record import GenerationRun
from labctl.steps.generate.step import PROMPTS

LABCTL = str(Path(sys.executable).with_name("labctl"))
HELP_REPETITIONS = 10
LOOPS = ("quantize", "perplexity", "generate", "bench")
"""What the shell loops do, by the names of labctl's steps."""
START_AND_REPORT = "start and report"


def whole_lab(bench: Bench) -> Section:
    """(5) `labctl run` into empty folders, then the loops, in rounds. The last round's folder stays for (6).

    Over the whole text also `labctl run` as it comes, which takes as many chunks as the verdicts need.
    """
    count = bench.settings.lab_rounds
    labels = bench.lab.formats
    prompts = len(PROMPTS)
    n_loops = len(bench.quantized) + (2 + prompts) * len(labels)
    bench.runner.screen.section("5. The whole lab", count * (1 + n_loops + (bench.settings.chunks is None)))
    samples: list[Sample] = []
    stages = []
    for number in range(1, count + 1):
        folder = bench.fresh_folder("lab")
        lab_run = run_lab(bench, folder, step="lab", number=number)
        samples.append(lab_run)
        stages.append(stages_of(folder, bench, number, lab_run.wall_s))
        samples += by_hand(bench, number)
        if bench.settings.chunks is None:
            samples.append(run_lab(bench, bench.fresh_folder("lab-auto"), step=AS_NEEDED, number=number))
    settings = {
        "chunks": bench.settings.chunks,
        "rounds": count,
        "n_threads": bench.lab.n_threads,
        "prompts": prompts,
        "new_tokens": bench.lab.config.new_tokens,
        "labctl_bench_rounds": bench.lab.config.bench_rounds,
    }
    return section(settings, samples=samples, stages=stages)


def run_lab(bench: Bench, folder: Path, *, step: str, number: int) -> Sample:
    """One `labctl run`; the outputs and reports folders are inside `folder`."""
    chunks = "auto" if step == AS_NEEDED else "all" if bench.settings.chunks is None else str(bench.settings.chunks)
    places = ["--outputs", str(folder / "outputs"), "--reports", str(folder / "reports")]
    sample = bench.runner.run(
        [LABCTL, "run", *bench.lab_flags, "--chunks", chunks, *places], side=OURS, round_number=number, step=step
    ).sample
    bench.runner.screen.step(f"labctl run --chunks {chunks}, round {number}", sample.wall_s)
    return sample


def by_hand(bench: Bench, number: int) -> list[Sample]:
    """The course's shell loops, one process after the other; only the processes' own time counts."""
    folder = bench.fresh_folder("by-hand")
    samples: list[Sample] = []

    def run(step: str, label: str, argv: Sequence[str], n_chunks: int | None = None) -> None:
        samples.append(
            bench.runner.run(
                argv,
                side=THEIRS,
                format_name=label,
                round_number=number,
                step=step,
                share=(lambda out: logs.chunks_done(out) / n_chunks) if n_chunks else None,
            ).sample
        )
        bench.runner.screen.step(f"{Path(argv[0]).name} {label}, round {number}", samples[-1].wall_s)

    def file(label: str) -> Path:
        return bench.gguf(label) if label == bench.lab.model.baseline else folder / f"{label}.gguf"

    for label in bench.quantized:
        run("quantize", label, bench.quantize_command(label, file(label)))
    for label in bench.lab.formats:
        run(
            "perplexity",
            label,
            quality.perplexity_command(bench, file(label), bench.settings.chunks),
            bench.settings.chunks,
        )
    config = bench.lab.config
    sampling = [
        "-n",
        str(config.new_tokens),
        "--temp",
        str(config.temperature),
        "--top-p",
        str(config.top_p),
        "--seed",
        str(config.seed),
        "-t",
        bench.threads,
        "-no-cnv",
    ]
    for label in bench.lab.formats:
        for prompt in PROMPTS:
            completion = [bench.tools.path("llama-completion"), "-m", str(file(label)), "-p", prompt, *sampling]
            run("generate", label, completion)
    for label in bench.lab.formats:
        run("bench", label, [bench.tools.path("llama-bench"), "-m", str(file(label)), "-t", bench.threads])
    return samples


def stages_of(folder: Path, bench: Bench, number: int, wall_s: float) -> LabStages:
    """Where a run's time went: each stage ends when its last record is written.

    Raises:
        LabError: a step failed, so that the run cannot be compared.
    """
    run = RunFolder(folder / "outputs" / bench.lab.model.name)
    for name in LOOPS:
        missing = [label for label in bench.lab.formats if not run.record_path(name, label).exists()]
        if missing:
            raise LabError(f"labctl run left {name} undone for {', '.join(missing)}.", f"Its outputs: {run.root}")
    ends: dict[str, float] = {}
    for path in run.records.glob("*-*.json"):
        name = path.stem.partition("-")[0]
        ends[name] = max(ends.get(name, 0.0), path.stat().st_mtime)
    begun = run.record_path("text").stat().st_mtime  # written right before the first step
    stage_s = {}
    for name, end in sorted(ends.items(), key=lambda one: one[1]):
        stage_s[name] = end - begun
        begun = end
    stage_s[START_AND_REPORT] = wall_s - sum(stage_s.values())
    prompts_s, n_visits = 0.0, 0
    for label in bench.lab.formats:
        texts = read_record(run.record_path("generate", label), GenerationRun)
        prompts_s += texts.prompts_s if texts is not None else 0.0
        speed = read_record(run.record_path("bench", label), SpeedRun)
        n_visits += len(speed.visits) if speed is not None else 0
    extra_s = {
        "speed, all rounds but one": stage_s["bench"] * (1 - len(bench.lab.formats) / max(n_visits, 1)),
        "greedy outputs, half of the prompts' time": prompts_s / 2,
        "probes": stage_s["generate"] - prompts_s,
        **{name: seconds for name, seconds in stage_s.items() if name not in LOOPS},
    }
    return LabStages(round=number, stage_s=stage_s, extra_s=extra_s)


def start_up(bench: Bench) -> Section:
    """(6) `labctl --help`, and `labctl run` when there is nothing to do."""
    count = max(HELP_REPETITIONS, bench.settings.rounds)
    again = bench.settings.rounds
    folder = bench.work / "lab"
    complete = (folder / "reports" / bench.lab.model.name / "worksheet.md").exists()
    bench.runner.screen.section("6. labctl --help, and a second labctl run", count + again + (not complete))
    if not complete:
        run_lab(bench, bench.fresh_folder("lab"), step="first run", number=0)
    samples = []
    for number in range(1, count + 1):
        sample = bench.runner.run([LABCTL, "--help"], side=OURS, round_number=number, step="help").sample
        bench.runner.screen.step(f"labctl --help, repetition {number}", sample.wall_s)
        samples.append(sample)
    samples += [run_lab(bench, folder, step="second run", number=number) for number in range(1, again + 1)]
    return section({"help_repetitions": count, "second_run_repetitions": again}, samples=samples)
