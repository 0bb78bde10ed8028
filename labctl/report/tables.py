"""The worksheet's tables, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labctl import steps
from labctl.records.files import Making
from labctl.records.units import gigabytes, significant, size_text
from labctl.report.demo_training import unseen_scores
from labctl.report.figures import Figures
from labctl.report.gaps import Gap, content_notes, twins
from labctl.report.rules import SUMS
from labctl.report.text import NOT_MEASURED, cell, escape, quote, table, words
from labctl.steps.generate.answers import probe_names
from labctl.steps.generate.figures import ProbeFigures
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.quantize.step import QUANTIZE

SIDE_BY_SIDE = ("Q5_K_M", "Q4_K_M", "Q3_K_M")


def gap_table(found: Sequence[Gap]) -> str:
    """What is missing, and why; formats with one reason share a row."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for gap in found:
        names = grouped.setdefault((gap.step, gap.reason, escape(gap.log_path)), [])
        names.append(escape(gap.format) or "all")
    return table(
        ("Step", "Format", "Why", "Log"),
        ((_step_words(step), ", ".join(names), escape(reason), log) for (step, reason, log), names in grouped.items()),
        left=range(4),
    )


def _step_words(name: str) -> str:
    """What a reader calls a step, or what is no step, such as loading the model."""
    return (steps.named(name).words if name in steps.TABLE else "") or escape(name)


# -- parts 1 and 2 ----------------------------------------------------------------------------------------------------


def sizes(records: Measured, figures: Figures) -> str:
    """Q1."""
    lines = []
    for name, row in figures.items():
        file = records.of(QUANTIZE).get(name)
        if file is None:
            lines.append([name, *[NOT_MEASURED] * 5])
            continue
        total = sum(share.size_bytes for share in file.types)
        ordered = sorted(file.types, key=lambda share: -share.size_bytes)
        contents = ", ".join(f"{share.tensor_type} {_share(share.size_bytes / total)}" for share in ordered)
        lines.append(
            [
                f"{name} ⚠" if content_notes(file) else name,
                gigabytes(file.size_bytes),
                f"{file.size_bytes:,}",
                cell(row.compression_ratio, lambda ratio: f"{significant(ratio) if ratio != 1 else '1.0'}x"),
                f"{file.bpw:.2f}",
                escape(contents),
            ]
        )
    return table(("Format", "Size, GB", "Bytes", "Ratio", "bpw", "What it really contains"), lines, left=(0, 5))


def _share(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.005 else "under 0.5 %"


def _ready_made(name: str, making: Making) -> str:
    """What is known of a file that was not made here, in a stranger's words."""
    by = f"made by {escape(making.by)}, as it says" if making.by else "it does not say by whom it was made"
    matrix = f"an importance matrix of {escape(making.imatrix)}" if making.imatrix else "no importance matrix"
    return f"{name} is a ready-made file ({escape(making.file)}): {by}, and it names {matrix}."


def size_notes(records: Measured) -> list[str]:
    """Marks on labels that say more than the file, and on labels that mean the same file."""
    notes = [f"{name}: {note}." for name, file in records.of(QUANTIZE).items() for note in content_notes(file)]
    notes += [
        f"{words(names)} have identical contents: the labels differ, the tensors' types do not."
        for names in twins(records.of(QUANTIZE))
    ]
    for name, file in records.of(QUANTIZE).items():
        if file.ready_made is not None:
            notes.append(_ready_made(name, file.ready_made))
        elif file.imatrix:
            notes.append(f"{name} was made with the importance matrix {file.imatrix}.")
    return notes


# -- part 3 -----------------------------------------------------------------------------------------------------------


def sampling(records: Measured) -> str:
    """How the sampled texts were drawn, from the records' own settings."""
    for run in records.of(GENERATE).values():
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


def probes(records: Measured, figures: Figures) -> str:
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
                    for text in (cell(row.probe(probe), _score), *([_unseen(part, name)] if part else []))
                ),
                *(
                    "baseline" if name == base else cell(row.changes, write)
                    for write in (
                        lambda changes: str(changes.lost),
                        lambda changes: str(changes.gained),
                        lambda changes: _probability(changes.p),
                    )
                ),
            )
            for name, row in figures.items()
        ),
    )


def _unseen_head(probe: str) -> str:
    return f"{escape(probe)} not trained on"


def _unseen(scores: Mapping[str, tuple[int, int]], name: str) -> str:
    right, asked = scores.get(name, (0, 0))
    return f"{right} of {asked}" if asked else NOT_MEASURED


def _score(probe: ProbeFigures) -> str:
    if probe.low_pct is None or probe.high_pct is None:
        return f"{probe.n_correct} of {probe.n}"
    return f"{probe.n_correct} of {probe.n} ({probe.low_pct:.0f} to {probe.high_pct:.0f} %)"


def _probability(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"


def sums(records: Measured, figures: Figures, prompt_number: int = 5) -> str:
    """Q7: size, sums right, and how each format goes on from Prompt 5."""
    lines = []
    new = unseen_scores(records).get(SUMS, {})
    for name, row in figures.items():
        run = records.of(GENERATE).get(name)
        greedy = run.find(prompt_number, "greedy") if run else None
        begin = NOT_MEASURED if greedy is None else quote("".join(greedy.pieces[:12]))
        paired = [NOT_MEASURED] * 2
        probe = row.probe(SUMS)
        if probe is not None and (changes := probe.changes) is not None:
            paired = [f"{changes.lost} / {changes.gained}", _probability(changes.p)]
        if name == records.formats[0]:
            paired = ["baseline"] * 2
        scores = [cell(probe, _score), *([_unseen(new, name)] if new else [])]
        lines.append([name, cell(row.size_bytes, size_text), *scores, *paired, begin])
    header = ["Format", "Size", "Small sums right (95 % interval)", *([_unseen_head("Sums")] if new else [])]
    header += ["Lost / gained", "McNemar", "Prompt 5, greedy, first 12 tokens"]
    return table(header, lines, left=(0, len(header) - 1))
