"""A setting as an option of the command line; it beats its LABCTL_* variable and lab.toml."""

from __future__ import annotations

import click
import msgspec

from labctl.lab.config import FIELDS, SETTINGS, TYPES, LabConfig
from labctl.lab.values import from_text


class _Text(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """A setting's text, of its type; its bounds are those of lab.toml and variables, too, and checked with them."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self.name = "integer" if TYPES[setting] in (int, int | None) else "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> object:
        try:
            return msgspec.convert(from_text(self.setting, value), TYPES[self.setting], strict=False)
        except ValueError:  # msgspec's, too
            self.fail(f"{value!r} cannot be used here: {SETTINGS[self.setting].help}", param, ctx)


def option_of(name: str) -> click.Option | None:
    """The option of a setting; None where only lab.toml and variables set it."""
    setting, usual = SETTINGS[name], FIELDS[name].default
    if not setting.flag:
        return None
    is_flag = TYPES[name] is bool
    if name == "candidates":
        return click.Option(
            [setting.flag, name],
            multiple=True,
            metavar=setting.metavar,
            help=setting.help,
            callback=lambda _context, _option, files: files or None,  # none given: not an empty list of them
        )
    says_default = "Default:" in setting.help or is_flag or not isinstance(usual, (int, float, str))
    return click.Option(
        [setting.flag, name],
        default=None,
        is_flag=is_flag,
        type=None if is_flag or isinstance(getattr(LabConfig(), name), dict) else _Text(name),
        metavar=setting.metavar,
        help=setting.help if says_default else f"{setting.help} Default: {usual}.",
    )
