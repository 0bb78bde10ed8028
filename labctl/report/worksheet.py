"""The worksheet and the recommendation: figures in tables, answers beside their rules, drafts marked as such."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labctl.records.base import Machine
from labctl.report import (
    advice,
    hardware,
    machine_tables,
    perplexity_tables,
    sweep_tables,
    tables,
    text_tables,
    tradeoffs,
)
from labctl.report.analysis import load_nll
from labctl.report.board import boards
from labctl.report.coursefiles import prompts
from labctl.report.demo_training import training_note
from labctl.report.drafts import (
    for_everyone,
    large_against_small,
    prediction,
    quality_loss,
    surprise_draft,
    surprises,
)
from labctl.report.findings import chunk_words, machines, notices, readings, versions
from labctl.report.gaps import gaps, outputs_name, provenances, record_name
from labctl.report.greedy import LOOP_RULE
from labctl.report.matrix import matrix
from labctl.report.order import ORDER_RULE, Orders
from labctl.report.rules import in_ram, production, to_drop, under_limit
from labctl.report.scoring import (
    MAP_STEPS,
    NORMALISED_RULE,
    PLACES_RULE,
    SCORE_RULE,
    STARS_RULE,
    Weights,
)
from labctl.report.text import counted, escape, prose, table
from labctl.report.uses import minimum_formats, reasoning
from labctl.steps.groups import GROUPS
from labctl.steps.intervals import MEDIAN_INTERVAL_RULE
from labctl.steps.measured import LabRecords

if TYPE_CHECKING:
    from jinja2 import Environment

Rows = Mapping[str, Mapping[str, Any]]
N_QUESTIONS = 18


def context(
    records: LabRecords,
    rows: Rows,
    *,
    weights: Weights,
    limit: float,
    machine: Machine | None,
    charts: Sequence[str],
    answers: Mapping[int, str],
    blank: bool,
    named: str | None = None,
    q13_limits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Everything the templates print, computed once for both.

    Args:
        rows: as from `analysis.rows_of`.
        machine: shown if no record names one.
        charts: names of the charts that were drawn, without ending.
        answers: the student's own words by number of the question.
        blank: leave a line instead of a draft.
        named: the format that the student's answer to Q10 names.
        q13_limits: the student's allowances of Q13; what it leaves out has its default.
    """
    base = records.formats[0]
    orders = Orders(records, rows)
    found_gaps = gaps(records)
    scored = boards(rows, orders, weights)
    q7, uses = reasoning(rows, base, q13_limits or {}), minimum_formats(rows, base, q13_limits or {})
    q10 = production(records, rows, limit)
    q9, q11 = in_ram(records, rows, orders, 8), tradeoffs.sweet_spot(rows, scored)
    picks = {"reasoning": q7, "ram": q9, "balance": q11}
    found_surprises = surprises(records, rows, orders)
    worst, worst_table = text_tables.worst_beside_base(records, rows)
    return {
        "model": records.model.name,
        "base": base,
        "notices": notices(records, "model"),
        "text_notice": records.text.notice if records.text and records.perplexity else "",
        "speed_notices": records.warnings,
        "was_quantized": records.model.quantized,
        "not_original": f" The baseline {base} is not the original model." if records.model.quantized else "",
        "header": header(records, rows, machine),
        "has_gaps": bool(found_gaps),
        "gap_table": tables.gap_table(found_gaps),
        "sources": {group.field: _sources(records, group.field) for group in GROUPS},
        "limit": f"{100 * limit:g} %",
        "charts": list(charts),
        "readings": readings(records, rows, limit),
        "answers": {number: answers.get(number, "") for number in range(1, N_QUESTIONS + 1)},
        "blank": blank,
        "prompts": prompts(records),
        "outputs": outputs_name(records),
        "sampling": tables.sampling(records),
        "q1": tables.sizes(records, rows),
        "q1_notes": tables.size_notes(records),
        "q2": perplexity_tables.perplexities(rows),
        "q2_notes": perplexity_tables.perplexity_notes(records, rows),
        "q3": under_limit(rows, limit),
        "q3_table": perplexity_tables.verdicts(rows),
        "q4": to_drop(rows, orders, limit),
        "q5": text_tables.side_by_side(records),
        "q6": quality_loss(records, rows),
        "q6_same": text_tables.same_tokens(records),
        "q6_worst": worst,
        "q6_worst_table": worst_table,
        "q6_loops": text_tables.looping(records),
        "q6_loop_rule": LOOP_RULE,
        "q6_kl": perplexity_tables.divergences(rows),
        "q6_kl_note": perplexity_tables.divergence_note(records),
        "q6_probes": tables.probes(records, rows),
        "training_note": training_note(records),
        "q7": q7,
        "q7_table": tables.sums(records, rows),
        "q8": machine_tables.speeds(rows),
        "q8_note": machine_tables.speed_note(records, MEDIAN_INTERVAL_RULE),
        "q8_work": hardware.work_table(records, rows),
        "q8_work_note": hardware.WORK_NOTE,
        "q8_batch": sweep_tables.batch_table(records),
        "q8_batch_note": sweep_tables.batch_note(records),
        "q8_threads": sweep_tables.threads_table(records),
        "q8_threads_note": sweep_tables.threads_note(records),
        "q9": q9,
        "q9_table": machine_tables.memories(records, rows),
        "q9_kv": machine_tables.contexts(records),
        "q9_parts": hardware.memory_parts(records),
        "q9_parts_note": hardware.MEMORY_NOTE,
        "matrix": table(
            ("Format", "Size", "Perplexity", "Speed", "Quality", "Best for"),
            matrix(rows, orders, scored, uses),
            left=range(6),
        ),
        "stars_rule": STARS_RULE,
        "order_rule": ORDER_RULE,
        "q10": q10,
        "q11": q11,
        "q12": large_against_small(records, rows),
        "q12_table": tradeoffs.compared(rows, ("Q8_0", "Q4_K_M")),
        "q13": table(
            ("Use", "Allowance", "Least format"),
            ((use, escape(a.rule), escape(a.text)) for use, a in uses),
            left=range(3),
        ),
        "q14": prediction(records, rows, load_nll(records)),
        "q14_table": tradeoffs.prediction(records, rows),
        "weights": [f"{100 * weight:g}" for weight in weights],
        "q15": tradeoffs.score_words(rows, scored),
        "q15_table": tradeoffs.scores(rows, scored),
        "score_rule": SCORE_RULE,
        "places_rule": PLACES_RULE,
        "normalised_rule": NORMALISED_RULE,
        "q16": tradeoffs.change_words(rows, scored, (0.2, 0.3, 0.5)),
        "q16_map": tradeoffs.winners(scored.normalised) if scored.comparable else "",
        "q16_shares": tradeoffs.shares(scored),
        "map_points": (MAP_STEPS + 1) * (MAP_STEPS + 2) // 2,
        "q17_found": found_surprises,
        "q17": surprise_draft(rows, found_surprises),
        "q18": for_everyone(records, rows, q10),
        "pick": q10.pick,
        "choice": f"The rule: {q10.rule[0].lower()}{q10.rule[1:]}" if q10.pick else q10.text,
        "named": advice.by_the_figures(rows, named, limit) if named is not None and named != q10.pick else "",
        "why": advice.why(rows, q10.pick, base, limit) if q10.pick else [],
        "costs": advice.costs(records, rows, q10.pick),
        "others": advice.others(rows, orders, q10.pick, base, picks),
        "caveats": advice.caveats(records, rows, machine, found_gaps, limit),
        "table": tradeoffs.summary(rows),
    }


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill one of the templates; blank lines are never doubled."""
    text = _environment().get_template(template).render(values)
    lines: list[str] = []
    for line in text.split("\n"):
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines).rstrip("\n") + "\n"


def header(records: LabRecords, rows: Rows, machine: Machine | None) -> str:
    """Model, text, machine, versions and date, as a table of two columns."""
    # A file's folder is nobody's business, and no part of the measurement.
    spec = records.model.spec if records.model.origin in ("demo", "hub") else re.split(r"[/\\]", records.model.spec)[-1]
    lines = [("Model", f"{escape(records.model.name)} ({escape(spec)})")]
    if records.text is not None:
        covered = chunk_words(rows, records)
        lines.append(("Text", escape(records.text.name) + (f"; {covered}" if covered else "; not measured yet")))
    for one in machines(records) or ((machine,) if machine else ()):
        cores = f"{counted(one.n_cores_physical, 'core')} ({counted(one.n_cores_logical, 'thread')})"
        limits = f"; {one.limits}" if one.limits else ""
        ram = f"{one.ram_bytes / 1024**3:.1f} GiB RAM"
        lines.append(("Machine", escape(f"{one.cpu_model}, {cores}, {ram}, {one.os}, {one.arch}{limits}")))
    lines += [(name, escape(found)) for name, found in hardware.conditions_lines(records)]
    known = versions(records)
    if known:
        lines.append(("Versions", escape(", ".join(f"{package} {version}" for package, version in known.items()))))
    dated = provenances(records)
    if dated:
        lines.append(("Newest record", escape(dated[-1].created_at)))
    return table(("Lab", ""), lines, left=(0, 1))


def _sources(records: LabRecords, step: str) -> str:
    """The record files behind a table, the formats of one step in braces."""
    found: dict[str, list[str]] = {}
    for name in records.formats:
        path = record_name(records, step, name)
        if path is not None:
            found.setdefault(path.removesuffix(f"-{name}.json"), []).append(name)
    listed = {start: names[0] if len(names) == 1 else "{" + ",".join(names) + "}" for start, names in found.items()}
    return ", ".join(f"`{escape_code(f'{start}-{names}.json')}`" for start, names in listed.items())


def escape_code(name: str) -> str:
    """A file name that cannot end its own code span."""
    return name.replace("`", "'").replace("\n", " ")


def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("labctl.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # the output is Markdown: `escape` does it, by the filter md
    )
    environment.filters["md"] = escape
    environment.filters["prose"] = prose
    return environment
