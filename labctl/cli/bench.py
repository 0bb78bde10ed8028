"""The bench command: rounds over all formats, and on request several sequences at once or a sweep of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from labctl.cli.options import bench_time_option, display_for, lab_options, open_to_measure, run_options

if TYPE_CHECKING:
    from labctl.cli.output import Display
    from labctl.lab.lab import Lab

HELP = """Time reading a prompt and generating text.

As llama-bench does, in rounds over all formats.

Example: labctl bench --threads 4 --cooldown 20
"""


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

    @click.command("bench", help=HELP)
    @click.option("--batch", metavar="1,2,4,8", callback=_numbers, help="Time so many sequences side by side instead.")
    @click.option("--sweep-threads", is_flag=True, help="Find the fastest number of threads instead.")
    @click.option("--cooldown", "cooldown_s", type=float, metavar="SECONDS", help="Rest between visits. Default: 0.")
    @bench_time_option
    @lab_options
    @run_options
    def bench(
        batch: tuple[int, ...] | None, sweep_threads: bool, as_json: bool, quiet: bool, dry_run: bool, force: bool,
        wait: bool, **settings: Any,
    ) -> None:  # fmt: skip
        common = {"as_json": as_json, "quiet": quiet, "wait": wait}
        if batch is None and not sweep_threads:
            measure(("quantize", "bench"), settings, dry_run=dry_run, force=force, forced=("bench",), **common)
            return
        if dry_run:
            raise click.UsageError("--dry-run goes with neither --batch nor --sweep-threads.")
        display = display_for(quiet, as_json)
        lab = open_to_measure(settings, display, ("quantize", "batch"))
        from labctl.pipeline import asked
        from labctl.pipeline import run as pipeline
        from labctl.records.lock import lock

        made = pipeline.run(lab, display, names=("quantize",), wait=wait, report=False)
        with lock(lab.folder.root, wait, display.note):
            names = ("batch",) if batch else ()
            asked.note(lab.folder, lab.model, lab.config, lab.n_threads, names, whole=False, standing=lab.standing)
            if batch is not None:
                _show_batches(lab, display, batch, as_json)
            if sweep_threads:
                _show_sweep(lab, display, as_json)
        display.note(f"{lab.command('report', exact=True)} puts it on the worksheet.")
        if made.failures:
            raise click.exceptions.Exit(1)

    return bench


def _show_batches(lab: Lab, display: Display, n_seqs: tuple[int, ...], as_json: bool) -> None:
    import msgspec

    from labctl.cli.output import print_json, print_table
    from labctl.steps.speed.sweeps import run_batches

    runs = run_batches(lab, display, n_seqs)
    if as_json:
        print_json(msgspec.to_builtins(runs))
        return
    some = next(iter(runs.values()))
    lines: list[tuple[str, ...]] = []
    for label, run in runs.items():
        lines.append((label, f"tg{run.n_gen}", *(f"{run.tg_tps(point):,.0f}" for point in run.points)))
        lines.append((label, f"pp{run.n_prompt}", *(f"{run.pp_tps(point):,.0f}" for point in run.points)))
    print_table(
        f"{lab.model.name}: tokens/second of all sequences together, {some.n_threads} threads",
        ("format", "test", *(f"{n_seq} at once" for n_seq in n_seqs)),
        lines,
        caption="As llama-batched-bench: all prompts are read, then one token of each sequence at a time. Medians.",
    )


def _show_sweep(lab: Lab, display: Display, as_json: bool) -> None:
    import msgspec

    from labctl.cli.output import print_json, print_line, print_table
    from labctl.report.sweep_tables import advice, sweep_rows
    from labctl.steps.speed.sweeps import sweep_threads

    sweep = sweep_threads(lab, display)
    rows = sweep_rows(sweep)
    if as_json:
        print_json({"format": sweep.format, "rows": msgspec.to_builtins(rows), "advice": advice(sweep, lab.n_threads)})
        return
    print_table(
        f"{lab.model.name} {sweep.format}: tokens/second by number of threads",
        ("threads", f"tg{sweep.n_gen}", "range", f"pp{sweep.n_prompt}", "range"),
        [
            (
                str(row.n_threads),
                f"{row.tg_tps:,.1f}",
                f"{row.tg_low_tps:,.1f} to {row.tg_high_tps:,.1f}",
                f"{row.pp_tps:,.0f}",
                f"{row.pp_low_tps:,.0f} to {row.pp_high_tps:,.0f}",
            )
            for row in rows
        ],
    )
    print_line(advice(sweep, lab.n_threads))
