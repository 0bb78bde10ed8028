"""The command line: parse, call, print."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from labctl import __version__
from labctl.errors import LabError

if TYPE_CHECKING:
    from labctl.console import Display
    from labctl.pipeline import Outcome
    from labctl.steps import Lab

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class NearestGroup(click.Group):
    """A group that answers a mistyped command with the nearest one, and lists commands in the order of the work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            nearest = difflib.get_close_matches(args[0], self.commands, n=1) if args else []
            if nearest:
                raise click.UsageError(f"There is no command {args[0]!r}. Did you mean {nearest[0]!r}?", ctx) from error
            raise


def _chunks(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | int | None:
    if value is None or value == "all":
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'.") from None


def _formats(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value is not None else None


def lab_options(command: CommandT) -> CommandT:
    """The settings that every command of a lab takes; each beats its LABCTL_* variable and lab.toml."""
    for option in reversed(
        (
            click.option("--model", help="demo, a GGUF file, or hf:owner/repo[@revision][:file]. Default: demo."),
            click.option("--text", help="wikitext-2, demo, or a text file. Default: WikiText-2."),
            click.option("--formats", callback=_formats, help="Comma-separated, e.g. Q8_0,Q4_K_M,Q2_K."),
            click.option(
                "--chunks", metavar="N|all", callback=_chunks, help="Chunks of text. Default: all with demo, else 64."
            ),
            click.option("--threads", type=int, help="Default: this machine's physical cores."),
            click.option("--ctx", type=int, help="Context in tokens. Default: 512."),
            click.option("--outputs", help="Folder for models and records. Default: outputs."),
            click.option("--reports", help="Folder for worksheets. Default: reports."),
            click.option("--lab-data", help="Folder of the demo model and texts. Default: lab_data."),
            click.option(
                "--allow-quantized-source",
                is_flag=True,
                default=None,
                help="Accept a model that is quantized already; every table then says so.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print data as JSON on stdout."),
            click.option("--quiet", is_flag=True, help="Show warnings and errors only."),
        )
    ):
        command = option(command)
    return command


def run_options(command: CommandT) -> CommandT:
    """Options of commands that measure."""
    for option in reversed(
        (
            click.option("--dry-run", is_flag=True, help="Show what is stale, with bytes and time; do nothing."),
            click.option("--force", is_flag=True, help="Do it again even if nothing changed."),
            click.option("--wait", is_flag=True, help="Queue behind another labctl at work on this model."),
        )
    ):
        command = option(command)
    return command


@click.group(cls=NearestGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="labctl")
def cli() -> None:
    """Decide by measurement which quantization of a language model to run on a CPU.

    Example: labctl run
    """


def _open(settings: dict[str, Any], display: Display, *, notices: bool = True) -> Lab:
    from labctl.config import load_config
    from labctl.pipeline import open_lab

    return open_lab(load_config(settings), display, notices=notices)


def _display(quiet: bool, as_json: bool) -> Display:
    from labctl.console import Display

    return Display(quiet=quiet or as_json)


def _measure(
    names: Sequence[str], settings: dict[str, Any], *, as_json: bool, quiet: bool, dry_run: bool, force: bool,
    wait: bool, report: bool = False, forced: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Open the lab and make the named steps, or say what would be made."""
    from labctl import pipeline

    display = _display(quiet, as_json)
    lab = _open(settings, display)
    force_names = (names if forced is None else forced) if force else ()
    if dry_run:
        _show_plan(pipeline.plan(lab, names, force=force_names), as_json)
        return
    outcome = pipeline.run(lab, display, names=names, force=force_names, wait=wait, report=report)
    _show_outcome(lab, outcome, display, as_json)
    if outcome.failures:
        raise click.exceptions.Exit(1)


def _show_plan(planned: Sequence[Any], as_json: bool) -> None:
    import msgspec

    from labctl.console import print_json, print_line, print_table, size_text, time_text

    if as_json:
        print_json(msgspec.to_builtins(planned))
        return
    if not planned:
        print_line("Nothing to do: everything is up to date.")
        return
    total_bytes = sum(one.write_bytes for one in planned)
    total_s = sum(one.estimate_s for one in planned)
    print_table(
        "What a run would do",
        ("step", "format", "writes", "about"),
        [
            (one.step, one.label, size_text(one.write_bytes) if one.write_bytes else "", time_text(one.estimate_s))
            for one in planned
        ],
        caption=f"In all: {size_text(total_bytes)} and about {time_text(total_s)}, give or take a factor of 3.",
    )


def _show_outcome(lab: Lab, outcome: Outcome, display: Display, as_json: bool) -> None:
    import msgspec

    if as_json:
        from labctl.console import print_json

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
        _print_results(lab, outcome)
    elif not outcome.failures:
        display.note("Nothing to do: everything is up to date.")
    worksheets = [path for path in outcome.reports if path.name == "worksheet.md"]
    for path in worksheets:
        display.note(f"Worksheet: {path}")
    if outcome.failures:
        display.error(
            f"{len(outcome.failures)} step{'s' if len(outcome.failures) > 1 else ''} failed: "
            + ", ".join(f"{one.step} {one.format}" for one in outcome.failures)
            + ". All else is done and kept.",
            "Correct the cause and run the same command again: only what failed is redone.",
        )


def _print_results(lab: Lab, outcome: Outcome) -> None:
    """The lab's main figures as a table on stdout."""
    from labctl.console import print_table, size_text
    from labctl.report.analysis import frame, rows_of

    rows = rows_of(frame(outcome.records, limit=lab.config.limit))

    def cell(row: Any, name: str, pattern: str) -> str:
        value = row.get(name)
        return "-" if value is None or value != value else pattern.format(value)

    print_table(
        f"{lab.model.name} on {lab.text.name}",
        ("format", "size", "bits/weight", "perplexity", "± SE", "increase %", "pp t/s", "tg t/s", "peak RAM"),
        [
            (
                label,
                "-" if row.get("size_bytes") is None else size_text(row["size_bytes"]),
                cell(row, "bpw", "{:.2f}"),
                cell(row, "ppl", "{:.4f}"),
                cell(row, "ppl_se", "{:.4f}"),
                cell(row, "ppl_increase_pct", "{:+.2f}"),
                cell(row, "pp_tps", "{:,.0f}"),
                cell(row, "tg_tps", "{:,.1f}"),
                "-" if cell(row, "peak_rss_bytes", "{}") == "-" else size_text(row["peak_rss_bytes"]),
            )
            for label, row in rows.items()
        ],
        caption=lab.text.notice,
    )


@cli.command()
@lab_options
@run_options
def run(as_json: bool, quiet: bool, dry_run: bool, force: bool, wait: bool, **settings: Any) -> None:
    """The whole lab: quantize, measure, generate, write the worksheet.

    What is already measured is kept; interrupt it at any time and run it again to go on.

    Example: labctl run --model ./my-model-f16.gguf --chunks 64
    """
    from labctl.pipeline import STEPS

    _measure(STEPS, settings, as_json=as_json, quiet=quiet, dry_run=dry_run, force=force, wait=wait, report=True)


@cli.command()
@lab_options
def prepare(as_json: bool, quiet: bool, **settings: Any) -> None:
    """Find or fetch the model and the text, and check them.

    Example: labctl prepare --model hf:owner/repo:model-f16.gguf
    """
    import msgspec

    from labctl.console import print_json, print_table, size_text

    lab = _open(settings, _display(quiet, as_json))
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
    "Measure perplexity by llama-perplexity's protocol, keeping every token's value.\n\n"
    "Example: labctl perplexity --chunks 64",
)
_step_command(
    "generate",
    "Write the sample outputs and answer the probes.\n\nExample: labctl generate --formats Q4_K_M",
)
_step_command(
    "bench",
    "Time prompt processing and text generation as llama-bench does, in rounds over all formats.\n\n"
    "Example: labctl bench --threads 4",
)
_step_command(
    "memory",
    "Measure peak memory, each format in a fresh process.\n\nExample: labctl memory --ctx 2048",
)


@cli.command()
@lab_options
def report(as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write worksheet, charts and course files from what is measured; measures nothing.

    Example: labctl report
    """
    from labctl.console import print_json, print_line
    from labctl.pipeline import build_report, load_records
    from labctl.store import lock

    lab = _open(settings, _display(quiet, as_json))
    with lock(lab.folder.root):
        records = load_records(lab)
        if not records.files:
            raise LabError(f"Nothing is measured for {lab.model.name} yet.", "Measure first: labctl run")
        paths = build_report(lab, records, force=True)
    if as_json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            print_line(str(path))


@cli.command()
@click.option("--weights", help="For example size=.3,quality=.4,speed=.3. Default: those, or lab.toml's.")
@lab_options
def score(weights: str | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Rank the formats by a weighted score of size, quality and speed.

    Example: labctl score --weights size=.2,quality=.3,speed=.5
    """
    from labctl.config import parse_weights
    from labctl.console import print_json, print_table
    from labctl.pipeline import load_records
    from labctl.report.analysis import frame, rows_of
    from labctl.report.rules import candidates
    from labctl.report.scoring import literal_scores, normalised_scores

    lab = _open({**settings, "weights": parse_weights(weights) if weights else None}, _display(quiet, as_json))
    shares = lab.config.weights
    chosen = (shares.get("size", 0.0), shares.get("quality", 0.0), shares.get("speed", 0.0))
    found = candidates(rows_of(frame(load_records(lab))))
    if not found:
        raise LabError("Size, perplexity and speed are not measured for any format yet.", "Measure first: labctl run")
    literal, normalised = literal_scores(found, chosen), normalised_scores(found, chosen)
    scaled = {one.format: one.total for one in normalised}
    table = sorted(
        ((one.format, one.total, scaled[one.format]) for one in literal), key=lambda row: row[1], reverse=True
    )  # fmt: skip
    if as_json:
        print_json([{"format": name, "score": total, "normalised_score": other} for name, total, other in table])
        return
    print_table(
        f"{lab.model.name}: score for size {chosen[0]:g}, quality {chosen[1]:g}, speed {chosen[2]:g}",
        ("format", "score", "normalised 0..1"),
        [(name, f"{total:.3f}", f"{other:.3f}") for name, total, other in table],
        caption="score: the course's formula; normalised: each term scaled to 0..1 over these formats.",
    )


@cli.command()
@click.option("--ram", type=click.FloatRange(min=0.1), required=True, help="Memory of the machine, in GB.")
@lab_options
def fit(ram: float, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Say which formats fit into a machine's memory, with the arithmetic.

    Example: labctl fit --ram 8 --ctx 4096
    """
    import msgspec

    from labctl.console import print_json, print_table
    from labctl.pipeline import load_records
    from labctl.report.fit import fit_table

    n_ctx = settings.pop("ctx")
    lab = _open(settings, _display(quiet, as_json), notices=False)
    records = load_records(lab)
    if not records.memory:
        raise LabError("Memory is not measured for any format yet.", "Measure first: labctl memory")
    rows = fit_table(records, ram, n_ctx)
    if as_json:
        print_json(msgspec.to_builtins(rows))
        return
    print_table(
        f"{lab.model.name} in {ram:g} GB of memory at {n_ctx or lab.config.ctx} tokens of context",
        ("format", "verdict", "arithmetic"),
        [(row.format, row.verdict, row.arithmetic) for row in rows],
    )


@cli.command()
@click.option("--no-hub", is_flag=True, help="Do not ask whether the Hub can be reached.")
@lab_options
def doctor(no_hub: bool, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Check whether this machine is ready for the lab, and say what to do where it is not.

    Example: labctl doctor
    """
    import msgspec

    from labctl.console import print_json, print_table
    from labctl.doctor import examine

    checks = examine(settings, _display(True, as_json), check_hub=not no_hub)
    if as_json:
        print_json(msgspec.to_builtins(checks))
    else:
        print_table(
            "labctl doctor",
            ("check", "status", "found", "what to do"),
            [(one.name, one.status, one.detail, one.hint) for one in checks],
        )
    if any(one.status == "problem" for one in checks):
        raise click.exceptions.Exit(1)


def main() -> None:
    """Run the command line; every expected failure becomes one line and a hint."""
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.exceptions.Abort:
        _say("Stopped.", "Everything measured so far is kept. Run the same command again to go on from there.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LabError as error:
        if os.environ.get("LABCTL_DEBUG"):
            raise
        _say(error.message, error.hint)
        sys.exit(1)
    except BrokenPipeError:
        from labctl.console import leave_pipe_quietly

        leave_pipe_quietly()
        sys.exit(1)


def _say(message: str, hint: str) -> None:
    from labctl.console import Display

    Display().error(message, hint)


if __name__ == "__main__":
    main()
