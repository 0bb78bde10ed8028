"""Values of settings: lab.toml, LABCTL_* variables and flags, read, checked and put together."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, get_origin

import msgspec

from labctl import engines
from labctl.errors import LabError
from labctl.lab.config import FIELDS, SETTINGS, TYPES, LabConfig, candidate_fault, flag, labelled
from labctl.lab.toml_words import read_toml

CONFIG_NAME = "lab.toml"
_MAX_CONFIG_BYTES = 1 << 20
OTHER_VARIABLES = (
    *("DEBUG", "WIKITEXT", "LLAMA_IMATRIX", "CONVERT_PYTHON", "CONVERT_TORCH"),
    *("LLAMA_PERPLEXITY", "CHROMIUM"),  # of tests and benchmarks
)
"""LABCTL_ variables that are no settings."""
_YES_OR_NO = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Source(NamedTuple):
    """Settings that come from one place.

    Attributes:
        before: what stands before a setting's value in a message, by the setting's name.
    """

    values: Mapping[str, object]
    before: Callable[[str], str]


# -- put together -----------------------------------------------------------------------------------------------------


def load_config(
    flags: Mapping[str, object], folder: Path = Path(), environ: Mapping[str, str] | None = None
) -> LabConfig:
    """Put settings together: a flag beats LABCTL_<NAME>, which beats lab.toml, which beats the default.

    Args:
        flags: settings from the command line; None means not given.
        folder: where lab.toml is looked for.
    Raises:
        LabError: an unknown key, a wrong type or an impossible value, with its place.
    """
    return merged({}, *sources(flags, folder, environ))


def sources(
    flags: Mapping[str, object], folder: Path = Path(), environ: Mapping[str, str] | None = None
) -> tuple[Source, Source, Source]:
    """What lab.toml, variables and flags say, each value checked.

    Raises:
        LabError: as load_config.
    """
    toml = read_toml(folder / CONFIG_NAME, what="a settings file", max_bytes=_MAX_CONFIG_BYTES)
    for name in toml:
        if name not in FIELDS:
            raise _unknown(f"{CONFIG_NAME}: there is no setting {name!r}.", name, FIELDS)
    given = {name: value for name, value in flags.items() if value is not None}
    return (
        _checked(toml, lambda name: f"{CONFIG_NAME}: {name} "),
        _checked(_variables(os.environ if environ is None else environ), lambda name: f"LABCTL_{name.upper()}="),
        _checked(given, lambda name: f"{flag(name)} "),
    )


def merged(remembered: Mapping[str, object], *found: Source) -> LabConfig:
    """Later sources beat earlier ones.

    Raises:
        LabError: settings that do not go together: what --chunks auto may spend beside a fixed number of chunks, or a
            format that wants an importance matrix without one.
    """
    values = dict(remembered)
    for source in found:
        values.update(source.values)
    config = msgspec.convert(values, LabConfig)
    for name, why in (
        ("budget_s", "a fixed number of chunks takes the time it takes"),
        ("settle", "a fixed number of chunks is what is read"),
    ):
        if getattr(config, name) and not config.is_auto:
            raise LabError(
                f"{flag(name)} goes with --chunks auto, not with {config.chunks}: {why}.", "Leave one of the two out."
            )
    config = dataclasses.replace(config, candidates=labelled(config.candidates, config.formats))
    twice = [label for label in config.candidate_files if label in config.formats]
    if twice:
        raise LabError(
            f"{twice[0]} is the label of a ready-made file, and of a format to be made here.",
            f"Give the file another label, e.g. {flag('candidates')} {twice[0]}-ready=FILE, or leave the format out of"
            f" {flag('formats')}.",
        )
    needing = [name for name in config.formats if engines.formats()[name].needs_imatrix]
    if needing and config.imatrix is None:
        raise LabError(
            f"{', '.join(needing)} cannot be made without an importance matrix, which says which weights matter most.",
            "Add --imatrix FILE (GGUF) or --imatrix auto, or take Q2_K or IQ3_S, which need none.",
        )
    return config


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The texts of LABCTL_* variables by setting; an empty variable is none."""
    found = {}
    for variable, text in environ.items():
        name = variable.removeprefix("LABCTL_").lower()
        if not variable.startswith("LABCTL_") or not text:
            continue
        if name in FIELDS:
            found[name] = text
        elif name == "debug":
            is_yes(variable, text)
        elif name.upper() not in OTHER_VARIABLES and not name.startswith("test_"):
            known = [f"LABCTL_{other.upper()}" for other in (*FIELDS, *OTHER_VARIABLES)]
            raise _unknown(f"{variable}: there is no such variable.", variable, known)
    return found


def _unknown(message: str, name: str, known: Iterable[str]) -> LabError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return LabError(message, f"Did you mean {nearest[0]!r}?" if nearest else f"There are: {', '.join(known)}.")


# -- one value --------------------------------------------------------------------------------------------------------


def _checked(values: Mapping[str, object], before: Callable[[str], str]) -> Source:
    return Source({name: checked_value(name, value, before(name)) for name, value in values.items()}, before)


def checked_value(name: str, value: object, before: str) -> object:
    """A setting's value as its type has it, if it can be; formats by their names, largest first.

    Args:
        value: of that type, or a text that stands for it.
        before: what stands before the value in a message: "--chunks ", "LABCTL_CHUNKS=", "lab.toml: chunks ".
    Raises:
        LabError: it cannot be; the message names the setting, its value and where it comes from.
    """
    try:
        given = from_text(name, value) if isinstance(value, str) else value
        typed: object = getattr(msgspec.convert({name: given}, LabConfig, strict=False), name)
        if name == "weights" and isinstance(typed, dict) and not sum(typed.values()):
            raise ValueError("all weights are zero")
        if name == "candidates" and isinstance(typed, tuple) and (fault := candidate_fault(typed)):
            raise ValueError(fault)
    except ValueError as error:  # msgspec's, too: Expected `int | null`, got `str` - at `$.threads`
        said = re.sub(r" \| null| - at .*|`", "", str(error))
        setting, usual = SETTINGS[name], FIELDS[name].default
        used = f" The lab uses {usual}." if isinstance(usual, (int, float, str)) else ""
        raise LabError(
            f"{before}{_shown(value)} cannot be used: {said[:1].lower()}{said[1:]}.",
            (setting.hint or setting.help) + used,
        ) from error
    if name != "formats" or not isinstance(typed, tuple):
        return typed
    try:
        formats = engines.parse_formats(typed)
    except LabError as error:
        raise LabError(f"{before.rstrip(' =')}: {error.message}", error.hint) from error
    if not formats:
        usual = f"For example: --formats {','.join(engines.usual_formats())}"
        raise LabError(f"{before.rstrip(' =')}: No format is named.", usual)
    return tuple(format_.name for format_ in formats)


def from_text(name: str, text: str) -> object:
    """What a setting's text stands for: a number, parts of a list, a table, seconds of 20m, yes or no, or itself.

    Raises:
        ValueError: what should be a number is none.
    """
    kind, word = TYPES[name], text.strip().lower()
    if kind is bool:
        return _YES_OR_NO.get(word, text)
    if get_origin(kind) is tuple:
        return text.split(",")
    if get_origin(kind) is dict:
        pairs = (part.partition("=") for part in text.split(","))
        return {key.strip(): float(value) for key, _, value in pairs}
    if SETTINGS[name].metavar == "TIME" and word[-1:] in _SECONDS:
        return float(word[:-1]) * _SECONDS[word[-1]]
    if kind in (float, float | None):
        return float(word)
    return text if kind in (str, str | None) else word


def is_yes(variable: str, text: str) -> bool:
    """Whether a variable says yes.

    Raises:
        LabError: it says neither yes nor no.
    """
    answer = _YES_OR_NO.get(text.strip().lower())
    if answer is None:
        raise LabError(f"{variable}={_shown(text)} cannot be used.", "Give yes or no.")
    return answer


def _shown(value: object) -> str:
    """A value on one line of a message."""
    if isinstance(value, dict):
        value = ", ".join(f"{name} = {part}" for name, part in value.items())
    return " ".join(str(value).split())[:80]
