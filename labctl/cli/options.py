"""What the commands share: the group, options made from the settings, opening the lab."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from labctl import steps

if TYPE_CHECKING:
    from labctl.lab.lab import Lab
    from labctl.lab.listener import Listener

CommandT = TypeVar("CommandT", bound=Callable[..., object])


SECTIONS = {
    "Measure": ("run", "prepare", *steps.COMMANDS),
    "Choose a ready-made file": ("choose",),
    "Read the results": ("report", "score", "fit", "compare"),
    "Hand in or publish": ("submit", "verify", "card"),
    "Other": ("models", "convert", "doctor"),
}
"""The commands as `labctl --help` groups them."""


# -- settings ---------------------------------------------------------------------------------------------------------

LAB = ("model", "outputs", "reports", "lab_data", "yes")
"""Settings of every command that opens a lab."""
TO_MEASURE = (
    *(*LAB, "threads", "text", "formats", "candidates", "imatrix"),
    *("allow_quantized_source", "allow_missing_pre_tokenizer"),
)
"""Those of every command that measures."""
TO_READ = (*LAB, "text", "formats", "candidates", "imatrix", "chunks", "budget_s", "settle", "threads", "ctx")
"""Those by which what was measured is found."""


def run_options(command: CommandT) -> CommandT:
    """Options of commands that measure."""
    for option in (
        wait_option,
        click.option("--force", is_flag=True, help="Do it again even if nothing changed."),
        click.option("--dry-run", is_flag=True, help="Show what is due, with bytes and time; write nothing."),
    ):
        command = option(command)
    return command


wait_option = click.option("--wait", is_flag=True, help="Queue behind another labctl at work on this model.")
"""For every command that takes the model's lock."""


# -- commands ---------------------------------------------------------------------------------------------------------


class LabCommand(click.Command):
    """A command whose settings become options when it is asked for; in place of --json and --quiet it gets an Output.

    Attributes:
        settings: names of settings that it reads.
        steps: steps that it makes; what they, and those they come after, depend on are settings of it, too.
        notes: whether it says more than its data, warnings and errors.
    """

    settings: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    notes: bool = True

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        return [*own, *self._common, help_option]

    def invoke(self, ctx: click.Context) -> object:
        from labctl.cli.output import Output

        ctx.params["output"] = Output(as_json=ctx.params.pop("as_json"), quiet=ctx.params.pop("quiet", False))
        return super().invoke(ctx)

    @functools.cached_property
    def _common(self) -> tuple[click.Parameter, ...]:
        """The options of its settings, in the order of LabConfig, and those of every command."""
        from labctl.cli.settings import option_of
        from labctl.lab.config import FIELDS
        from labctl.pipeline.asked import OF_STEP

        made = {name for step in steps.every(self.steps) for name in (step.name, *step.after)}
        names = {*self.settings, *(name for step in made for name in OF_STEP[step])}
        return (
            *(option for name in FIELDS if name in names and (option := option_of(name)) is not None),
            click.Option(["--json", "as_json"], is_flag=True, help="Print data as JSON on stdout."),
            *([click.Option(["--quiet"], is_flag=True, help="Show warnings and errors only.")] if self.notes else []),
        )


def lab_command(
    *settings: str, steps: Sequence[str] = (), name: str | None = None, help: str | None = None, notes: bool = True
) -> Callable[[Callable[..., object]], LabCommand]:
    """Make a function a command with options for these settings, and for those that its steps depend on."""

    def decorate(function: Callable[..., object]) -> LabCommand:
        command = click.command(name, cls=LabCommand, help=help)(function)
        command.settings, command.steps, command.notes = settings, tuple(steps), notes
        return command

    return decorate


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


def open_to_measure(
    settings: Mapping[str, object], display: Listener, names: Sequence[str], *, keep: bool = True
) -> Lab:
    """The lab that these settings, and those it was asked with before, describe."""
    from labctl.pipeline import reopening

    return reopening.to_measure(settings, display, names, keep=keep)


def open_to_read(settings: Mapping[str, object], display: Listener, *, notices: bool = True) -> Lab:
    """The lab that these settings name, as it was measured."""
    from labctl.pipeline import reopening

    return reopening.to_read(settings, display, notices=notices)
