"""The worksheet's tables, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from labctl.records import Generation, LabRecords
from labctl.report.answers import first_divergence, probe_names, split_text
from labctl.report.gaps import Gap, content_notes, twins
from labctl.report.greedy import greedy_divergences, loop_quote, loops, same_words
from labctl.report.rules import SUMS
from labctl.report.text import (
    NOT_MEASURED,
    counted,
    escape,
    gigabytes,
    interval,
    known,
    percent,
    quote,
    significant,
    size,
    table,
    words,
)

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


def perplexities(rows: Rows) -> str:
    """Q2."""
    return table(
        ("Format", "Perplexity ± standard error", "Increase", "95 % interval of the increase", "Chunks"),
        (
            (
                name,
                cell(row["ppl"], f"{row['ppl']:.4f} ± {row['ppl_se']:.4f}"),
                "baseline"
                if row["verdict"] == "baseline"
                else cell(row["ppl_increase_pct"], percent(row["ppl_increase_pct"])),
                "baseline" if row["verdict"] == "baseline" else _interval(row),
                cell(row["n_chunks"], f"{row['n_chunks']:.0f}"),
            )
            for name, row in rows.items()
        ),
    )


def _interval(row: Mapping[str, Any]) -> str:
    if not known(row["ppl_increase_pct"]):
        return NOT_MEASURED
    if not math.isfinite(row["ppl_increase_high_pct"]):
        return "open (one chunk)"
    return interval(row["ppl_increase_low_pct"], row["ppl_increase_high_pct"])


def perplexity_note(records: LabRecords, rows: Rows) -> str:
    """How the chunks were used, if anything was measured."""
    measured = [row for row in rows.values() if known(row["n_chunks"])]
    if not measured:
        return ""
    shared, most = measured[0]["n_chunks_common"], max(row["n_chunks"] for row in measured)
    base = records.formats[0]
    if not known(rows[base]["ppl"]):
        return f"There is no increase without the perplexity of {base}, the baseline."
    note = f"Interval: paired with {base} chunk by chunk, t distribution over chunks."
    if any(run.order_seed is not None and run.n_chunks < run.n_chunks_text for run in records.perplexity.values()):
        note = (
            f"Interval: paired with {base} chunk by chunk. Chunks were drawn in one shuffled order, and each format"
            " went on only until its verdict was settled; its interval holds at every such look at once (95 %), which"
            " makes it wider than a plain one. A format measured on the whole text has the t interval over its chunks."
        )
    if shared < most:
        note += (
            f" The perplexities are taken over the {shared:.0f} chunks that all formats share; each increase over all"
            f" chunks that the format shares with {base}, so it can differ a little from the ratio of the perplexities."
        )
    return note


def divergences(rows: Rows) -> str:
    """Evidence for Q6 and Q14: how far the predictions are from the baseline's; empty if nothing was measured."""
    found = {name: row for name, row in rows.items() if known(row["kld_mean"])}
    if not found:
        return ""
    return table(
        ("Format", "KL divergence, mean", "95 % interval", "median", "p90", "p99", "max", "Same top token"),
        (
            (
                name,
                f"{row['kld_mean']:.5f}",
                f"{row['kld_mean_low']:.5f} to {row['kld_mean_high']:.5f}",
                *(f"{row[column]:.4f}" for column in ("kld_median", "kld_p90", "kld_p99", "kld_max")),
                f"{row['same_top_pct']:.2f} % ({row['same_top_low_pct']:.2f} to {row['same_top_high_pct']:.2f} %)",
            )
            for name, row in found.items()
        ),
    )


def divergence_note(records: LabRecords) -> str:
    """What the divergence table counts."""
    run = next(iter(records.divergence.values()), None)
    if run is None:
        return ""
    base = records.formats[0]
    return (
        f"KL divergence from {base}, in nats a token: how much the format's probabilities for the next token differ"
        f" from {base}'s, 0 for none. Same top token: share of places where both find the same token most likely. Over"
        f" {run.n_tokens:,} tokens in {run.n_chunks} chunks; intervals by chunk."
    )


def verdicts(rows: Rows) -> str:
    """Q3."""
    return table(
        ("Format", "Increase", "95 % interval", "Verdict"),
        (
            (
                name,
                cell(row["ppl_increase_pct"], percent(row["ppl_increase_pct"])),
                _interval(row),
                row["verdict"] or NOT_MEASURED,
            )
            for name, row in rows.items()
            if row["verdict"] != "baseline"
        ),
        left=(0, 3),
    )


# -- part 3 -----------------------------------------------------------------------------------------------------------


def sampling(records: LabRecords) -> str:
    """How the sampled texts were drawn, from the records' own settings."""
    for run in records.generation.values():
        settings = run.provenance.settings
        named = [
            f"{label} {settings[key]}"
            for key, label in (
                ("n_tokens", "new tokens:"),
                ("temperature", "temperature"),
                ("top_p", "top-p"),
                ("seed", "seed"),
            )
            if key in settings
        ]
        return f"Sampled with {', '.join(named)}." if named else ""
    return ""


def side_by_side(records: LabRecords, prompt_number: int = 2) -> str:
    """Q5: sampled and greedy text of one prompt, and the first greedy token that is not the baseline's."""
    base = records.formats[0]
    lines = []
    for name in (base, *SIDE_BY_SIDE):
        if name not in records.formats:
            lines.append([name, *["not in this lab"] * 3])
            continue
        run = records.generation.get(name)
        texts = [run.find(prompt_number, decoding) if run else None for decoding in ("sampled", "greedy")]
        lines.append(
            [
                name,
                NOT_MEASURED if texts[0] is None else quote(texts[0].text),
                NOT_MEASURED if texts[1] is None else _marked(records, name, texts[1]),
                _leaves(records, name, texts[1]),
            ]
        )
    return table(("Format", "Sampled", "Greedy", f"First greedy token that is not {base}'s"), lines, left=range(4))


def _marked(records: LabRecords, name: str, greedy: Generation) -> str:
    """A greedy text with the first token that is not the baseline's in bold."""
    base_run = records.generation.get(records.formats[0])
    base = base_run.find(greedy.prompt_number, "greedy") if base_run and name != records.formats[0] else None
    same, first, rest = split_text(greedy, base)
    if first is None or not first.strip():
        return quote(greedy.text)
    ends = first.partition(first.strip())
    same, first, rest = (escape(part, newline=" ⏎ ") for part in (same + ends[0], ends[1], ends[2] + rest))
    return f'"{same}**{first}**{rest}"' if first.strip() else quote(greedy.text)


def _leaves(records: LabRecords, name: str, greedy: Generation | None) -> str:
    base = records.formats[0]
    if name == base:
        return "baseline"
    base_run = records.generation.get(base)
    theirs = base_run.find(greedy.prompt_number, "greedy") if base_run and greedy else None
    if greedy is None or theirs is None:
        return NOT_MEASURED
    found = first_divergence(greedy, theirs)
    if found.identical:
        return f"none: {same_words(found)} the same" if found.n_tokens else "none: both are empty"
    mine, other = ("ends" if piece is None else quote(piece) for piece in (found.piece, found.base_piece))
    return f"after {found.n_same} of {counted(found.n_tokens, 'token')}: {mine}; {base}: {other}"


def same_tokens(records: LabRecords) -> str:
    """Q6: tokens in common with the baseline from the start, per prompt and of all."""
    found = greedy_divergences(records)
    numbers = sorted({number for by_prompt in found.values() for number in by_prompt})
    if not numbers:
        return f"{NOT_MEASURED.capitalize()}."
    lines = []
    for name in records.formats[1:]:
        places = found.get(name, {})
        same, n = (sum(one.n_same for one in places.values()), sum(one.n_tokens for one in places.values()))
        lines.append(
            [
                name,
                *(same_words(places[number]) if number in places else NOT_MEASURED for number in numbers),
                f"{same} of {n} ({100 * same / n:.0f} %)" if n else NOT_MEASURED,
            ]
        )
    return table(("Format", *(f"Prompt {number}" for number in numbers), "All prompts"), lines)


def looping(records: LabRecords) -> str:
    """Q6: texts that go round in circles where the baseline's does not; empty without one."""
    found = loops(records)
    if not found:
        return ""
    base = records.formats[0]
    return table(
        ("Format", "Prompt", "Text", "Repeated", f"In {base}'s text", "Where it goes round"),
        (
            (
                loop.format,
                str(loop.prompt_number),
                loop.decoding,
                f"{100 * loop.share:.0f} %",
                f"{100 * loop.base_share:.0f} %",
                loop_quote(loop),
            )
            for loop in found
        ),
        left=(0, 2, 5),
    )


def worst_beside_base(records: LabRecords, rows: Rows, shown_prompt: int = 2) -> tuple[str, str]:
    """Q6: the greedy texts of the format with the largest loss beside the baseline's; prompt 2 stands in Q5 already.

    Returns: which format and why, and the table; both empty where there are no texts, or none differs.
    """
    base = records.formats[0]
    leaving = {
        name: places
        for name, places in greedy_divergences(records).items()
        if any(not one.identical for number, one in places.items() if number != shown_prompt)
    }
    if not leaving:
        return "", ""
    column, sign, why = "greedy_same_pct", -1, "the fewest tokens in common"
    if any(known(rows[name]["ppl_increase_pct"]) for name in leaving):
        column, sign, why = "ppl_increase_pct", 1, "the highest increase of perplexity"
    figures = {name: sign * float(rows[name][column]) for name in leaving if known(rows[name][column])}
    worst = max(figures, key=lambda name: figures[name])
    lines = []
    for number in sorted(set(leaving[worst]) - {shown_prompt}):
        mine, theirs = (records.generation[name].find(number, "greedy") for name in (worst, base))
        if mine is not None and theirs is not None:
            lines.append([str(number), quote(theirs.text), _marked(records, worst, mine)])
    which = f"{worst} (of the formats whose texts differ, the one with {why})"
    return which, table(("Prompt", base, worst), lines, left=range(3))


def probes(records: LabRecords, rows: Rows) -> str:
    """Q6: scores of all probes, and answers lost and gained against the baseline."""
    names = probe_names(records)
    if not names:
        return f"{NOT_MEASURED.capitalize()}."
    return table(
        ("Format", *(escape(name) for name in names), "Lost", "Gained", "Probability"),
        (
            (
                name,
                *(_score(row, probe) for probe in names),
                *(
                    "baseline" if name == records.formats[0] else count(row, column)
                    for column in ("answers_lost", "answers_gained")
                ),
                "baseline" if name == records.formats[0] else cell(row["answers_p"], _probability(row["answers_p"])),
            )
            for name, row in rows.items()
        ),
    )


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
        lines.append([name, cell(row["size_bytes"], size(row["size_bytes"])), _score(row, SUMS), *paired, begin])
    header = ("Format", "Size", "Small sums right (95 % interval)", "Lost / gained", "McNemar")
    return table((*header, "Prompt 5, greedy, first 12 tokens"), lines, left=(0, 5))
