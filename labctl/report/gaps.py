"""Where each figure comes from, why one is missing, and what a file contains beside what its label says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from labctl.engines.llama_cpp.formats import FORMATS, UNQUANTIZED_TYPES
from labctl.records.base import Provenance
from labctl.records.files import GgufFile
from labctl.report.analysis import load_nll
from labctl.steps.groups import GROUPS, Group, of_group, runs
from labctl.steps.measured import LabRecords, StepFailure

MARK = "⚠"
"""Stands behind the name of a format whose file is not what the name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A part of the lab that has no figures, and why."""

    step: str
    format: str
    reason: str
    log_path: str = ""


def gaps(records: LabRecords) -> tuple[Gap, ...]:
    """What was not measured, in the lab's order, with the reason; failures of the whole model come first."""
    asked = [group for group in GROUPS if not group.on_request]
    known = {group.step for group in asked}
    found = [
        Gap(
            step=failure.step,
            format=failure.format,
            reason=_sentence(failure.message, failure.hint),
            log_path=failure.log_path,
        )
        for failure in records.failures
        if failure.format not in records.formats or failure.step not in known
    ]
    usable = load_nll(records)
    for group in asked:
        step, there = group.field, of_group(records, group)
        for name in records.formats if group.of_baseline else records.formats[1:]:
            missing = name not in there
            failure = _failure(records, group, name, missing)
            if failure is not None:
                reason = _sentence(failure.message, failure.hint)
                if not missing:
                    reason += " The figures shown are from an earlier run."
                found.append(Gap(step=step, format=name, reason=reason, log_path=failure.log_path))
            elif missing:
                found.append(Gap(step=step, format=name, reason="This step has not been run with these settings yet."))
            elif step == "perplexity" and name not in usable:
                reason = "The file of its token values is missing or damaged, or belongs to another text or chunk size."
                found.append(Gap(step=step, format=name, reason=reason))
    return tuple(found)


def _failure(records: LabRecords, group: Group, name: str, missing: bool) -> StepFailure | None:
    """What failed for a format in a step; where it all begins with the baseline, its failure is every format's."""
    names = (name, records.model.baseline) if missing and not group.of_baseline else (name,)
    found = (one for name in names for one in records.failures if (one.step, one.format) == (group.step, name))
    return next(found, None)


def _sentence(message: str, hint: str) -> str:
    return f"{message} {hint}".strip()


def provenances(records: LabRecords) -> tuple[Provenance, ...]:
    """Where all figures come from, oldest first."""
    return tuple(sorted((one.provenance for one in runs(records)), key=lambda one: one.created_at))


def outputs_name(records: LabRecords) -> str:
    """The model's outputs folder as the worksheet names it: outputs/<model>."""
    folder = Path(records.folder)
    return f"{folder.parent.name}/{folder.name}".lstrip("/")


def record_name(records: LabRecords, step: str, name: str) -> str | None:
    """Where a format's record of a step lies, as outputs/<model>/records/<step>-<format>.json; None without one."""
    run = getattr(records, step).get(name)
    return None if run is None else f"{outputs_name(records)}/records/{run.provenance.step}-{name}.json"


def content_notes(file: GgufFile) -> tuple[str, ...]:
    """What a reader must know about a file whose label says more than its contents keep."""
    notes = []
    label = FORMATS[file.format].tensor_type if file.format in FORMATS else file.main_type
    own = label.lower()
    if file.main_type.lower() != own and not {own, file.main_type.lower()} <= UNQUANTIZED_TYPES:
        total = sum(share.size_bytes for share in file.types)
        main = max(file.types, key=lambda share: share.size_bytes)
        mine = [share for share in file.types if share.tensor_type.lower() == own]
        notes.append(
            f"most bytes are {main.tensor_type} ({100 * main.size_bytes / total:.0f} %); {label}, which the label"
            f" names, holds {100 * sum(s.size_bytes for s in mine) / total:.0f} % of the bytes and"
            f" {100 * sum(s.n_params for s in mine) / file.n_params:.0f} % of the weights"
        )
    if file.fallbacks:
        kinds = dict.fromkeys(f"{one.got} instead of {one.wanted}" for one in file.fallbacks)
        count = len(file.fallbacks)
        noun = "tensor" if count == 1 else "tensors"
        notes.append(f"{count} {noun} stored as {', '.join(kinds)}, because rows do not fill its blocks")
    return tuple(notes)


def main_contents(file: GgufFile) -> str:
    """The two types that hold most of a file's bytes: "q8_0 84 %, q6_K 16 %"."""
    total = sum(share.size_bytes for share in file.types)
    largest = sorted(file.types, key=lambda share: -share.size_bytes)[:2]
    return ", ".join(f"{share.tensor_type} {100 * share.size_bytes / total:.0f} %" for share in largest)


def mislabelled(records: LabRecords) -> tuple[str, ...]:
    """Formats whose files hold other types than the label says, because the model's rows do not fill its blocks."""
    return tuple(name for name in records.formats if name in records.files and records.files[name].fallbacks)


def mislabelled_notice(records: LabRecords) -> str:
    """What every table and chart must say about such files; empty if there are none."""
    names = mislabelled(records)
    if not names:
        return ""
    held = "; ".join(f"{name}: {main_contents(records.files[name])}" for name in names)
    row = min(one.row_length for name in names for one in records.files[name].fallbacks)
    return (
        f"This model's rows (of {row} weights, for example) do not fill the formats' blocks, so some files hold other"
        f" types than their names say. By bytes, {held}."
    )


def shown_name(records: LabRecords, name: str) -> str:
    """A format's name, with the mark behind it if its file holds other types than the name says."""
    return f"{name} {MARK}" if name in mislabelled(records) else name


def mark_names(markdown: str, records: LabRecords) -> str:
    """Put the mark behind such a format's name wherever it stands but in headings, in notes about it, and in code."""
    names = mislabelled(records)
    if not names:
        return markdown
    found = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, names))})(?![\w-]| {MARK})")

    def marked(line: str) -> str:
        if line.startswith(("#", ">", MARK, "![")):
            return line
        # Every other part lies between two backquotes.
        return "`".join(
            part if place % 2 else found.sub(rf"\1 {MARK}", part) for place, part in enumerate(line.split("`"))
        )

    return "\n".join(map(marked, markdown.split("\n")))


def twins(files: dict[str, GgufFile]) -> tuple[tuple[str, ...], ...]:
    """Groups of formats whose files hold the same types in the same amounts: different labels, same contents."""
    groups: dict[object, list[str]] = {}
    for name, file in files.items():
        content = tuple(sorted((s.tensor_type.lower(), s.n_tensors, s.n_params, s.size_bytes) for s in file.types))
        groups.setdefault(content, []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
