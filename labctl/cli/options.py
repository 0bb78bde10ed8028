"""What the commands share: the group, the settings that every command takes, opening the lab."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from labctl.cli.output import Display
    from labctl.lab.lab import Lab

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


SECTIONS = {
    "Measure": ("run", "prepare", "quantize", "perplexity", "divergence", "generate", "bench", "memory"),
    "Read the results": ("report", "score", "fit", "compare"),
    "Hand in": ("submit", "verify"),
    "Other": ("models", "convert", "doctor"),
}
"""The commands as `labctl --help` groups them."""


class NearestGroup(click.Group):
    """A group that answers a mistyped command with the nearest one, and lists commands in the order of the work."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(1000)) for name in names])

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
    if value is None or value in ("auto", "all"):
        return value
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number, nor 'auto' or 'all'.") from None


def _duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """90, 90s, 20m or 1.5h as seconds."""
    if value is None:
        return None
    number, factor = value, 1.0
    if value[-1:] in ("s", "m", "h"):
        number, factor = value[:-1], {"s": 1.0, "m": 60.0, "h": 3600.0}[value[-1]]
    try:
        return float(number) * factor
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time; write 90s, 20m or 1.5h.") from None


def _formats(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value is not None else None


def lab_options(command: CommandT) -> CommandT:
    """The settings that every command of a lab takes; each beats its LABCTL_* variable and lab.toml."""
    for option in reversed(
        (
            click.option(
                "--model",
                help="demo, a name from `labctl models`, a GGUF file, a checkpoint folder, hf:owner/repo, a Hub page's"
                " address, or a lab in outputs. Default: demo; for single steps and what only reads, the lab measured"
                " last.",
            ),
            click.option("--text", help="wikitext-2, demo, or a text file. Default: WikiText-2."),
            click.option("--formats", callback=_formats, help="Comma-separated, e.g. Q8_0,Q4_K_M,Q2_K."),
            click.option(
                "--chunks",
                metavar="auto|N|all",
                callback=_chunks,
                help="Chunks of text: as the verdicts need, the first N, or all. Default: auto.",
            ),
            click.option(
                "--budget",
                "budget_s",
                metavar="TIME",
                callback=_duration,
                help="With --chunks auto: most time for the perplexity step, e.g. 20m.",
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
            click.option(
                "--allow-missing-pre-tokenizer",
                is_flag=True,
                default=None,
                help="Accept a model that does not say how text is split; every table then says so.",
            ),
            click.option(
                "--imatrix",
                metavar="FILE|auto[:TEXT]",
                help="Quantize with this GGUF importance matrix, or compute one with llama-imatrix.",
            ),
            click.option("--yes", is_flag=True, default=None, help="Agree to large downloads without being asked."),
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
            click.option("--dry-run", is_flag=True, help="Show what is due, with bytes and time; write nothing."),
            click.option("--force", is_flag=True, help="Do it again even if nothing changed."),
        )
    ):
        command = option(command)
    return wait_option(command)


def bench_time_option(command: CommandT) -> CommandT:
    """For every command that times speed."""
    return click.option(
        "--bench-time",
        "bench_budget_s",
        metavar="TIME",
        callback=_duration,
        help="Most time for the speed measurement, e.g. 2m; a visit that passes it is cut off.",
    )(command)


def wait_option(command: CommandT) -> CommandT:
    """For every command that takes the model's lock."""
    return click.option("--wait", is_flag=True, help="Queue behind another labctl at work on this model.")(command)


def report_options(command: CommandT) -> CommandT:
    """Options of commands that write the worksheet."""
    return click.option(
        "--blank/--drafts", default=None, help="Leave a line for the student where a draft would stand."
    )(command)


def open_to_measure(settings: dict[str, Any], display: Display, names: Sequence[str], *, keep: bool = True) -> Lab:
    """The lab that these settings, and those it was asked with before, describe."""
    from labctl.pipeline import reopening

    return reopening.to_measure(settings, display, names, keep=keep)


def open_to_read(settings: dict[str, Any], display: Display, *, notices: bool = True) -> Lab:
    """The lab that these settings name, as it was measured."""
    from labctl.pipeline import reopening

    return reopening.to_read(settings, display, notices=notices)


def display_for(quiet: bool, as_json: bool) -> Display:
    """Where progress and notes go; nothing but warnings beside JSON."""
    from labctl.cli.output import Display

    return Display(quiet=quiet or as_json)
