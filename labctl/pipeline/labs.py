"""The labs of an outputs folder: which model each of them belongs to, and which folder a model gets."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from labctl.errors import LabError
from labctl.lab.folder import RunFolder
from labctl.pipeline import asked
from labctl.records.sources import SourceModel
from labctl.records.store import read_record

STAMP = ".report.json"
"""In a reports folder: which records, and which model, the report was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A lab that has been measured.

    Attributes:
        asked_at: when it was last asked to measure; of a lab without a lab.json, when its model was noted.
    """

    name: str
    folder: RunFolder
    model: SourceModel
    asked_at: float


def labs(outputs: Path) -> tuple[Known, ...]:
    """Every lab of an outputs folder, the one measured last first."""
    found = []
    for place in sorted(outputs.glob("*/records/source.json")):
        folder = RunFolder(place.parent.parent)
        with contextlib.suppress(LabError, OSError):  # of a newer labctl; just removed
            model = read_record(place, SourceModel)
            stamps = [path.stat().st_mtime for path in (folder.root / asked.NAME, place) if path.exists()]
            if model is not None:
                found.append(Known(name=folder.root.name, folder=folder, model=model, asked_at=max(stamps)))
    return tuple(sorted(found, key=lambda lab: -lab.asked_at))


def owner(folder: Path) -> str:
    """sha256 of the model that a lab's folder belongs to; empty where it belongs to none yet."""
    with contextlib.suppress(LabError):  # of a newer labctl
        if (model := read_record(RunFolder(folder).record_path("source"), SourceModel)) is not None:
            return model.sha256
        if (before := read_record(folder / asked.NAME, asked.Asked)) is not None:
            return before.sha256
    return ""


def report_owner(folder: Path) -> str:
    """sha256 of the model that a reports folder belongs to; empty where it does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads((folder / STAMP).read_text("utf-8"))["model"])
    return ""


def folder_name(model: SourceModel, outputs: Path, reports: Path) -> tuple[str, str]:
    """The name of a model's folders: its own, unless another model has them.

    A model that has a lab already, under whatever name, keeps it.

    Returns: the name, and a line for the person where it is not the model's own; else empty.
    """
    plain = model.name
    if owner(outputs / plain) == model.sha256:
        return plain, ""
    mine = next((lab for lab in labs(outputs) if lab.model.sha256 == model.sha256), None)
    if mine is not None:
        return mine.name, f"{model.spec} is the model of {mine.folder.root}: its lab goes on there."
    if owner(outputs / plain) == "" and report_owner(reports / plain) in ("", model.sha256):
        return plain, ""
    name = f"{plain[:71]}-{model.sha256[:8]}"
    taken = outputs / plain if owner(outputs / plain) else reports / plain
    return name, f"{taken} belongs to another model, so {model.spec} gets {outputs / name} and {reports / name}."


def listed(outputs: Path) -> str:
    """The labs there are, for the end of a hint; empty if there are none."""
    names = [lab.name for lab in labs(outputs)]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f". {outputs} holds {', '.join(names[:6])}{more}: name one with --model" if names else ""
