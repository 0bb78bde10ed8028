"""What to type for a lab."""

from __future__ import annotations

import shlex
from pathlib import Path

from labctl.lab.config import LabConfig, flag


def command(verb: str, name: str, config: LabConfig, formats: tuple[str, ...], *, exact: bool) -> str:
    """What to type for a lab, from the folder it was measured in; of a run, with what it was asked.

    Args:
        name: of the lab, or demo.
        exact: as in steps.Lab.command.
    """
    usual, words = LabConfig(), ["labctl", verb, "--model", name]
    asks = ("formats", "chunks", "text", "ctx", "budget_s", "settle") if verb == "run" else ()
    for setting in ("outputs", "reports", *asks):
        value = getattr(config, setting)
        if value != getattr(usual, setting):
            shown = ",".join(formats) if setting == "formats" else str(value)
            shown = shown if exact or not Path(shown).is_absolute() else setting.upper()
            words += [flag(setting)] if value is True else [flag(setting), shown]
    for label, path in config.candidate_files.items() if verb == "run" else ():
        words += [flag("candidates"), f"{label}={path if exact or not path.is_absolute() else path.name}"]
    return shlex.join(words)
