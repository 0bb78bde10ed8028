"""Values of settings: read from the text of a variable, and held to what each can be."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from labctl.engines.llama_cpp.formats import FORMATS, LAB_FORMATS, parse_formats
from labctl.errors import LabError

OTHER_VARIABLES = (
    *("DEBUG", "WIKITEXT", "LLAMA_IMATRIX", "CONVERT_PYTHON", "CONVERT_TORCH"),
    *("LLAMA_PERPLEXITY", "CHROMIUM"),  # of tests and benchmarks
)
"""LABCTL_ variables that are no settings."""
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_WEIGHTS = "Write, for example: size=.3,quality=.4,speed=.3"
_Q13_NAMES = tuple(
    f"{use}_{name}"
    for use in ("chatbot", "code", "creative", "math")
    for name in ("ppl_increase_pct", "kld_mean", "same_top_pct", "sums_lost_pct")
)


# -- from text --------------------------------------------------------------------------------------------------------


def values_of(environ: Mapping[str, str], fields: Mapping[str, dataclasses.Field[Any]]) -> dict[str, Any]:
    """Settings that LABCTL_* variables give; an empty variable is none.

    Args:
        fields: the settings there are.
    Raises:
        LabError: a variable that is no setting, or whose text cannot be understood.
    """
    found = {}
    for variable, text in environ.items():
        if not variable.startswith("LABCTL_") or not text:
            continue
        name = variable.removeprefix("LABCTL_").lower()
        if name in fields and str(fields[name].type) == "bool":
            found[name] = is_yes(variable, text)
        elif name in fields:
            found[name] = _from_text(variable, name, str(fields[name].type), text)
        elif name == "debug":
            is_yes(variable, text)
        elif name.upper() not in OTHER_VARIABLES and not name.startswith("test_"):
            near = difflib.get_close_matches(name, [*fields, *(other.lower() for other in OTHER_VARIABLES)], n=1)
            raise LabError(
                f"{variable}: there is no such variable.",
                f"Did you mean LABCTL_{near[0].upper()}?" if near else "Take it out of the environment.",
            )
    return found


def _from_text(variable: str, name: str, kind: str, text: str) -> Any:
    """A variable's text as the type its setting has."""
    try:
        if name == "formats":
            return [part.strip() for part in text.split(",")]
        if name == "weights":
            return parse_weights(text)
        if name == "q13_limits":
            return _parse_allowances(text)
        if name == "chunks":
            return int(text) if text.strip().lstrip("+-").isdigit() else text.strip()
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError as error:
        raise LabError(f"{variable}: {text!r} is not a number.", f"Give a number, or unset {variable}.") from error
    except LabError as error:
        raise LabError(f"{variable}: {error.message}", error.hint) from error
    return text


def is_yes(variable: str, text: str) -> bool:
    """Whether a variable says yes.

    Raises:
        LabError: it says neither yes nor no.
    """
    word = text.strip().lower()
    if word not in (*_YES, *_NO, ""):
        raise LabError(f"{variable}: {text!r} is neither yes nor no.", f"Write {variable}=1 or {variable}=0.")
    return word in _YES


def parse_weights(text: str) -> dict[str, float]:
    """size=.3,quality=.4,speed=.3 as a mapping.

    Raises:
        LabError: an unknown name, not a number, a negative weight, or all zero.
    """
    weights = {"size": 0.0, "quality": 0.0, "speed": 0.0}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name.strip() not in weights or not 0 <= number < float("inf"):
            raise LabError(f"{part.strip()!r} is not a weight.", _WEIGHTS)
        weights[name.strip()] = number
    if sum(weights.values()) <= 0:
        raise LabError("All weights are zero.", _WEIGHTS)
    return weights


def _parse_allowances(text: str) -> dict[str, float]:
    """chatbot_ppl_increase_pct=5,code_kld_mean=.05 as a mapping; names and sizes are checked with all settings."""
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise LabError(
                f"{part.strip()!r} is not an allowance.", "Write, for example: chatbot_ppl_increase_pct=5"
            ) from error
    return found


# -- what can be ------------------------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    fits: Callable[[Any], bool]
    says: str
    hint: str


def _between(least: float, most: float, usual: str = "") -> _Rule:
    hint = f"Give {least:,} to {most:,}" + (f"; the lab uses {usual}." if usual else ".")
    return _Rule(lambda value: value is None or least <= value <= most, "is out of range", hint)


_RULES: dict[str, _Rule] = {
    "chunks": _Rule(
        lambda value: value in ("auto", "all") or (isinstance(value, int) and 1 <= value < 1 << 31),
        "is neither `auto` nor `all`, nor a number from 1",
        "For example: --chunks 64",
    ),
    "budget_s": _Rule(
        lambda value: value is None or 0 < value < float("inf"), "is no time", "For example: --budget 20m"
    ),
    "threads": _between(1, 1024, "this machine's physical cores where it is left out"),
    "ctx": _Rule(
        lambda value: 16 <= value <= 1 << 20 and value % 2 == 0,
        "cannot be used",
        "Give an even number of tokens from 16; the lab uses 512.",
    ),
    "limit": _Rule(lambda value: 0 < value < 10, "is out of range", "0.02 stands for 2 %."),
    "weights": _Rule(
        lambda value: (
            set(value) <= {"size", "quality", "speed"}
            and all(0 <= one < float("inf") for one in value.values())
            and sum(value.values()) > 0
        ),
        "are not size, quality and speed",
        "In lab.toml, for example: weights = { size = 0.3, quality = 0.4, speed = 0.3 }",
    ),
    "q13_limits": _Rule(
        lambda value: all(name in _Q13_NAMES and 0 <= bar < float("inf") for name, bar in value.items()),
        "are not allowances of Q13",
        f"For example: chatbot_ppl_increase_pct = 5.0. Names: {', '.join(_Q13_NAMES)}.",
    ),
    "hang_s": _Rule(lambda value: 0 < value <= 1e7, "is out of range", "The lab uses 3600 seconds."),
    "memory_limit_bytes": _Rule(
        lambda value: value is None or 0 <= value < 1 << 62,
        "is out of range",
        "Leave it out for a limit by the model's size, or set 0 for none.",
    ),
    "temperature": _between(0, 100, "0.7"),
    "top_p": _Rule(lambda value: 0 < value <= 1, "cannot be", "The lab uses 0.9; 1 leaves it out."),
    "seed": _Rule(lambda value: 0 <= value < 1 << 32, "is out of range", "Give a whole number from 0 to 2^32 - 1."),
    "outputs": _Rule(bool, "names no folder", "For example: outputs"),
    "reports": _Rule(bool, "names no folder", "For example: reports"),
    "new_tokens": _between(1, 1 << 20, "100"),
    "bench_rounds": _between(1, 10_000, "4"),
    "bench_max_rounds": _between(1, 10_000, "12"),
    "bench_budget_s": _Rule(
        lambda value: value is None or 0 <= value < float("inf"), "is out of range", "Give seconds, from 0."
    ),
    "cooldown_s": _between(0, 3600, "0"),
    "probe_items": _between(0, 1 << 20),
    "kl_chunks": _between(1, (1 << 31) - 1),
    "kl_spool_bytes": _between(1 << 20, 1 << 50, f"{1 << 30:,}"),
}


def checked_value(name: str, value: Any, before: str) -> Any:
    """A setting's value if it can be; formats by their names, largest first.

    Args:
        before: what stands before the value in a message: "--chunks ", "LABCTL_CHUNKS=", "lab.toml: chunks ".
    Raises:
        LabError: it cannot be.
    """
    if name == "formats":
        return _formats(value, before)
    rule = _RULES.get(name)
    if rule is not None and not rule.fits(value):
        shown = ", ".join(f"{key} = {one:g}" for key, one in value.items()) if isinstance(value, dict) else value
        raise LabError(f"{before}{shown} {rule.says}.", rule.hint)
    return value


def _formats(names: tuple[str, ...], before: str) -> tuple[str, ...]:
    try:
        found = parse_formats(names)
    except LabError as error:
        raise LabError(f"{before.rstrip(' =')}: {error.message}", error.hint) from error
    if not found:
        raise LabError(f"{before.rstrip(' =')}: No format is named.", f"For example: --formats {','.join(LAB_FORMATS)}")
    return tuple(format_.name for format_ in found)


def check_together(formats: tuple[str, ...], imatrix: str | None, chunks: str | int, budget_s: float | None) -> None:
    """Settings that each can be, but not with one another.

    Raises:
        LabError: a budget for a fixed number of chunks, or a format that wants an importance matrix without one.
    """
    if budget_s is not None and chunks != "auto":
        raise LabError(
            f"--budget goes with --chunks auto, not with {chunks}: a fixed number of chunks takes the time it takes.",
            "Leave one of the two out.",
        )
    needing = [name for name in formats if FORMATS[name].needs_imatrix]
    if needing and imatrix is None:
        raise LabError(
            f"{', '.join(needing)} cannot be made without an importance matrix, which says which weights matter most.",
            "Add --imatrix FILE (GGUF) or --imatrix auto, or take Q2_K or IQ3_S, which need none.",
        )
