"""Settings of a lab: lab.toml, LABCTL_* variables and flags become one LabConfig."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from labctl.errors import LabError
from labctl.formats import LAB_FORMATS, parse_formats
from labctl.toml_words import read_toml

CONFIG_NAME = "lab.toml"
_MAX_CONFIG_BYTES = 1 << 20

Q13_LIMITS = {
    "chatbot_ppl_increase_pct": 5.0,
    "chatbot_same_top_pct": 85.0,
    "code_ppl_increase_pct": 2.0,
    "code_kld_mean": 0.05,
    "code_same_top_pct": 90.0,
    "creative_ppl_increase_pct": 10.0,
    "math_ppl_increase_pct": 2.0,
    "math_sums_lost_pct": 5.0,
}
"""What Q13 allows each use, to be changed in lab.toml under [q13_limits]; the figures are a convention, not a finding.

A chatbot's reader forgives another word: 5 % of perplexity, and the original's choice at 85 of 100 places. One wrong
token breaks a program: code gets the lab's limit of 2 %, little divergence and 90 of 100 places. A story has no one
right continuation: 10 %. Sums have one: 2 %, and at most 5 percentage points fewer right than the original. Each of
chatbot, code, creative and math takes <use>_ppl_increase_pct, <use>_kld_mean (nats a token), <use>_same_top_pct and
<use>_sums_lost_pct.
"""
_Q13_NAMES = {
    f"{use}_{name}"
    for use in ("chatbot", "code", "creative", "math")
    for name in ("ppl_increase_pct", "kld_mean", "same_top_pct", "sums_lost_pct")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabConfig:
    """What a lab is asked to do.

    Attributes:
        model: demo, a preset, a GGUF file, a checkpoint folder, or hf:owner/repo[@revision][:file].
        text: wikitext-2, demo, or a path; None for WikiText-2 with the demo text in reserve.
        chunks: "auto" (as many as the verdicts need), "all", or a number of chunks from the start of the text.
        budget_s: seconds for the whole perplexity step with auto; None for no limit.
        kl_chunks, kl_spool_bytes: chunks that divergence is measured on, and size of the temporary file with the
            baseline's probabilities; None for as many chunks as fit.
        threads: None for this machine's physical (performance) cores.
        ctx: tokens of a perplexity chunk, and of the context that memory is measured at.
        limit: increase of perplexity that a format must stay under, as a fraction.
        weights: size, quality and speed in the combined score.
        q13_limits: what Q13 allows each use, where it shall differ from Q13_LIMITS.
        blank: leave a line for the student where a draft would stand.
        bench_rounds, bench_max_rounds: least and most rounds of the speed measurement over all formats; between them it
            ends once every ratio to the baseline is known to ± 2 %.
        bench_budget_s: seconds that no further round may pass; None for 40 with the demo model and 180 with others.
        cooldown_s: seconds of rest between visits of the speed measurement.
        probe_items: questions of each probe; None for all of them with the demo model and 50 with others.
        hang_s: seconds without a sign of life after which a child process is given up.
        memory_limit_bytes: most address space of a child process; None for one by the model's size, 0 for none.
        imatrix: a GGUF importance matrix to quantize with; "auto" or "auto:TEXT" to compute one.
        llama_cpp: a checkout of llama.cpp whose converter to use for checkpoints.
        yes: agree to large downloads and writes, and to setting up the converter, without being asked.
    """

    model: str = "demo"
    text: str | None = None
    formats: tuple[str, ...] = LAB_FORMATS
    chunks: str | int = "auto"
    budget_s: float | None = None
    kl_chunks: int | None = None
    kl_spool_bytes: int = 1 << 30
    threads: int | None = None
    ctx: int = 512
    outputs: str = "outputs"
    reports: str = "reports"
    lab_data: str | None = None
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 42
    new_tokens: int = 100
    limit: float = 0.02
    weights: dict[str, float] = field(default_factory=lambda: {"size": 0.3, "quality": 0.4, "speed": 0.3})
    q13_limits: dict[str, float] = field(default_factory=dict)
    blank: bool = False
    bench_rounds: int = 4
    bench_max_rounds: int = 12
    bench_budget_s: float | None = None
    cooldown_s: float = 0.0
    probe_items: int | None = None
    hang_s: float = 3600.0
    memory_limit_bytes: int | None = None
    allow_quantized_source: bool = False
    imatrix: str | None = None
    llama_cpp: str | None = None
    yes: bool = False

    def lab_data_folder(self) -> Path:
        """Where texts and models lie: as set, else ./lab_data, else the one beside the installed package."""
        if self.lab_data is not None:
            return Path(self.lab_data)
        beside = Path(__file__).resolve().parent.parent / "lab_data"
        return beside if not Path("lab_data").is_dir() and beside.is_dir() else Path("lab_data")

    @property
    def is_auto(self) -> bool:
        """Chunks as the verdicts need them."""
        return self.chunks == "auto"

    @property
    def n_chunks(self) -> int | None:
        """How many chunks from the start of the text to measure; None for all of them, and for auto."""
        return self.chunks if isinstance(self.chunks, int) else None

    def bench_seconds(self, is_demo: bool) -> float:
        """Seconds that the rounds of the speed measurement may take."""
        return self.bench_budget_s if self.bench_budget_s is not None else (40.0 if is_demo else 180.0)

    def n_probe_items(self, is_demo: bool) -> int | None:
        """How many questions of each probe to ask; None for all."""
        return self.probe_items if self.probe_items is not None else (None if is_demo else 50)


_FIELDS = {one.name: one for one in dataclasses.fields(LabConfig)}


def load_config(flags: Mapping[str, Any], folder: Path = Path(), environ: Mapping[str, str] | None = None) -> LabConfig:
    """Put settings together: a flag beats LABCTL_<NAME>, which beats lab.toml, which beats the default.

    Args:
        flags: settings from the command line; None means not given.
        folder: where lab.toml is looked for.
    Raises:
        LabError: an unknown key, a wrong type or an impossible value, with its place.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    found = read_toml(folder / CONFIG_NAME, what="a settings file", max_bytes=_MAX_CONFIG_BYTES)
    _merge(values, found, CONFIG_NAME)
    for name in _FIELDS:
        variable = f"LABCTL_{name.upper()}"
        if environ.get(variable):
            _merge(values, {name: _from_text(name, environ[variable])}, variable)
    _merge(values, {name: value for name, value in flags.items() if value is not None}, "the command line")
    return _checked(msgspec.convert(values, LabConfig))


def _merge(values: dict[str, Any], new: Mapping[str, Any], where: str) -> None:
    """Add settings after checking their names and types, so that an error names its place."""
    for name in new:
        if name not in _FIELDS:
            nearest = difflib.get_close_matches(name, _FIELDS, n=1)
            raise LabError(
                f"{where}: there is no setting {name!r}.",
                f"Did you mean {nearest[0]!r}?" if nearest else f"Settings: {', '.join(_FIELDS)}.",
            )
    try:
        msgspec.convert(dict(new), LabConfig)
    except msgspec.ValidationError as error:
        raise LabError(f"{where}: {error}.", "Correct that value; see `labctl run --help`.") from error
    values.update(new)


def _from_text(name: str, text: str) -> Any:
    """A LABCTL_* variable's text as the type its setting has."""
    kind = str(_FIELDS[name].type)
    try:
        if name == "formats":
            return [part.strip() for part in text.split(",")]
        if name == "weights":
            return parse_weights(text)
        if kind.startswith("bool"):
            return text.strip().lower() in ("1", "true", "yes", "on")
        if name == "chunks":
            return int(text) if text.strip().isdigit() else text
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError as error:
        raise LabError(f"LABCTL_{name.upper()}: {text!r} is not a number.", "Give a number.") from error
    return text


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
            raise LabError(f"{part.strip()!r} is not a weight.", "Write, for example: size=.3,quality=.4,speed=.3")
        weights[name.strip()] = number
    if sum(weights.values()) <= 0:
        raise LabError("All weights are zero.", "Write, for example: size=.3,quality=.4,speed=.3")
    return weights


def _checked(config: LabConfig) -> LabConfig:
    """Values that have the right type and still cannot be."""

    def require(condition: bool, message: str, hint: str) -> None:
        if not condition:
            raise LabError(message, hint)

    require(
        isinstance(config.chunks, int) or config.chunks in ("auto", "all"),
        f"--chunks {config.chunks} is neither a number, nor `auto` or `all`.",
        "For example: --chunks 64",
    )
    require(
        not isinstance(config.chunks, int) or config.chunks >= 1,
        f"--chunks {config.chunks} measures nothing.",
        "Give a number from 1, `auto` or `all`.",
    )
    require(
        config.budget_s is None or (config.is_auto and config.budget_s > 0),
        "--budget goes with --chunks auto, and must be longer than nothing.",
        "For example: --budget 20m",
    )
    require(
        config.kl_spool_bytes >= 1 << 20 and (config.kl_chunks is None or config.kl_chunks >= 1),
        "kl_spool_bytes or kl_chunks is too small.",
        "The lab uses kl_spool_bytes = 1073741824.",
    )
    require(
        config.threads is None or 1 <= config.threads <= 1024,
        f"--threads {config.threads} is out of range.",
        "Give a number from 1 to 1024, or leave it out for this machine's physical cores.",
    )
    require(
        16 <= config.ctx <= 1 << 20 and config.ctx % 2 == 0,
        f"--ctx {config.ctx} cannot be used.",
        "Give an even number of tokens from 16; the lab uses 512.",
    )
    require(0 < config.limit < 10, f"limit {config.limit} is out of range.", "0.02 stands for 2 %.")
    require(
        set(config.weights) <= {"size", "quality", "speed"}
        and all(0 <= value < float("inf") for value in config.weights.values())
        and sum(config.weights.values()) > 0,
        f"weights {config.weights} are not size, quality and speed.",
        "Write, for example: weights = { size = 0.3, quality = 0.4, speed = 0.3 }",
    )
    for name, bar in config.q13_limits.items():
        require(
            name in _Q13_NAMES and 0 <= bar < float("inf"),
            f"q13_limits: {name} = {bar:g} is not an allowance.",
            f"For example: chatbot_ppl_increase_pct = 5.0. Names: {', '.join(sorted(_Q13_NAMES))}.",
        )
    require(0 < config.hang_s <= 1e7, f"hang_s {config.hang_s} is out of range.", "The lab uses 3600 seconds.")
    require(
        config.memory_limit_bytes is None or 0 <= config.memory_limit_bytes < 1 << 62,
        f"memory_limit_bytes {config.memory_limit_bytes} is out of range.",
        "Leave it out for a limit by the model's size, or set 0 for none.",
    )
    require(0 <= config.temperature <= 100, f"temperature {config.temperature} cannot be.", "The lab uses 0.7.")
    require(0 < config.top_p <= 1, f"top_p {config.top_p} cannot be.", "The lab uses 0.9; 1 leaves it out.")
    require(
        0 <= config.seed < 1 << 32, f"seed {config.seed} is out of range.", "Give a whole number from 0 to 2^32 - 1."
    )
    require(bool(config.outputs and config.reports), "outputs or reports names no folder.", "For example: outputs")
    for name, least, most, usual in (
        ("new_tokens", 1, 1 << 20, 100),
        ("bench_rounds", 1, 10_000, 4),
        ("bench_max_rounds", 1, 10_000, 12),
        ("probe_items", 0, 1 << 20, None),
        ("kl_chunks", 1, 1 << 31, None),
        ("kl_spool_bytes", 1 << 20, 1 << 50, 1 << 30),
        ("chunks", 1, 1 << 31, None),
    ):
        value = getattr(config, name)
        require(
            not isinstance(value, int) or least <= value <= most,
            f"{name} {value} is out of range.",
            f"Give {least:,} to {most:,}" + ("." if usual is None else f"; the lab uses {usual:,}."),
        )
    require(
        config.bench_budget_s is None or 0 <= config.bench_budget_s < float("inf"),
        f"bench_budget_s {config.bench_budget_s} is out of range.",
        "Give seconds, from 0.",
    )
    require(0 <= config.cooldown_s <= 3600, f"--cooldown {config.cooldown_s:g} is out of range.", "Give 0 to 3600 s.")
    formats = parse_formats(config.formats)
    needing = [format_.name for format_ in formats if format_.needs_imatrix]
    require(
        not needing or config.imatrix is not None,
        f"{', '.join(needing)} cannot be made without an importance matrix, which says which weights matter most.",
        "Add --imatrix FILE (GGUF) or --imatrix auto, or take Q2_K or IQ3_S, which need none.",
    )
    require(bool(formats), "No format to quantize to.", f"For example: --formats {','.join(LAB_FORMATS)}")
    return dataclasses.replace(config, formats=tuple(format_.name for format_ in formats))
