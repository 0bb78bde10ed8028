"""Settings of a lab: each one's type, bounds, usual value and words, declared once."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from labctl.engines import usual_formats
from labctl.records.disk import safe_name
from labctl.records.places import typed

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
USUAL_LIMIT = 0.02
"""Increase of perplexity that a format must stay under, as a fraction."""
Weights = tuple[float, float, float]
"""What size, quality and speed count in the score, or their terms."""
USUAL_WEIGHTS: Weights = (0.3, 0.4, 0.3)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a person is told of a setting.

    Attributes:
        help: what it does.
        flag: its option; empty where only lab.toml and variables set it.
        metavar: what stands for its value in `--help`; TIME also lets it be written as 90s, 20m or 1.5h.
        hint: what to write in place of a value that is refused; empty where the help says it.
    """

    help: str
    flag: str = ""
    metavar: str | None = None
    hint: str = ""


LABEL_LENGTH = 24
"""Most characters of a ready-made file's label."""
_Count = Annotated[int, Meta(ge=1, lt=1 << 31)]
_Rounds = Annotated[int, Meta(ge=1, le=10_000)]
_Seconds = Annotated[float, Meta(ge=0, le=1e7)]
_SomeSeconds = Annotated[float, Meta(gt=0, le=1e7)]
_Share = Annotated[float, Meta(ge=0, le=1e9)]
_Folder = Annotated[str, Meta(min_length=1)]
_WEIGHTS = ("size", "quality", "speed")
_Weight = Annotated[str, Meta(pattern=f"^({'|'.join(_WEIGHTS)})$")]
_USES = "^(chatbot|code|creative|math)_(ppl_increase_pct|kld_mean|same_top_pct|sums_lost_pct)$"
_TIME = "TIME"
_OF_SAMPLES = "Of the sample outputs."


@dataclass(frozen=True, slots=True, kw_only=True)
class LabConfig:
    """What a lab is asked to do; None where it depends on the machine, the model or the disk."""

    model: Annotated[
        str,
        Setting(
            "demo, a name from `labctl models`, a GGUF file, a checkpoint folder, hf:owner/repo, a Hub page's address,"
            " or a lab in outputs. Default: demo; for single steps and what only reads, the lab measured last.",
            "--model",
        ),
    ] = "demo"
    text: Annotated[
        str | None, Setting("wikitext-2, demo, or a text file. Default: WikiText-2, else the demo text.", "--text")
    ] = None
    formats: Annotated[tuple[str, ...], Setting("Comma-separated, e.g. Q8_0,Q4_K_M,Q2_K.", "--formats")] = (
        usual_formats()
    )
    candidates: Annotated[
        tuple[str, ...],
        Setting(
            "A ready-made file of this model to measure beside the formats, or hf:owner/repo[:pattern]; may be given"
            " again. Without --model the best of them is the reference.",
            "--candidate",
            "[LABEL=]FILE",
            hint="For example: --candidate Q4_K_XL=./model-UD-Q4_K_XL.gguf; in lab.toml a list of such texts.",
        ),
    ] = ()
    chunks: Annotated[
        Literal["auto", "all"] | _Count,
        Setting(
            "Chunks of text: as the verdicts need, the first N, or all.",
            "--chunks",
            "auto|N|all",
            "Give auto, all, or a number such as 64.",
        ),
    ] = "auto"
    budget_s: Annotated[
        _SomeSeconds | None,
        Setting("With --chunks auto: most time for the perplexity step, e.g. 20m.", "--budget", _TIME),
    ] = None
    settle: Annotated[
        bool, Setting("With --chunks auto: read on until every verdict on this text stands.", "--settle")
    ] = False
    patience: Annotated[
        float,
        Meta(ge=1, le=1000),
        Setting("With --chunks auto: give a verdict up that would take so many times the chunks read so far."),
    ] = 4.0
    kl_chunks: Annotated[_Count | None, Setting("Chunks that divergence is measured on; else as many as fit.")] = None
    kl_spool_bytes: Annotated[
        int,
        Meta(ge=1 << 20, le=1 << 50),
        Setting("Most bytes of the temporary file with the baseline's probabilities."),
    ] = 1 << 30
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None, Setting("Default: this machine's physical cores.", "--threads")
    ] = None
    ctx: Annotated[
        int,
        Meta(ge=16, le=1 << 20, multiple_of=2),
        Setting(
            "Tokens of a chunk of text, and of the context that memory is measured at.",
            "--ctx",
            hint="Give an even number of tokens.",
        ),
    ] = 512
    outputs: Annotated[_Folder, Setting("Folder for models and records.", "--outputs")] = "outputs"
    reports: Annotated[_Folder, Setting("Folder for worksheets.", "--reports")] = "reports"
    lab_data: Annotated[
        str | None, Setting("Folder of the demo model, texts and downloads. Default: lab_data.", "--lab-data")
    ] = None
    temperature: Annotated[float, Meta(ge=0, le=100), Setting(_OF_SAMPLES)] = 0.7
    top_p: Annotated[float, Meta(gt=0, le=1), Setting(_OF_SAMPLES, hint="1 leaves it out.")] = 0.9
    seed: Annotated[int, Meta(ge=0, lt=1 << 32), Setting(_OF_SAMPLES)] = 42
    new_tokens: Annotated[int, Meta(ge=1, le=1 << 20), Setting("Length of a sample output.")] = 100
    prompts: Annotated[
        str | None,
        Setting(
            "Your own prompts beside the course's five: text, a paragraph each, or .jsonl with chat messages.",
            "--prompts",
            "FILE",
        ),
    ] = None
    system: Annotated[
        Annotated[str, Meta(max_length=20_000)] | None,
        Setting("With --prompts: a system message before each, for models with a chat template.", "--system", "TEXT"),
    ] = None
    limit: Annotated[
        float,
        Meta(gt=0, lt=10),
        Setting(
            "Increase of perplexity that a format must stay under, as a fraction.",
            hint="Give a fraction: 0.02 stands for 2 %.",
        ),
    ] = USUAL_LIMIT
    weights: Annotated[
        dict[_Weight, _Share],
        Setting(
            "What each counts in the score, e.g. size=.3,quality=.4,speed=.3.",
            "--weights",
            hint="For example: size=.3,quality=.4,speed=.3; in lab.toml: { size = 0.3, quality = 0.4, speed = 0.3 }.",
        ),
    ] = field(default_factory=lambda: dict(zip(_WEIGHTS, USUAL_WEIGHTS, strict=True)))
    q13_limits: Annotated[
        dict[Annotated[str, Meta(pattern=_USES)], _Share],
        Setting(
            "What Q13 allows each use, where it differs from Q13_LIMITS.",
            hint="For example: chatbot_ppl_increase_pct=5",
        ),
    ] = field(default_factory=dict)
    blank: Annotated[bool, Setting("Leave a line for the student where a draft would stand.", "--blank/--drafts")] = (
        False
    )
    bench_rounds: Annotated[_Rounds, Setting("Fewest rounds of the speed measurement over all formats.")] = 4
    bench_max_rounds: Annotated[
        _Rounds, Setting("Most rounds; it ends before, once every ratio to the baseline is known to ± 2 %.")
    ] = 50
    bench_budget_s: Annotated[
        _Seconds | None,
        Setting(
            "Most time for the speed measurement, e.g. 2m; a visit that passes it is cut off.", "--bench-time", _TIME
        ),
    ] = None
    cooldown_s: Annotated[
        float, Meta(ge=0, le=3600), Setting("Rest between visits of the speed measurement.", "--cooldown", _TIME)
    ] = 0.0
    probe_items: Annotated[Annotated[int, Meta(ge=0, le=1 << 20)] | None, Setting("Questions of each probe.")] = None
    hang_s: Annotated[_SomeSeconds, Setting("Seconds without a sign of life until a process is given up.")] = 3600.0
    memory_limit_bytes: Annotated[
        Annotated[int, Meta(ge=0, lt=1 << 62)] | None,
        Setting("Most address space of a process.", hint="0 stands for none; left out, it follows the model's size."),
    ] = None
    allow_quantized_source: Annotated[
        bool, Setting("Accept a model that is quantized already; every table then says so.", "--allow-quantized-source")
    ] = False
    allow_missing_pre_tokenizer: Annotated[
        bool,
        Setting(
            "Accept a model that does not say how text is split; every table then says so.",
            "--allow-missing-pre-tokenizer",
        ),
    ] = False
    imatrix: Annotated[
        str | None,
        Setting(
            "Quantize with this GGUF importance matrix, or compute one with llama-imatrix.",
            "--imatrix",
            "FILE|auto[:TEXT]",
        ),
    ] = None
    llama_cpp: Annotated[
        str | None, Setting("Use the converter of this llama.cpp checkout for checkpoints.", "--llama-cpp", "DIR")
    ] = None
    yes: Annotated[bool, Setting("Agree to large downloads and writes without being asked.", "--yes")] = False

    def lab_data_folder(self) -> Path:
        """Where texts and models lie: as set, else ./lab_data, else the one beside the installed package."""
        if self.lab_data is not None:
            return Path(self.lab_data)
        beside = Path(__file__).resolve().parents[2] / "lab_data"
        return beside if not Path("lab_data").is_dir() and beside.is_dir() else Path("lab_data")

    def having(self, settings: Mapping[str, object]) -> LabConfig:
        """The same settings with other values for some."""
        now = {name: getattr(self, name) for name in FIELDS}
        return msgspec.convert({**now, **settings}, LabConfig)

    @property
    def candidate_files(self) -> dict[str, Path]:
        """Label -> ready-made file."""
        return dict(candidate(text) for text in self.candidates)

    @property
    def shares(self) -> Weights:
        """What size, quality and speed count in the score."""
        size, quality, speed = (self.weights.get(name, 0.0) for name in _WEIGHTS)
        return size, quality, speed

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


_QUANT = re.compile(r"(UD-)?(I?Q|TQ)\d\w*$|(BF16|F16|F32|MXFP4\w*)$", re.IGNORECASE)
"""How people end the names of files: Q4_K_M, UD-Q4_K_XL, IQ4_XS, BF16."""


def labelled(candidates: tuple[str, ...], formats: tuple[str, ...]) -> tuple[str, ...]:
    """Candidates with their labels before them; one that goes by its own name makes way for a format of that name."""
    found = []
    for text in candidates:
        label, path = candidate(text)
        own = not text.startswith(f"{label}=") and label in formats
        found.append(f"{label}{'-ready' if own else ''}={path}")
    return tuple(found)


def candidate(text: str) -> tuple[str, Path]:
    """Label and file of a candidate: LABEL=FILE, or a file that goes by the end of its own name."""
    label, equals, file = text.partition("=")
    if not equals or "/" in label or "\\" in label or ":" in label:
        label, file = "", text
    path = typed(file.strip())
    stem = re.sub(r"(-00001-of-\d{5})?\.gguf$", "", path.name, flags=re.IGNORECASE)
    quant = _QUANT.search(stem)
    return label.strip() or (quant[0] if quant else safe_name(stem)[-LABEL_LENGTH:]), path


FIELDS = {setting.name: setting for setting in dataclasses.fields(LabConfig)}
TYPES: dict[str, object] = typing.get_type_hints(LabConfig)
"""Each setting's type without its bounds."""
SETTINGS: dict[str, Setting] = {
    name: next(part for part in kind.__metadata__ if isinstance(part, Setting))
    for name, kind in typing.get_type_hints(LabConfig, include_extras=True).items()
}


def candidate_fault(candidates: tuple[str, ...]) -> str:
    """What is wrong with the labels of candidates; empty if nothing is."""
    labels = [candidate(text)[0] for text in candidates]
    for label in labels:
        if labels.count(label) > 1:
            return f"two files go by {label}"
        if label != safe_name(label) or len(label) > LABEL_LENGTH:
            return f"{label!r} is no label: {LABEL_LENGTH} letters, digits, dots, dashes and underscores at most"
    return ""


def flag(name: str) -> str:
    """A setting's option, such as --chunks; its own name where it has none."""
    return SETTINGS[name].flag.partition("/")[0] or name
