"""Comparison 4: pp512 and tg128 against llama-bench."""

from __future__ import annotations

import dataclasses

from benchmarks import logs
from benchmarks.bench import Bench, section
from benchmarks.records import OURS, THEIRS, Sample, Section, SpeedSample
from labctl.lab import reach as lengths
from labctl.steps.bench.record import BenchTask, SpeedVisit
from labctl.steps.bench.step import EFFORT

REPETITIONS = 5  # llama-bench's default


def speed(bench: Bench) -> Section:
    """(4) A visit by labctl, then one by llama-bench, format by format, in rounds."""
    count = bench.settings.rounds
    bench.runner.screen.section("4. Speed: pp512 and tg128", 2 * len(bench.lab.formats) * count)
    samples: list[Sample] = []
    found: list[SpeedSample] = []
    for number, label in bench.rounds(count):
        visit, ours = visited(bench, label, number)
        mine = {
            f"pp{lengths.N_PROMPT}": tuple(lengths.N_PROMPT / seconds for seconds in visit.pp_s),
            f"tg{lengths.N_GEN}": tuple(lengths.N_GEN / seconds for seconds in visit.tg_s),
        }
        _show(bench, OURS, label, number, ours.wall_s, mine)
        theirs = bench.runner.run(
            [*bench_command(bench, label), "-r", str(REPETITIONS), "-o", "json"],
            side=THEIRS,
            format_name=label,
            round_number=number,
            step="bench",
        )
        other = logs.bench_speeds(theirs.stdout)
        _show(bench, THEIRS, label, number, theirs.sample.wall_s, other)
        samples += [ours, theirs.sample]
        found += [
            SpeedSample(side=side, format=label, round=number, test=test, tps=tps)
            for side, tests in ((OURS, mine), (THEIRS, other))
            for test, tps in tests.items()
        ]
    settings = {
        "rounds": count,
        "n_threads": bench.lab.n_threads,
        "llama_bench_repetitions": REPETITIONS,
        **{f"labctl_{name}": value for name, value in dataclasses.asdict(EFFORT).items()},
    }
    return section(settings, samples=samples, speed=found)


def visited(bench: Bench, label: str, number: int) -> tuple[SpeedVisit, Sample]:
    """One visit of labctl's to a format."""
    task = BenchTask(
        model_path=str(bench.gguf(label)),
        format=label,
        n_threads=bench.lab.n_threads,
        n_prompt=lengths.N_PROMPT,
        n_gen=lengths.N_GEN,
        effort=EFFORT,
        round=number,
        order=0,
    )
    return bench.runner.run_task(task, SpeedVisit, format_name=label, round_number=number, step="bench")


def bench_command(bench: Bench, label: str) -> list[str]:
    """llama-bench with its own defaults but for the threads: pp512 and tg128."""
    return [
        bench.tools.path("llama-bench"),
        "-m",
        str(bench.gguf(label)),
        "-t",
        bench.threads,
        "-p",
        str(lengths.N_PROMPT),
        "-n",
        str(lengths.N_GEN),
    ]


def _show(bench: Bench, side: str, label: str, number: int, wall_s: float, tests: dict[str, tuple[float, ...]]) -> None:
    import statistics

    note = ", ".join(f"{test} {statistics.median(tps):,.0f} t/s" for test, tps in tests.items())
    bench.runner.screen.step(f"{side} {label}, round {number}", wall_s, note)
