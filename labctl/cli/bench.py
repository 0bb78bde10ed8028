"""The bench command: rounds over all formats, and on request several sequences at once or a sweep of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from labctl import steps
from labctl.cli.options import TO_MEASURE, lab_command, run_options

if TYPE_CHECKING:
    from labctl.cli.output import Output
    from labctl.lab.lab import Lab
    from labctl.pipeline.run import Outcome
    from labctl.steps.measured import Measured


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= number <= 256 for number in numbers):
        raise click.BadParameter(f"{value!r} is not a list of numbers from 1 to 256, such as 1,2,4,8.")
    return tuple(sorted(set(numbers)))


def bench_command(measure: Callable[..., None]) -> click.Command:
    """The command; `measure` makes steps for every format, as for the other step commands."""

    @lab_command(*TO_MEASURE, steps=("bench",), name="bench", help=steps.command_help("bench"))
    @click.option("--batch", metavar="1,2,4,8", callback=_numbers, help="Time so many sequences side by side instead.")
    @click.option("--sweep-threads", is_flag=True, help="Find the fastest number of threads instead.")
    @run_options
    def bench(
        output: Output,
        batch: tuple[int, ...] | None,
        sweep_threads: bool,
        dry_run: bool,
        force: bool,
        wait: bool,
        **settings: object,
    ) -> None:
        from labctl.steps.batch.step import Batch

        wanted = [*([Batch(batch)] if batch else []), *([steps.named("threads")] if sweep_threads else [])]
        if not wanted:
            forced = ["bench"] if force else []
            measure(output, ("quantize", "bench"), settings, dry_run=dry_run, forced=forced, wait=wait)
            return

        def show(lab: Lab, outcome: Outcome) -> None:
            if batch:
                _show_batches(lab, outcome.records, batch, output)
            if sweep_threads:
                _show_sweep(lab, outcome.records, output)
            output.display.note(f"{lab.command('report', exact=True)} puts it on the worksheet.")

        forced = [step.name for step in wanted]
        measure(output, ("quantize", *wanted), settings, dry_run=dry_run, forced=forced, wait=wait, show=show)

    return bench


def _show_batches(lab: Lab, records: Measured, n_seqs: tuple[int, ...], output: Output) -> None:
    from labctl.steps.batch.step import BATCH

    timed = records.of(BATCH).items()
    runs = {label: run for label, run in timed if tuple(point.n_seq for point in run.points) == n_seqs}
    output.data(runs)
    if not runs:
        return
    lines: list[tuple[str, ...]] = []
    for label, run in runs.items():
        lines.append((label, f"tg{run.n_gen}", *(f"{run.tg_tps(point):,.0f}" for point in run.points)))
        lines.append((label, f"pp{run.n_prompt}", *(f"{run.pp_tps(point):,.0f}" for point in run.points)))
    output.table(
        f"{lab.model.name}: tokens/second of all sequences together, {lab.n_threads} threads",
        ("format", "test", *(f"{n_seq} at once" for n_seq in n_seqs)),
        lines,
        caption="As llama-batched-bench: all prompts are read, then one token of each sequence at a time. Medians.",
    )


def _show_sweep(lab: Lab, records: Measured, output: Output) -> None:
    from labctl.report.sweep_tables import advice, speed_cell, sweep_rows
    from labctl.steps.threads.step import THREADS

    sweep = next(iter(records.of(THREADS).values()), None)
    if sweep is None:
        return
    rows = sweep_rows(sweep)
    output.data({"format": sweep.format, "rows": rows, "advice": advice(sweep, lab.n_threads)})
    output.table(
        f"{lab.model.name} {sweep.format}: tokens/second by number of threads",
        ("threads", f"tg{sweep.n_gen}", f"pp{sweep.n_prompt}"),
        [(str(row.n_threads), speed_cell(row.tg), speed_cell(row.pp)) for row in rows],
    )
    output.line(advice(sweep, lab.n_threads))
