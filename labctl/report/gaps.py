"""Where each figure comes from, why one is missing, and what a file contains beside what its label says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labctl import steps
from labctl.engines import formats
from labctl.engines.base import UNQUANTIZED_TYPES
from labctl.lab.folder import RunFolder
from labctl.records.base import Provenance
from labctl.records.files import GgufFile
from labctl.steps.base import Case
from labctl.steps.measured import Measured, StepFailure
from labctl.steps.quantize.step import QUANTIZE

MARK = "⚠"
"""Stands behind the name of a format whose file is not what the name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A part of the lab that has no figures, and why."""

    step: str
    format: str
    reason: str
    log_path: str = ""


def gaps(records: Measured) -> tuple[Gap, ...]:
    """What was not measured, in the lab's order, with the reason; failures of the whole model come first."""
    found = [_gap(failure) for failure in records.failures if failure.format not in records.formats]
    for step in steps.every():
        cases, there = step.cases(records), records[step]
        unusable = step.unusable(records.of(step), Path(records.folder))
        failures = {failure.case: failure for failure in records.failures if failure.step == step.name}
        # What failed and is no case of its own, such as the baseline of a comparison, failed for all.
        own = [failure for case, failure in failures.items() if case == step.case(records, case.format)]
        common = next((failure for failure in own if failure.case not in cases), None)
        for case in cases:
            missing = case not in there
            failure = failures.get(case) or (common if missing else None)
            if failure is not None:
                found.append(_gap(failure, case, "" if missing else " The figures shown are from an earlier run."))
            elif missing and not step.on_request:
                reason = step.lacking(records) or "This step has not been run with these settings yet."
                found.append(Gap(step=step.name, format=case.format, reason=reason))
            elif case.format in unusable:
                found.append(Gap(step=step.name, format=case.format, reason=unusable[case.format]))
    return tuple(found)


def _gap(failure: StepFailure, case: Case | None = None, more: str = "") -> Gap:
    return Gap(
        step=failure.step,
        format=failure.format if case is None else case.format,
        reason=_sentence(failure.message, failure.hint) + more,
        log_path=failure.log_path,
    )


def _sentence(message: str, hint: str) -> str:
    return f"{message} {hint}".strip()


def provenances(records: Measured) -> tuple[Provenance, ...]:
    """Where all figures come from, oldest first."""
    return tuple(sorted((kept.record.provenance for kept in records), key=lambda one: one.created_at))


def outputs_name(records: Measured) -> str:
    """The model's outputs folder as the worksheet names it: outputs/<model>."""
    folder = Path(records.folder)
    return f"{folder.parent.name}/{folder.name}".lstrip("/")


def record_name(records: Measured, step: str, name: str) -> str | None:
    """Where a format's record of a step lies, as outputs/<model>/records/<step>-<format>.json; None without one."""
    its = steps.named(step)
    if name not in records.of(its):
        return None
    path = its.path(RunFolder(Path(records.folder)), its.case(records, name))
    return f"{outputs_name(records)}/records/{path.name}"


def content_notes(file: GgufFile) -> tuple[str, ...]:
    """What a reader must know about a file whose label says more than its contents keep."""
    notes = []
    label = format_.tensor_type if (format_ := formats().get(file.format)) is not None else file.main_type
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


def mislabelled(records: Measured) -> tuple[str, ...]:
    """Formats whose files hold other types than the label says, because the model's rows do not fill its blocks."""
    return tuple(
        name for name in records.formats if name in records.of(QUANTIZE) and records.of(QUANTIZE)[name].fallbacks
    )


def mislabelled_notice(records: Measured) -> str:
    """What every table and chart must say about such files; empty if there are none."""
    names = mislabelled(records)
    if not names:
        return ""
    held = "; ".join(f"{name}: {main_contents(records.of(QUANTIZE)[name])}" for name in names)
    row = min(one.row_length for name in names for one in records.of(QUANTIZE)[name].fallbacks)
    return (
        f"This model's rows (of {row} weights, for example) do not fill the formats' blocks, so some files hold other"
        f" types than their names say. By bytes, {held}."
    )


def shown_name(records: Measured, name: str) -> str:
    """A format's name, with the mark behind it if its file holds other types than the name says."""
    return f"{name} {MARK}" if name in mislabelled(records) else name


def mark_names(markdown: str, records: Measured) -> str:
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


def twins(files: Mapping[str, GgufFile]) -> tuple[tuple[str, ...], ...]:
    """Groups of formats whose files hold the same types in the same amounts: different labels, same contents."""
    groups: dict[object, list[str]] = {}
    for name, file in files.items():
        content = tuple(sorted((s.tensor_type.lower(), s.n_tensors, s.n_params, s.size_bytes) for s in file.types))
        groups.setdefault(content, []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
