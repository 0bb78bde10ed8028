"""What a lab was asked: outputs/<model>/lab.json, written by what measures, read by what reports."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labctl import steps
from labctl.engines import in_order
from labctl.errors import LabError
from labctl.lab.config import FIELDS, LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.values import checked_value
from labctl.records.places import typed
from labctl.records.sources import SourceModel
from labctl.records.store import read_record, write_record
from labctl.steps.base import Case
from labctl.steps.measured import Measured
from labctl.steps.quantize.step import QUANTIZE, formats_made

NAME = "lab.json"
OF_STEP = {step.name: step.settings for step in steps.every()}
"""The settings that each step's records depend on. Speed is timed over a set of formats, which is one of them."""
OF_MODEL = ("allow_quantized_source", "allow_missing_pre_tokenizer", "llama_cpp", "lab_data", "candidates")
OF_REPORT = ("limit", "weights", "q13_limits", "blank")
MEASURING = frozenset((*OF_MODEL, *(name for names in OF_STEP.values() for name in names))) - {"limit"}
"""Where a report shows what is measured, only a flag asks for other values of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was last asked of a lab.

    Attributes:
        spec: what was typed for --model; path: the GGUF file it led to.
        formats: of the lab, without the baseline: what `labctl run` named, and what single steps added.
        steps: step -> setting -> value, as the last command had it that made the step.
        of_lab: settings of the model and of the report, where they are not the defaults.
        standing: what lab.toml and variables said then: flags went before it, and still do while it says the same.
    """

    spec: str
    path: str
    sha256: str
    formats: tuple[str, ...]
    asked_at: str
    steps: dict[str, dict[str, object]] = field(default_factory=dict)
    of_lab: dict[str, object] = field(default_factory=dict)
    standing: dict[str, object] = field(default_factory=dict)

    def settings(self, names: Iterable[str]) -> dict[str, object]:
        """The settings that some steps were asked with, and those of the lab."""
        found = dict(self.of_lab)
        for step in names:
            found |= {name: value for name, value in self.steps.get(step, {}).items() if name != "formats"}
        return {**found, "formats": self.formats}


def settings_of(config: LabConfig, n_threads: int, labels: tuple[str, ...], step: str) -> dict[str, object]:
    """What a step is asked with now; the number of threads as it came out."""
    own: dict[str, object] = {"threads": n_threads, "formats": list(labels), "text": _absolute(config.text)}
    own["prompts"] = _absolute(config.prompts)
    if config.imatrix is not None:
        own["imatrix"] = _absolute(config.imatrix)
    own["candidates"] = _absolute_candidates(config)
    return {name: own.get(name, getattr(config, name)) for name in OF_STEP[step]}


def note(
    folder: RunFolder,
    model: SourceModel,
    config: LabConfig,
    n_threads: int,
    names: Iterable[str],
    *,
    whole: bool,
    standing: Mapping[str, object],
) -> Asked:
    """Write down what is asked now.

    Args:
        names: the steps that will be made.
        whole: the lab is asked anew, with these formats only; else they come on top of those it has.
        standing: what lab.toml and variables say.
    """
    before = read(folder)
    formats = set(config.formats) if whole or before is None else {*config.formats, *before.formats}
    ordered = in_order(formats - {model.baseline})
    labels = tuple(name for name in config.formats if name != model.baseline)
    made = {} if before is None else dict(before.steps)
    made |= {name: settings_of(config, n_threads, labels, name) for name in names}
    usual = LabConfig()
    given = {name: getattr(config, name) for name in (*OF_MODEL, *OF_REPORT)}
    of_lab = {name: value for name, value in given.items() if value != getattr(usual, name)}
    if "candidates" in of_lab:
        of_lab["candidates"] = _absolute_candidates(config)
    for name in ("lab_data", "llama_cpp"):
        if name in of_lab:
            of_lab[name] = str(Path(of_lab[name]).absolute())
    found = Asked(
        spec=model.spec,
        path=model.path,
        sha256=model.sha256,
        formats=ordered,
        asked_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        steps=made,
        of_lab=of_lab if whole or before is None else before.of_lab | of_lab,
        standing=dict(standing),
    )
    write_record(folder.root / NAME, found)
    return found


def _absolute_candidates(config: LabConfig) -> list[str]:
    return [f"{label}={path.absolute()}" for label, path in config.candidate_files.items()]


def _absolute(name: str | None) -> str | None:
    """A file's name that holds from every folder; other words as they are."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if name is not None and (path := typed(name)).is_file():
            return str(path.absolute())
    return name


def read(folder: RunFolder) -> Asked | None:
    """What a lab was asked, by lab.json; else, as far as they tell, by its records.

    Returns: None where nothing is measured.
    """
    try:
        found = read_record(folder.root / NAME, Asked)
        if found is not None:
            _check(found)
            return found
    except LabError:  # by a newer labctl, or no settings that could be
        pass
    return _by_records(folder)


def is_readable(folder: RunFolder) -> bool:
    """Whether lab.json, if it is there, says what was asked."""
    try:
        found = read_record(folder.root / NAME, Asked)
        if found is not None:
            _check(found)
    except LabError:
        return False
    return found is not None or not (folder.root / NAME).exists()


def _check(asked: Asked) -> None:
    """Raise unless the settings could have been given.

    Raises:
        LabError: one could not.
    """
    formats: dict[str, object] = {"formats": asked.formats} if asked.formats else {}
    for settings in (formats, asked.of_lab, *asked.steps.values()):
        for name, value in settings.items():
            if name not in FIELDS or (name == "formats" and not value):
                continue
            checked_value(name, value, f"{NAME}: {name} ")


def _by_records(folder: RunFolder) -> Asked | None:
    """What the records of a lab without a readable lab.json were made with."""
    model = read_record(folder.record_path("source"), SourceModel)
    if model is None:
        return None
    there = in_order(formats_made(folder) - {model.baseline})
    files = {name: QUANTIZE.read(folder, Case(name)) for name in there}
    ready = [f"{name}={file.path}" for name, file in files.items() if file is not None and file.ready_made is not None]
    formats = tuple(name for name, file in files.items() if file is None or file.ready_made is None)
    scope = Measured(folder=str(folder.root), model=model, text=None, formats=(model.baseline, *there))
    made: dict[str, dict[str, object]] = {}
    for step in steps.every():
        records = (step.read(folder, case) for case in step.cases(scope))
        record = next((record for record in records if record is not None), None)
        if record is not None:
            made[step.name] = step.asked_of(record)
            if "formats" in step.settings:
                made[step.name]["formats"] = list(formats)
    return Asked(
        spec=model.spec,
        path=model.path,
        sha256=model.sha256,
        formats=formats,
        asked_at="",
        steps=made,
        of_lab={
            **({"allow_quantized_source": True} if model.quantized else {}),
            **({"candidates": ready} if ready else {}),
        },
    )


def flags_over(asked: Mapping[str, Mapping[str, object]], flags: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The settings of each step, with flags of the command line in place of what was asked before."""
    return {
        step: {name: flags[name] if flags.get(name) is not None else value for name, value in settings.items()}
        for step, settings in asked.items()
    }
