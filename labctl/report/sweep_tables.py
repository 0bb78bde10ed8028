"""Speed asked in other ways, as tables: several sequences at once, and different numbers of threads."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from labctl.records.units import rate
from labctl.report.order import Order, Pair, order_of, tied
from labctl.report.text import NOT_MEASURED, counted, table
from labctl.steps.batch.record import BatchRun
from labctl.steps.batch.step import BATCH
from labctl.steps.bench.ratios import INTERVAL_RULE, SPEED_RULE, Speed, visits_ratio, visits_speed
from labctl.steps.bench.record import Test
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.threads.record import ThreadSweep
from labctl.steps.threads.step import THREADS

_CUT = " The time allowed was over before all repetitions were made; --bench-time allows more."


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadsRow:
    """Speed with one number of threads, in tokens per second by SPEED_RULE."""

    n_threads: int
    tg: Speed
    pp: Speed


def sweep_rows(sweep: ThreadSweep) -> tuple[ThreadsRow, ...]:
    """One row a number of threads, ascending."""
    return tuple(
        ThreadsRow(n_threads=count, tg=tg, pp=pp)
        for count, visits in sorted(sweep.visits.items())
        if (tg := visits_speed(visits, "tg", sweep.n_prompt)) is not None
        and (pp := visits_speed(visits, "pp", sweep.n_prompt)) is not None
    )


def speed_cell(speed: Speed) -> str:
    """A speed with its interval, if it has one."""
    if not math.isfinite(speed.high):
        return rate(speed.tps)
    return f"{rate(speed.tps)} ({rate(speed.low)} to {rate(speed.high)})"


def advice(sweep: ThreadSweep, usual: int) -> str:
    """Which numbers of threads can be the fastest for either test, in words."""
    tests: tuple[tuple[Test, str], ...] = (("tg", "generating text (tg)"), ("pp", "reading prompts (pp)"))
    parts = [f"{words}: {tied(_order(sweep, test).first)}" for test, words in tests]
    return (
        f"Fastest number of threads for {'; for '.join(parts)}. labctl uses {usual} unless told otherwise by --threads."
    )


def _order(sweep: ThreadSweep, test: Test) -> Order:
    """The numbers of threads by speed, told apart by their ratios within rounds."""
    ratios = {
        (str(one), str(other)): ratio
        for one, other in itertools.permutations(sweep.visits, 2)
        if (ratio := visits_ratio(sweep.visits[one], sweep.visits[other], test)) is not None
    }
    pairs = {names: Pair(ratio=ratio.ratio, low=ratio.low, high=ratio.high) for names, ratio in ratios.items()}
    return order_of({str(row.n_threads): (row.tg if test == "tg" else row.pp).tps for row in sweep_rows(sweep)}, pairs)


def threads_table(records: Measured) -> str:
    """The sweep of threads; empty if there was none."""
    sweep = _sweep(records)
    if sweep is None:
        return ""
    header = ("Threads", f"tg{sweep.n_gen}, tokens/second", f"pp{sweep.n_prompt}, tokens/second")
    return table(
        header, ((str(row.n_threads), speed_cell(row.tg), speed_cell(row.pp)) for row in sweep_rows(sweep)), left=()
    )


def threads_note(records: Measured) -> str:
    """What the sweep says; empty if there was none."""
    sweep = _sweep(records)
    if sweep is None:
        return ""
    usual = next((run.n_threads for run in records.of(BENCH).values()), max(sweep.visits))
    rounds = max(len(visits) for visits in sweep.visits.values())
    return (
        f"{sweep.format}; {counted(rounds, 'round')} that went up and down in turn; {SPEED_RULE}; in brackets:"
        f" {INTERVAL_RULE}."
        f" {advice(sweep, usual)}"
        f"{_CUT if any(visit.cut for visits in sweep.visits.values() for visit in visits) else ''}"
    )


def batch_table(records: Measured) -> str:
    """Tokens per second of all sequences together, by how many there were; empty if nobody asked."""
    runs = _batches(records)
    if not runs:
        return ""
    counts = sorted({point.n_seq for run in runs.values() for point in run.points})
    lines = []
    for name, run in runs.items():
        speeds = {point.n_seq: run.tg_tps(point) for point in run.points}
        first, last = (speeds[pick(speeds)] for pick in (min, max))
        most = max(run.points, key=lambda point: point.n_seq)
        lines.append(
            [
                name,
                *(rate(speeds[count]) if count in speeds else NOT_MEASURED for count in counts),
                f"{last / first:.2f}x" if len(speeds) > 1 else NOT_MEASURED,
                rate(run.pp_tps(most)),
            ]
        )
    some = next(iter(runs.values()))
    ahead = [f"tg{some.n_gen}, {count} at once" for count in counts]
    return table(("Format", *ahead, "Most against fewest", f"pp{some.n_prompt}, most at once"), lines)


def batch_note(records: Measured) -> str:
    """What the columns mean; empty if nobody asked."""
    some = next(iter(_batches(records).values()), None)
    if some is None:
        return ""
    return (
        "Tokens/second of all sequences together (medians), as llama-batched-bench measures it: all prompts are read,"
        f" then one token of each sequence at a time; {counted(some.n_threads, 'thread')}. One reading of the weights"
        " serves all sequences, so together they are faster until arithmetic is the limit. Each looks back at its"
        " prompt while it generates, so one at a time is slower here than tg in the table of formats, which begins with"
        f" nothing.{_CUT if any(run.cut for run in _batches(records).values()) else ''}"
    )


def _sweep(records: Measured) -> ThreadSweep | None:
    return next((sweep for sweep in records.of(THREADS).values() if sweep.visits), None)


def _batches(records: Measured) -> dict[str, BatchRun]:
    return {name: records.of(BATCH)[name] for name in records.formats if name in records.of(BATCH)}
