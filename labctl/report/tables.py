"""The worksheet's tables, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.report.answers import probe_names
from labctl.report.demo_training import unseen_scores
from labctl.report.gaps import Gap, content_notes, twins
from labctl.report.rules import SUMS
from labctl.report.text import (
    NOT_MEASURED,
    escape,
    gigabytes,
    known,
    quote,
    significant,
    size,
    table,
    words,
)
from labctl.steps.measured import LabRecords

Rows = Mapping[str, Mapping[str, Any]]
SIDE_BY_SIDE = ("Q5_K_M", "Q4_K_M", "Q3_K_M")
STEP_WORDS = {"files": "file", "speed": "speed", "generation": "text and probes"}


def cell(value: float, text: str) -> str:
    """The text, if there is a figure behind it."""
    return text if known(value) else NOT_MEASURED


def gap_table(found: Sequence[Gap]) -> str:
    """What is missing, and why; formats with one reason share a row."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for gap in found:
        names = grouped.setdefault((gap.step, gap.reason, escape(gap.log_path)), [])
        names.append(escape(gap.format) or "all")
    return table(
        ("Step", "Format", "Why", "Log"),
        (
            (STEP_WORDS.get(step, escape(step)), ", ".join(names), escape(reason), log)
            for (step, reason, log), names in grouped.items()
        ),
        left=range(4),
    )


# -- parts 1 and 2 ----------------------------------------------------------------------------------------------------


def sizes(records: LabRecords, rows: Rows) -> str:
    """Q1."""
    lines = []
    for name, row in rows.items():
        file = records.files.get(name)
        if file is None:
            lines.append([name, *[NOT_MEASURED] * 5])
            continue
        total = sum(share.size_bytes for share in file.types)
        ordered = sorted(file.types, key=lambda share: -share.size_bytes)
        contents = ", ".join(f"{share.tensor_type} {_share(share.size_bytes / total)}" for share in ordered)
        ratio = row["compression_ratio"]
        lines.append(
            [
                f"{name} ⚠" if content_notes(file) else name,
                gigabytes(file.size_bytes),
                f"{file.size_bytes:,}",
                cell(ratio, f"{significant(ratio) if ratio != 1 else '1.0'}x"),
                f"{file.bpw:.2f}",
                escape(contents),
            ]
        )
    return table(("Format", "Size, GB", "Bytes", "Ratio", "bpw", "What it really contains"), lines, left=(0, 5))


def _share(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.005 else "under 0.5 %"


def size_notes(records: LabRecords) -> list[str]:
    """Marks on labels that say more than the file, and on labels that mean the same file."""
    notes = [f"{name}: {note}." for name, file in records.files.items() for note in content_notes(file)]
    notes += [
        f"{words(names)} have identical contents: the labels differ, the tensors' types do not."
        for names in twins(records.files)
    ]
    notes += [
        f"{name} was made with the importance matrix {file.imatrix}."
        for name, file in records.files.items()
        if file.imatrix
    ]
    return notes


# -- part 3 -----------------------------------------------------------------------------------------------------------


def sampling(records: LabRecords) -> str:
    """How the sampled texts were drawn, from the records' own settings."""
    for run in records.generation.values():
        settings = run.provenance.settings
        named = [
            f"{label} {settings[key]}"
            for key, label in (
                ("n_tokens", "new tokens"),
                ("temperature", "temperature"),
                ("top_p", "top-p"),
                ("seed", "seed"),
            )
            if key in settings
        ]
        return f"Sampled with these settings: {', '.join(named)}." if named else ""
    return ""


def probes(records: LabRecords, rows: Rows) -> str:
    """Q6: scores of all probes, and answers lost and gained against the baseline."""
    names = probe_names(records)
    if not names:
        return f"{NOT_MEASURED.capitalize()}."
    base, new = records.formats[0], unseen_scores(records)
    columns = [(name, new.get(name, {})) for name in names]
    heads = [head for name, part in columns for head in (escape(name), *([_unseen_head(name)] if part else []))]
    return table(
        ("Format", *heads, "Lost", "Gained", "Chance of such a split"),
        (
            (
                name,
                *(
                    text
                    for probe, part in columns
                    for text in (_score(row, probe), *([_unseen(part, name)] if part else []))
                ),
                *("baseline" if name == base else count(row, column) for column in ("answers_lost", "answers_gained")),
                "baseline" if name == base else cell(row["answers_p"], _probability(row["answers_p"])),
            )
            for name, row in rows.items()
        ),
    )


def _unseen_head(probe: str) -> str:
    return f"{escape(probe)} not trained on"


def _unseen(scores: Mapping[str, tuple[int, int]], name: str) -> str:
    right, asked = scores.get(name, (0, 0))
    return f"{right} of {asked}" if asked else NOT_MEASURED


def _score(row: Mapping[str, Any], probe: str) -> str:
    n = row.get(f"{probe}_n", math.nan)
    if not known(n):
        return NOT_MEASURED
    return (
        f"{row[f'{probe}_correct']:.0f} of {n:.0f} ({row[f'{probe}_low_pct']:.0f} to {row[f'{probe}_high_pct']:.0f} %)"
    )


def count(row: Mapping[str, Any], column: str) -> str:
    """A whole number of the frame."""
    return cell(row[column], f"{row[column]:.0f}")


def _probability(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"


def sums(records: LabRecords, rows: Rows, prompt_number: int = 5) -> str:
    """Q7: size, sums right, and how each format goes on from Prompt 5."""
    lines = []
    new = unseen_scores(records).get(SUMS, {})
    for name, row in rows.items():
        run = records.generation.get(name)
        greedy = run.find(prompt_number, "greedy") if run else None
        begin = NOT_MEASURED if greedy is None else quote("".join(greedy.pieces[:12]))
        paired = [NOT_MEASURED] * 2
        if known(row.get(f"{SUMS}_p")):
            changes = f"{row[f'{SUMS}_lost']:.0f} / {row[f'{SUMS}_gained']:.0f}"
            paired = [changes, _probability(row[f"{SUMS}_p"])]
        if name == records.formats[0]:
            paired = ["baseline"] * 2
        scores = [_score(row, SUMS), *([_unseen(new, name)] if new else [])]
        lines.append([name, cell(row["size_bytes"], size(row["size_bytes"])), *scores, *paired, begin])
    header = ["Format", "Size", "Small sums right (95 % interval)", *([_unseen_head("Sums")] if new else [])]
    header += ["Lost / gained", "McNemar", "Prompt 5, greedy, first 12 tokens"]
    return table(header, lines, left=(0, len(header) - 1))
