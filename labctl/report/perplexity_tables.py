"""The worksheet's tables of perplexity and divergence (Q2, Q3, Q6), and how the chunks of the text were used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from labctl.report.tables import cell
from labctl.report.text import NOT_MEASURED, counted, interval, known, percent, table, words
from labctl.steps.measured import LabRecords
from labctl.steps.perplexity.record import COMMON_CHUNKS, PerplexityRun

Rows = Mapping[str, Mapping[str, Any]]


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
                "baseline" if row["verdict"] == "baseline" else increase_interval(row),
                cell(row["n_chunks"], f"{row['n_chunks']:.0f}"),
            )
            for name, row in rows.items()
        ),
    )


def increase_interval(row: Mapping[str, Any]) -> str:
    """The interval of the increase as a cell."""
    if not known(row["ppl_increase_pct"]):
        return NOT_MEASURED
    return interval(row["ppl_increase_low_pct"], row["ppl_increase_high_pct"])


def perplexity_notes(records: LabRecords, rows: Rows) -> list[str]:
    """What a chunk is, how many each format was measured on and why, and how the interval is made."""
    runs = {name: records.perplexity[name] for name, row in rows.items() if known(row["n_chunks"])}
    if not runs:
        return []
    base = records.formats[0]
    some = next(iter(runs.values()))
    notes = [
        f"A chunk is a piece of the text of {counted(some.n_ctx, 'token')}, read from its start; its last"
        f" {counted(some.n_scored_per_chunk, 'token')} are scored. {_chunks_used(runs, rows, base)}"
    ]
    if base not in runs:
        return [*notes, f"There is no increase without the perplexity of {base}, the baseline."]
    judged = [name for name in runs if name != base and known(rows[name]["ppl_increase_pct"])]
    if judged:
        notes.append(_interval_made(runs, judged, base))
    if any(math.isinf(rows[name]["ppl_increase_high_pct"]) for name in judged):
        notes.append("Where the interval is open, it has no bounds: one chunk gives none.")
    shared, most = (pick(rows[name][f"n_chunks{end}"] for name in runs) for pick, end in ((min, "_common"), (max, "")))
    if judged and shared < most:
        notes.append(
            f"The perplexities are taken over the {counted(shared, 'chunk')} that all formats share; each increase over"
            f" all chunks that the format shares with {base}, so it can differ a little from the ratio of the"
            " perplexities."
        )
    return notes


def looks(run: PerplexityRun) -> bool:
    """Whether a run could stop on its own figures, so that its interval has to hold at every look."""
    return run.order_seed is not None and run.n_chunks < run.n_chunks_text


def _chunks_used(runs: Mapping[str, PerplexityRun], rows: Rows, base: str) -> str:
    counts = {name: int(rows[name]["n_chunks"]) for name in runs}
    n_text = next(iter(runs.values())).n_chunks_text
    floor, most = min(counts.values()), max(counts.values())
    who = "Every format was" if len(runs) > 1 else f"{next(iter(runs))} was"
    if floor == n_text:
        return f"{who} measured on the whole text, {counted(n_text, 'chunk')}."
    if not any(run.order_seed is not None for run in runs.values()):
        if floor == most:
            return f"{who} measured on the first {floor} of {counted(n_text, 'chunk')}."
        return f"The formats were measured on {floor} to {most} of {counted(n_text, 'chunk')}, as the table says."
    text = (
        f"Chunks come in one shuffled order, the same for all formats. {who} measured on the first {floor} of {n_text}"
    )
    others = [name for name in runs if known(rows[name]["ppl_increase_pct"])]
    still_open = [name for name in others if rows[name]["verdict"] == "undecided"]
    at_the_end = (
        f"Still open at the end: {words(still_open)}." if still_open else "In the end every verdict was settled."
    )
    if floor == most or not others:
        by_then = "By then every verdict was settled." if others and not still_open else at_the_end if others else ""
        return f"{text}. {by_then}".rstrip()
    longer = [name for name in others if counts[name] > max(floor, COMMON_CHUNKS)]
    if floor < COMMON_CHUNKS or not longer:
        return f"{text}, some on more, as the table says. {at_the_end}"
    listed = words(f"{name} to {counts[name]}" for name in longer)
    why = "its verdict was" if len(longer) == 1 else "their verdicts were"
    return f"{text}; {listed} went on because {why} still open then. {at_the_end}"


def _interval_made(runs: Mapping[str, PerplexityRun], judged: list[str], base: str) -> str:
    sequential = [name for name in judged if looks(runs[name])]
    plain = [name for name in judged if name not in sequential]
    note = (
        f"The interval is paired: a format and {base} read the same chunks, and it is the interval of their mean"
        " difference (in nats a token, then turned into percent), so that what makes a chunk hard for both drops out."
    )
    student = "Student's t over the chunks"
    holds = (
        "bounds that hold at every look at once, because measuring may stop at any look (a confidence sequence: Wang"
        " and Ramdas 2023, arXiv 2310.03722, with Hall's correction for skewness, 1992); they are wider than"
        f" {student} and need not be symmetric"
    )
    if not sequential:
        return f"{note} Method: {student}."
    if not plain:
        return f"{note} Method: {holds}."
    return f"{note} Method: {holds}; for {words(plain)}: {student}."


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
                f"{row['kld_mean_low']:.5f} to {row['kld_mean_high']:.5f}"
                if math.isfinite(row["kld_mean_high"])
                else "open",
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
        f" {counted(run.n_tokens, 'token')} in {counted(run.n_chunks, 'chunk')}; intervals by chunk."
    )


def verdicts(rows: Rows) -> str:
    """Q3."""
    return table(
        ("Format", "Increase", "95 % interval", "Verdict"),
        (
            (
                name,
                cell(row["ppl_increase_pct"], percent(row["ppl_increase_pct"])),
                increase_interval(row),
                row["verdict"] or NOT_MEASURED,
            )
            for name, row in rows.items()
            if row["verdict"] != "baseline"
        ),
        left=(0, 3),
    )
