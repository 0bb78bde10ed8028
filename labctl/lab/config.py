"""Settings of a lab: lab.toml, LABCTL_* variables and flags become one LabConfig."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from labctl.engines.llama_cpp.formats import LAB_FORMATS
from labctl.errors import LabError
from labctl.lab.toml_words import read_toml
from labctl.lab.values import check_together, checked_value, values_of

CONFIG_NAME = "lab.toml"
_MAX_CONFIG_BYTES = 1 << 20

Q13_LIMITS = {
    "chatbot_ppl_increase_pct": 5.0,
    "chatbot_same_top_pct": 85.0,
    "code_ppl_increase_pct": 2.0,
    "code_kld_mean": 0.05,
    "code_same_top_pct": 90.0,
    "creative_ppl_increase_pct": 10.0,
    "math_sums_lost_pct": 5.0,
}
"""What Q13 allows each use, to be changed in lab.toml under [q13_limits]; the figures are a convention, not a finding.

A chatbot's reader forgives another word: 5 % of perplexity, and the original's choice at 85 of 100 places. One wrong
token breaks a program: code gets the lab's limit of 2 %, little divergence and 90 of 100 places. A story has no one
right continuation: 10 %. Sums have one: at most 5 percentage points fewer right than the original; Q7 has the same
rule. Each of chatbot, code, creative and math takes <use>_ppl_increase_pct, <use>_kld_mean (nats a token),
<use>_same_top_pct and <use>_sums_lost_pct.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabConfig:
    """What a lab is asked to do.

    Attributes:
        model: demo, a preset, a GGUF file, a checkpoint folder, hf:owner/repo[@revision][:file], or a page of the Hub.
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
        bench_budget_s: seconds for the speed measurement: no further round begins that would pass them, and a visit
            that does is cut off; None for 40 with the demo model and 180 with others, a visit of which may take 60.
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
    allow_missing_pre_tokenizer: bool = False
    imatrix: str | None = None
    llama_cpp: str | None = None
    yes: bool = False

    def lab_data_folder(self) -> Path:
        """Where texts and models lie: as set, else ./lab_data, else the one beside the installed package."""
        if self.lab_data is not None:
            return Path(self.lab_data)
        beside = Path(__file__).resolve().parents[2] / "lab_data"
        return beside if not Path("lab_data").is_dir() and beside.is_dir() else Path("lab_data")

    def having(self, settings: Mapping[str, Any]) -> LabConfig:
        """The same settings with other values for some."""
        now = {name: getattr(self, name) for name in FIELDS}
        return msgspec.convert({**now, **settings}, LabConfig)

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


FIELDS = {one.name: one for one in dataclasses.fields(LabConfig)}


class Source(NamedTuple):
    """Settings that come from one place.

    Attributes:
        before: what stands before a setting's value in a message, by the setting's name.
    """

    values: dict[str, Any]
    before: Callable[[str], str]


def load_config(
    flags: Mapping[str, Any],
    folder: Path = Path(),
    environ: Mapping[str, str] | None = None,
    *,
    remembered: Mapping[str, Any] | None = None,
) -> LabConfig:
    """Put settings together: a flag beats LABCTL_<NAME>, which beats lab.toml, which beats the default.

    Args:
        flags: settings from the command line; None means not given.
        folder: where lab.toml is looked for.
        remembered: what the lab was asked before, in place of the defaults.
    Raises:
        LabError: an unknown key, a wrong type or an impossible value, with its place.
    """
    return merged(dict(remembered or {}), *sources(flags, folder, environ))


def sources(
    flags: Mapping[str, Any], folder: Path = Path(), environ: Mapping[str, str] | None = None
) -> tuple[Source, Source, Source]:
    """What lab.toml, variables and flags say, each value checked.

    Raises:
        LabError: as load_config.
    """
    toml = read_toml(folder / CONFIG_NAME, what="a settings file", max_bytes=_MAX_CONFIG_BYTES)
    _check_names(toml, CONFIG_NAME)
    said = Source(values_of(os.environ if environ is None else environ, FIELDS), lambda name: f"LABCTL_{name.upper()}=")
    given = Source({name: value for name, value in flags.items() if value is not None}, flag)
    _check_names(given.values, "the command line")
    found = (Source(toml, lambda name: f"{CONFIG_NAME}: {name} "), said, given)
    for source in found:
        for name, value in source.values.items():
            source.values[name] = _checked(source, name, value)
    return found


def flag(name: str) -> str:
    """A setting as the command line has it: --chunks."""
    return f"--{_FLAGS.get(name, name.replace('_', '-'))} "


_FLAGS = {"budget_s": "budget", "cooldown_s": "cooldown", "bench_budget_s": "bench-time"}


def merged(remembered: dict[str, Any], *found: Source) -> LabConfig:
    """Later sources beat earlier ones.

    Raises:
        LabError: settings that do not go together.
    """
    values = dict(remembered)
    for source in found:
        values.update(source.values)
    config = msgspec.convert(values, LabConfig)
    check_together(config.formats, config.imatrix, config.chunks, config.budget_s)
    return config


def _check_names(new: Mapping[str, Any], where: str) -> None:
    for name in new:
        if name not in FIELDS:
            nearest = difflib.get_close_matches(name, FIELDS, n=1)
            raise LabError(
                f"{where}: there is no setting {name!r}.",
                f"Did you mean {nearest[0]!r}?" if nearest else f"Settings: {', '.join(FIELDS)}.",
            )


def _checked(source: Source, name: str, value: Any) -> Any:
    """A setting of the right type that can be.

    Raises:
        LabError: it names the setting, its value and where it comes from.
    """
    before = source.before(name)
    try:
        typed = getattr(msgspec.convert({name: value}, LabConfig), name)
    except msgspec.ValidationError as error:
        said = str(error).replace(f" - at `$.{name}`", "")
        raise LabError(f"{before.rstrip(' =')}: {said}.", "Correct that value; see `labctl run --help`.") from error
    return checked_value(name, typed, before)
