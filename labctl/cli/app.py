"""The command line: parse, call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labctl import __version__
from labctl.cli import bench as cli_bench
from labctl.cli import handin as cli_handin
from labctl.cli import models as cli_models
from labctl.cli import results as cli_results
from labctl.cli import streams
from labctl.cli.options import (
    NearestGroup,
    bench_time_option,
    display_for,
    lab_options,
    open_to_measure,
    report_options,
    run_options,
)
from labctl.errors import LabError
from labctl.machine import surroundings

if TYPE_CHECKING:
    from labctl.cli.output import Display
    from labctl.lab.lab import Lab
    from labctl.pipeline.run import Outcome


@click.group(cls=NearestGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="labctl")
def cli() -> None:
    """Decide by measurement which quantization of a language model to run on a CPU.

    Example: labctl run
    """


def _measure(
    names: Sequence[str], settings: dict[str, Any], *, as_json: bool, quiet: bool, dry_run: bool, force: bool,
    wait: bool, report: bool = False, forced: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Open the lab and make the named steps, or say what would be made."""
    from labctl.pipeline import plan
    from labctl.pipeline import run as pipeline

    display = display_for(quiet, as_json)
    lab = open_to_measure(settings, display, names, keep=not dry_run)
    if {"perplexity", "divergence", "memory"} & set(names):
        lab.reach.require(lab.config.ctx)
    force_names = (names if forced is None else forced) if force else ()
    if dry_run:
        _show_plan(lab, plan.plan(lab, names, force=force_names), as_json)
        return
    if not lab.is_demo:
        _preflight(lab, names, force_names, display)
    outcome = pipeline.run(lab, display, names=names, force=force_names, wait=wait, report=report)
    _show_outcome(lab, outcome, display, as_json)
    if outcome.failures:
        raise click.exceptions.Exit(1)


def _preflight(lab: Lab, names: Sequence[str], force: Sequence[str], display: Display) -> None:
    """Say what the run will write, need and take; ask before it writes much."""
    from labctl.pipeline import plan, preflight

    planned = plan.plan(lab, names, force=force)
    if not planned:
        return
    if any(one.step != "quantize" for one in planned) and preflight.stored_probe(lab) is None:
        display.note("Timing the first chunks of text ...")
        if preflight.ensure_probe(lab) is not None:
            planned = plan.plan(lab, names, force=force)
    preflight.check(lab, preflight.preflight(lab, planned), display)


def _show_plan(lab: Lab, planned: Sequence[Any], as_json: bool) -> None:
    import msgspec

    from labctl.cli.output import print_json, print_line, print_table
    from labctl.pipeline import preflight
    from labctl.records.units import size_text, time_text

    if as_json:
        print_json(msgspec.to_builtins(planned))
        return
    if not planned:
        print_line("Nothing to do: everything is up to date.")
        return
    total_bytes = sum(one.write_bytes for one in planned)
    total_s = sum(one.estimate_s for one in planned)
    timed = preflight.stored_probe(lab) is not None
    rests_on = (
        "judging by this model's first chunks, timed in an earlier run"
        if timed
        else "reckoned from the model's size, give or take a factor of 3"
    )
    print_table(
        "What a run would do",
        ("step", "format", "writes", "about"),
        [
            (one.step, one.label, size_text(one.write_bytes) if one.write_bytes else "", time_text(one.estimate_s))
            for one in planned
        ],
        caption=f"In all: {size_text(total_bytes)} and about {time_text(preflight.rough_s(total_s))}, {rests_on}."
        " Nothing was measured or written now.",
    )


def _show_outcome(lab: Lab, outcome: Outcome, display: Display, as_json: bool) -> None:
    import msgspec

    if as_json:
        from labctl.cli.output import print_json

        print_json(
            {
                "model": lab.model.name,
                "made": outcome.made,
                "up_to_date": outcome.fresh,
                "failures": msgspec.to_builtins(outcome.failures),
                "outputs": str(lab.folder.root),
                "reports": [str(path) for path in outcome.reports],
            }
        )
        return
    if outcome.made:
        _print_results(lab, outcome, display)
    elif not outcome.failures:
        display.note("Nothing to do: everything is up to date.")
    for name, words in (("worksheet.md", "Worksheet"), ("index.html", "Page for a browser")):
        for path in outcome.reports:
            if path.name == name:
                display.note(f"{words}: {path}")
    if outcome.failures:
        display.error(
            f"{len(outcome.failures)} step{'s' if len(outcome.failures) > 1 else ''} failed: "
            + ", ".join(f"{one.step} {one.format}" for one in outcome.failures)
            + ". All else is done and kept.",
            "Correct the cause and run the same command again: only what failed is redone.",
        )


def _print_results(lab: Lab, outcome: Outcome, display: Display) -> None:
    """The lab's main figures as a table on stdout, what limits them unless it was said before, and the answer."""
    from labctl.cli.output import print_table, print_text
    from labctl.records.units import size_text
    from labctl.report.analysis import frame, rows_of
    from labctl.report.findings import notices
    from labctl.report.gaps import MARK, mislabelled
    from labctl.report.summary import answer_line

    rows = rows_of(frame(outcome.records, limit=lab.config.limit))
    marked = mislabelled(outcome.records)

    def cell(row: Any, name: str, pattern: str) -> str:
        value = row.get(name)
        return "-" if value is None or value != value else pattern.format(value)

    print_table(
        f"{lab.model.name} on {lab.text.name}",
        ("format", "size", "bits per weight", "perplexity", "± SE", "increase %", "pp t/s", "tg t/s", "peak RAM"),
        [
            (
                f"{label} {MARK}" if label in marked else label,
                size_text(row["size_bytes"]),
                cell(row, "bpw", "{:.2f}"),
                cell(row, "ppl", "{:.4f}"),
                cell(row, "ppl_se", "{:.4f}"),
                cell(row, "ppl_increase_pct", "{:+.2f}"),
                cell(row, "pp_tps", "{:,.0f}"),
                cell(row, "tg_tps", "{:,.1f}"),
                size_text(row["peak_rss_bytes"]),
            )
            for label, row in rows.items()
        ],
    )
    for notice in notices(outcome.records):
        if notice not in display.shown:
            display.warn(notice)
    answer = answer_line(outcome.records, rows, lab.config.limit)
    if answer:
        print_text(answer, style="bold")


@cli.command()
@bench_time_option
@lab_options
@report_options
@run_options
def run(as_json: bool, quiet: bool, dry_run: bool, force: bool, wait: bool, **settings: Any) -> None:
    """The whole lab: quantize, measure, generate, write the worksheet.

    What is already measured is kept; interrupt it at any time and run it again to go on.

    Example: labctl run --model ./my-model-f16.gguf --chunks 64
    """
    from labctl.pipeline.plan import STEPS

    _measure(STEPS, settings, as_json=as_json, quiet=quiet, dry_run=dry_run, force=force, wait=wait, report=True)


@cli.command()
@lab_options
def prepare(as_json: bool, quiet: bool, **settings: Any) -> None:
    """Find or fetch the model and the text, and check them.

    Example: labctl prepare --model hf:owner/repo:model-f16.gguf
    """
    import msgspec

    from labctl.cli.output import print_json, print_table
    from labctl.records.units import size_text

    lab = open_to_measure(settings, display_for(quiet, as_json), ())
    if as_json:
        print_json({"model": msgspec.to_builtins(lab.model), "text": msgspec.to_builtins(lab.text)})
        return
    print_table(
        "Sources",
        ("what", "name", "size", "sha256", "path"),
        [
            ("model", lab.model.name, size_text(lab.model.size_bytes), lab.model.sha256[:12], lab.model.path),
            ("text", lab.text.name, size_text(lab.text.size_bytes), lab.text.sha256[:12], lab.text.path),
        ],
    )


def _step_command(name: str, help_text: str) -> None:
    """A command that makes one step for every format, and the quantized files it needs."""
    names = (name,) if name == "quantize" else ("quantize", name)

    @cli.command(name, help=help_text)
    @lab_options
    @run_options
    def command(as_json: bool, quiet: bool, dry_run: bool, force: bool, wait: bool, **settings: Any) -> None:
        _measure(
            names, settings, as_json=as_json, quiet=quiet, dry_run=dry_run, force=force, wait=wait, forced=(name,)
        )  # fmt: skip


_step_command(
    "quantize",
    "Make the quantized files and check what they really contain.\n\nExample: labctl quantize --formats Q4_K_M,Q2_K",
)
_step_command(
    "perplexity",
    "Measure perplexity as llama-perplexity does.\n\nEvery token's value is kept.\n\n"
    "Example: labctl perplexity --chunks 64",
)
_step_command(
    "divergence",
    "Compare each format's predictions with the baseline's.\n\n"
    "KL divergence, and how often the most likely token is the same.\n\n"
    "Example: labctl divergence --formats Q4_K_M",
)
_step_command(
    "generate",
    "Write the sample outputs and answer the probes.\n\nExample: labctl generate --formats Q4_K_M",
)
cli.add_command(cli_bench.bench_command(_measure))
_step_command(
    "memory",
    "Measure peak memory, each format in a fresh process.\n\nExample: labctl memory --ctx 2048",
)


for _command in (
    *(cli_models.models, cli_models.convert),
    *(cli_results.report, cli_results.score, cli_results.fit, cli_results.doctor),
    *(cli_handin.submit, cli_handin.verify, cli_handin.compare),
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; every expected failure becomes one line and a hint."""
    streams.make_usable()
    streams.interrupt_once()
    status = _run()
    try:
        streams.flush()
    except OSError as error:
        status = status or 1
        streams.give_up_stdout()
        if not isinstance(error, BrokenPipeError):
            _say(_explain(error))
    sys.exit(status)


def _run() -> int:
    """Do what the command line says.

    Returns: the exit status.
    """
    try:
        status = cli.main(standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _stopped()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        streams.give_up_stdout()
        return 1
    except Exception as error:
        if streams.was_interrupted():
            return _stopped()
        found = error if isinstance(error, LabError) else surroundings.fault(error)
        if found is None and isinstance(error, (OSError, UnicodeEncodeError)):
            found = _explain(error)
        if found is None or _debugging():
            raise
        _say(found)
        return 1


def _debugging() -> bool:
    from labctl.lab.values import is_yes

    try:
        return is_yes("LABCTL_DEBUG", os.environ.get("LABCTL_DEBUG", ""))
    except LabError:  # said where settings are read
        return False


def _stopped() -> int:
    _say(LabError("Stopped.", "What is measured is kept. Run the same command again to go on from there."))
    return 130


def _explain(error: OSError | UnicodeEncodeError) -> LabError:
    """A refusal of the system that nobody foresaw, in one line."""
    from labctl.records.disk import refusal

    if isinstance(error, UnicodeEncodeError):
        return LabError(
            f"A name cannot be used here: {error.object[:80]!r} has letters that {error.encoding} lacks.",
            "Set a UTF-8 locale (LC_ALL=C.UTF-8), or use another name.",
        )
    named = error.filename if isinstance(error.filename, str) else ""
    return refusal(error, Path(named or "the output")) or LabError(
        f"The system refused: {(error.strerror or str(error)).lower()}{f' ({named})' if named else ''}.",
        "Run the same command again: what is finished is kept. LABCTL_DEBUG=1 shows the details.",
    )


def _say(error: LabError) -> None:
    from labctl.cli.output import Display

    Display().error(error.message, error.hint)


if __name__ == "__main__":
    main()
