"""Comparisons 10 and 11: speeds on a machine that others use, too, and speeds predicted for files not timed."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import quality
from benchmarks.bench import Bench, section
from benchmarks.load import BURST_S, load
from benchmarks.records import BUSY, QUIET, THEIRS, BusyPair, Prediction, Sample, Section
from benchmarks.speed import visited
from labctl.lab import reach as lengths
from labctl.steps.bench.arithmetic import token_bytes
from labctl.steps.bench.pace import predicted_tps
from labctl.steps.bench.ratios import TESTS, visits_ratio, visits_speed
from labctl.steps.bench.record import SpeedVisit, Test
from labctl.steps.perplexity import keep

_MOST_S = 1800.0  # a load never outlives this


def busy(bench: Bench) -> Section:
    """(10) Rounds on an idle machine and beside a load, in turn; then perplexity by both sides, alike."""
    count, labels = bench.settings.rounds, bench.lab.formats
    bench.runner.screen.section("10. A machine in use", 2 * count * (len(labels) + 2))
    visits: dict[tuple[str, str], list[SpeedVisit]] = {}
    samples: list[Sample] = []
    for number in range(1, count + 1):
        for state in (QUIET, BUSY):
            with state_of(state, number):
                for label in labels:
                    visit = _visit(bench, label, number, f"speed, {state}")
                    visits.setdefault((state, label), []).append(visit)
    for number in range(1, count + 1):
        for state in (QUIET, BUSY):
            with state_of(state, 100 + number):
                samples += _perplexity(bench, number, state)
    pairs = [_pair(visits, labels[0], label, test) for label in labels for test in TESTS]
    settings = {
        "rounds": count,
        "chunks": bench.settings.timing_chunks,
        "n_threads": bench.lab.n_threads,
        "load": f"one core, bursts and pauses of {BURST_S[0]:g} to {BURST_S[1]:g} s",
    }
    return section(settings, samples=samples, busy=pairs)


def predictions(bench: Bench) -> Section:
    """(11) Every format's speed of generation, predicted from two models of random weights, and measured."""
    from labctl.cli.output import Display
    from labctl.pipeline.pace import known_pace, measure_pace

    count, labels = bench.settings.rounds, bench.lab.formats
    bench.runner.screen.section("11. Predicted speeds", count * len(labels))
    pace = known_pace(bench.lab) or measure_pace(bench.lab, Display(quiet=True))
    visits: dict[str, list[SpeedVisit]] = {}
    for number, label in bench.rounds(count):
        visits.setdefault(label, []).append(_visit(bench, label, number, "speed"))
    found = []
    for label in labels:
        speed = visits_speed(visits[label], "tg", lengths.N_PROMPT)
        file = bench.lab.engine.inspect(bench.gguf(label))
        n_bytes = token_bytes(file.tensors, n_expert=file.n_expert, n_expert_used=file.n_expert_used)
        found.append(
            Prediction(
                format=label,
                size_bytes=file.size_bytes,
                measured_tps=speed.tps if speed is not None else 0.0,
                n_rounds=speed.n_rounds if speed is not None else 0,
                predicted_tps=predicted_tps(pace, n_bytes, file.shape.n_layer),
            )
        )
    settings = {"rounds": count, "n_threads": bench.lab.n_threads, "cache_bytes": _cache_bytes()}
    return section(settings, predictions=found)


@contextlib.contextmanager
def state_of(state: str, seed: int) -> Iterator[None]:
    """The machine as it is, or beside a load."""
    with load(seed=seed, most_s=_MOST_S) if state == BUSY else contextlib.nullcontext():
        yield


def _visit(bench: Bench, label: str, number: int, step: str) -> SpeedVisit:
    visit, sample = visited(bench, label, number)
    n_all = len(visit.pp_s) + len(visit.token_s)
    n_disturbed = sum(visit.n_disturbed(test) for test in TESTS)
    bench.runner.screen.step(f"{step}, {label}, round {number}", sample.wall_s, f"{n_disturbed} of {n_all} disturbed")
    return visit


def _perplexity(bench: Bench, number: int, state: str) -> list[Sample]:
    """The perplexity step of the baseline by labctl, then by llama-perplexity."""
    label, chunks = bench.lab.model.baseline, bench.settings.timing_chunks
    nll = bench.fresh_folder("nll") / f"{label}.npy"
    task = quality.perplexity_task(bench, label, chunks)
    _, ours = quality.measured(bench, task, keep.Place(nll=nll, shown=nll.name, tokens=None), number)
    theirs = bench.runner.run(
        quality.perplexity_command(bench, bench.gguf(label), chunks),
        side=THEIRS,
        format_name=label,
        round_number=number,
        step="perplexity",
    ).sample
    found = [dataclasses.replace(one, step=state) for one in (ours, theirs)]
    for one in found:
        bench.runner.screen.step(f"perplexity by {one.side}, {state}, round {number}", one.wall_s)
    return found


def _pair(visits: dict[tuple[str, str], list[SpeedVisit]], base: str, label: str, test: Test) -> BusyPair:
    """One format's ratio to the baseline, idle and beside the load, and what undisturbed times are worth."""
    quiet, beside = visits[QUIET, label], visits[BUSY, label]
    before, now = (visits_ratio(own, visits[state, base], test) for own, state in ((quiet, QUIET), (beside, BUSY)))
    assert before is not None and now is not None  # every round timed both
    usual = statistics.median(second for visit in quiet for second in visit.all_s(test))
    kept = [second for visit in beside for second in visit.undisturbed_s(test)]
    every = [second for visit in beside for second in visit.all_s(test)]
    return BusyPair(
        format=label,
        test=test,
        quiet=before.ratio,
        busy=now.ratio,
        low=now.low,
        high=min(now.high, sys.float_info.max),  # JSON knows no infinity
        n_undisturbed=len(kept),
        n_all=len(every),
        undisturbed_slower=statistics.median(kept) / usual if kept else None,
        all_slower=statistics.fmean(every) / usual,
    )


def _cache_bytes() -> int | None:
    """The processor's largest cache, as Linux tells it; None elsewhere."""
    sizes = [
        int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        if (text := path.read_text("utf-8").strip())[-1:] in ("K", "M")
    ]
    return max(sizes, default=None)
