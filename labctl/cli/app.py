"""The command line: parse, call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl import __version__, steps
from labctl.cli import bench as cli_bench
from labctl.cli import choose as cli_choose
from labctl.cli import handin as cli_handin
from labctl.cli import models as cli_models
from labctl.cli import results as cli_results
from labctl.cli import streams
from labctl.cli.options import TO_MEASURE, LabCommand, NearestGroup, lab_command, open_to_measure, run_options
from labctl.errors import LabError
from labctl.machine import surroundings

if TYPE_CHECKING:
    from labctl.cli.output import Display, Output
    from labctl.lab.lab import Lab
    from labctl.pipeline.run import Outcome
    from labctl.steps.base import AnyStep, Planned


@click.group(cls=NearestGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="labctl")
def cli() -> None:
    """Decide by measurement which quantization of a language model to run on a CPU.

    Example: labctl run
    """


def _measure(
    output: Output,
    wanted: Sequence[str | AnyStep],
    settings: dict[str, object],
    *,
    dry_run: bool,
    forced: Sequence[str],
    wait: bool,
    report: bool = False,
    show: Callable[[Lab, Outcome], None] | None = None,
) -> None:
    """Open the lab and make the named steps, those of `forced` anew, or say what would be made.

    Args:
        show: shows what was found in place of the lab's main figures.
    """
    from labctl.pipeline import run as pipeline

    display, made = output.display, steps.every(wanted)
    lab = open_to_measure(settings, display, tuple(step.name for step in made), keep=not dry_run)
    if any("ctx" in step.settings for step in made):
        lab.reach.require(lab.config.ctx)
    if dry_run:
        _dry_run(lab, wanted, forced, output)
        return
    if not lab.is_demo:
        _preflight(lab, wanted, forced, display)
    outcome = pipeline.run(lab, display, names=wanted, force=forced, wait=wait, report=report)
    if show is not None and outcome.made:
        show(lab, outcome)
        _show_failures(outcome, display)
    else:
        _show_outcome(lab, outcome, output)
    if outcome.failures:
        raise click.exceptions.Exit(1)


def _preflight(lab: Lab, names: Sequence[str | AnyStep], force: Sequence[str], display: Display) -> None:
    """Say what the run will write, need and take; ask before it writes much."""
    from labctl.pipeline import plan, preflight

    planned = plan.plan(lab, names, force=force)
    if not planned:
        return
    if _rests_on_speed(planned) and preflight.stored_probe(lab) is None:
        display.note(_TIMING)
        if preflight.ensure_probe(lab) is not None:
            planned = plan.plan(lab, names, force=force)
    preflight.check(lab, preflight.preflight(lab, planned), display)


_TIMING = "Timing the model's first tokens ..."


def _rests_on_speed(planned: Sequence[Planned]) -> bool:
    return any(steps.named(row.step).asks is not None for row in planned)


def _dry_run(lab: Lab, names: Sequence[str | AnyStep], force: Sequence[str], output: Output) -> None:
    """Say what a run would do, without writing anything."""
    from labctl.pipeline import plan, preflight
    from labctl.records.units import size_text, time_text

    planned = plan.plan(lab, names, force=force)
    probe = preflight.stored_probe(lab)
    if probe is None and _rests_on_speed(planned):
        output.display.note(_TIMING)
        probe = preflight.timed(lab)
        planned = plan.plan(lab, names, force=force, probe=probe)
    output.data(planned)
    if not planned:
        output.line("Nothing to do: everything is up to date.")
        return
    total_bytes = sum(one.write_bytes for one in planned)
    total_s = sum(one.estimate_s for one in planned)
    rests_on = (
        "judging by the speed of this model here"
        if probe is not None
        else "reckoned from the model's size, give or take a factor of 3"
    )
    output.table(
        "What a run would do",
        ("step", "format", "writes", "about"),
        [
            (one.step, one.label, size_text(one.write_bytes) if one.write_bytes else "", time_text(one.estimate_s))
            for one in planned
        ],
        caption=f"In all: {size_text(total_bytes)} and about {time_text(preflight.rough_s(total_s))}, {rests_on}."
        " Nothing was written now.",
    )


def _show_outcome(lab: Lab, outcome: Outcome, output: Output) -> None:
    output.data(
        {
            "model": lab.model.name,
            "made": outcome.made,
            "up_to_date": outcome.fresh,
            "failures": outcome.failures,
            "outputs": lab.folder.root,
            "reports": outcome.reports,
        }
    )
    if output.as_json:
        return
    display = output.display
    if outcome.made:
        _print_results(lab, outcome, output)
    elif not outcome.failures:
        display.note("Nothing to do: everything is up to date.")
    for name, words in (("worksheet.md", "Worksheet"), ("index.html", "Page for a browser")):
        for path in outcome.reports:
            if path.name == name:
                display.note(f"{words}: {path}")
    _show_failures(outcome, display)


def _show_failures(outcome: Outcome, display: Display) -> None:
    if outcome.failures:
        display.error(
            f"{len(outcome.failures)} step{'s' if len(outcome.failures) > 1 else ''} failed: "
            + ", ".join(f"{one.step} {one.format}" for one in outcome.failures)
            + ". All else is done and kept.",
            "Correct the cause and run the same command again: only what failed is redone.",
        )


def _print_results(lab: Lab, outcome: Outcome, output: Output) -> None:
    """The lab's main figures as a table on stdout, what limits them unless it was said before, and the answer."""
    from labctl.records.units import size_text
    from labctl.report.figures import FormatFigures, figures_of
    from labctl.report.findings import notices
    from labctl.report.gaps import MARK, mislabelled
    from labctl.report.summary import answer_line

    figures = figures_of(outcome.records, lab.config.limit)
    marked = mislabelled(outcome.records)

    def line(label: str, row: FormatFigures) -> tuple[str, ...]:
        file, texts = row.quantize, row.perplexity
        values = (
            (f"{label} {MARK}" if label in marked else label, "{}"),
            (row.size_bytes and size_text(row.size_bytes), "{}"),
            (file and file.file.bpw, "{:.2f}"),
            (row.ppl, "{:.4f}"),
            (texts and texts.ppl_se, "{:.4f}"),
            (row.increase_pct, "{:+.2f}"),
            ((speed := row.speed("pp")) and speed.tps, "{:,.0f}"),
            ((speed := row.speed("tg")) and speed.tps, "{:,.1f}"),
            (row.peak_rss_bytes and size_text(row.peak_rss_bytes), "{}"),
        )
        return tuple("-" if value is None else pattern.format(value) for value, pattern in values)

    output.table(
        f"{lab.model.name} on {lab.text.name}",
        ("format", "size", "bits per weight", "perplexity", "± SE", "increase %", "pp t/s", "tg t/s", "peak RAM"),
        [line(label, row) for label, row in figures.items()],
    )
    for notice in notices(outcome.records):
        if notice not in output.display.shown:
            output.display.warn(notice)
    answer = answer_line(outcome.records, figures, lab.config.limit)
    if answer:
        output.text(answer, style="bold")


@lab_command(*TO_MEASURE, "blank", steps=steps.COMMANDS)
@run_options
def run(output: Output, dry_run: bool, force: bool, wait: bool, **settings: object) -> None:
    """The whole lab: quantize, measure, generate, write the worksheet.

    What is already measured is kept; interrupt it at any time and run it again to go on.

    Example: labctl run --model ./my-model-f16.gguf --chunks 64
    """
    forced = steps.COMMANDS if force else ()
    _measure(output, steps.COMMANDS, settings, dry_run=dry_run, forced=forced, wait=wait, report=True)


@lab_command(*TO_MEASURE, "ctx")
def prepare(output: Output, **settings: object) -> None:
    """Find or fetch the model and the text, and check them.

    Example: labctl prepare --model hf:owner/repo:model-f16.gguf
    """
    from labctl.records.units import size_text

    lab = open_to_measure(settings, output.display, ())
    output.data({"model": lab.model, "text": lab.text})
    output.table(
        "Sources",
        ("what", "name", "size", "sha256", "path"),
        [
            ("model", lab.model.name, size_text(lab.model.size_bytes), lab.model.sha256[:12], lab.model.path),
            ("text", lab.text.name, size_text(lab.text.size_bytes), lab.text.sha256[:12], lab.text.path),
        ],
    )


def _step_command(name: str) -> LabCommand:
    """A command that makes one step for every format, and what it comes after."""

    @lab_command(*TO_MEASURE, steps=(name,), name=name, help=steps.command_help(name))
    @run_options
    def command(output: Output, dry_run: bool, force: bool, wait: bool, **settings: object) -> None:
        names = (*steps.named(name).after, name)
        _measure(output, names, settings, dry_run=dry_run, forced=(name,) if force else (), wait=wait)

    return command


_OWN = cli_bench.bench_command(_measure)  # the one with options of its own
for _command in (
    *(run, prepare, *(_OWN if name == _OWN.name else _step_command(name) for name in steps.COMMANDS)),
    *(cli_choose.choose, cli_models.models, cli_models.convert),
    *(cli_results.report, cli_results.score, cli_results.fit, cli_results.card, cli_results.doctor),
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
    try:
        from labctl.lab.values import is_yes

        return is_yes("LABCTL_DEBUG", os.environ.get("LABCTL_DEBUG", ""))
    except (ImportError, LabError):  # a broken package, or no yes and no no: said where settings are read
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
