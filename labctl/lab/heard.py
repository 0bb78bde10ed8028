"""What llama.cpp warned of in each task, kept beside the records: it goes wherever the model's figures go."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.lab.folder import RunFolder
from labctl.records.store import read_record, write_record

LOAD = "load"
"""The task that opens the source before anything is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNotices:
    """Warnings in plain words.

    Attributes:
        key: digest of the model and of llama.cpp's build; with another one nothing here holds.
        said: step -> format -> what its task brought.
    """

    key: str
    said: dict[str, dict[str, tuple[str, ...]]]


def _read(folder: RunFolder, key: str) -> EngineNotices:
    stored = read_record(folder.record_path("notices"), EngineNotices)
    return stored if stored is not None and stored.key == key else EngineNotices(key=key, said={})


def keep(folder: RunFolder, key: str, step: str, label: str, notices: tuple[str, ...]) -> None:
    """Note what a task brought, in place of what it brought before."""
    stored = _read(folder, key)
    before = stored.said.get(step, {}).get(label)
    if before == notices or (before is None and not notices and step != LOAD):
        return
    said = {**stored.said, step: {**stored.said.get(step, {}), label: notices}}
    write_record(folder.record_path("notices"), EngineNotices(key=key, said=said))


def was_loaded(folder: RunFolder, key: str) -> bool:
    """Whether the source was opened before."""
    return LOAD in _read(folder, key).said


def notices(folder: RunFolder, key: str) -> tuple[str, ...]:
    """All that was said: of the source first, then what only some format or step brought, with their names."""
    said = _read(folder, key).said
    of_source = [text for texts in said.get(LOAD, {}).values() for text in texts]
    others: dict[str, dict[str, None]] = {}
    for step, labels in said.items():
        for label, texts in labels.items():
            for text in texts:
                if text not in of_source:
                    others.setdefault(text, {})[f"{label} ({step})"] = None
    return (*of_source, *(f"{', '.join(places)}: {text}" for text, places in others.items()))
