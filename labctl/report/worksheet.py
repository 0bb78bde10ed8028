"""The worksheet and the recommendation: figures in tables, answers beside their rules, drafts marked as such."""

from __future__ import annotations

import re

from labctl import steps
from labctl.records.base import Machine
from labctl.report import advice, hardware, tables, tradeoffs
from labctl.report.coursefiles import prompts
from labctl.report.figures import Figures
from labctl.report.findings import chunk_words, machines, notices, versions
from labctl.report.gaps import outputs_name, provenances, record_name
from labctl.report.jinja import environment
from labctl.report.own_prompts import how_given, own_prompts
from labctl.report.questions import PARTS, QUESTIONS
from labctl.report.questions.base import Kind, Question
from labctl.report.sheet import Sheet
from labctl.report.text import counted, escape, table, words
from labctl.steps.measured import Measured

_MACROS = '{% from "macros.md.j2" import own, ruled, drafted, source, charts_at, see_training with context %}\n'


def render_worksheet(sheet: Sheet) -> str:
    """worksheet.md: every question in its part."""
    common = _common(sheet)
    parts = [
        {
            "title": part.title,
            "intro": _filled(part.intro, common | part.values(sheet)),
            "sections": [_section(sheet, question, common) for question in part.questions],
        }
        for part in PARTS
    ]
    records = sheet.records
    return _rendered(
        "worksheet.md.j2",
        common
        | {
            "was_quantized": records.model.quantized,
            "header": header(records, sheet.figures, sheet.machine),
            "gap_table": tables.gap_table(sheet.gaps) if sheet.gaps else "",
            "numbers": {
                "measured": _numbers("measured"),
                "by_rule": _numbers("rule", "weighed"),
                "weighed": _numbers("weighed"),
                "judged": _numbers("judged"),
            },
            "parts": parts,
            "prompts": prompts(records),
            "own_prompts": own_prompts(records),
            "how_given": how_given(records),
            "outputs": outputs_name(records),
        },
    )


def render_recommendation(sheet: Sheet, named: str | None = None) -> str:
    """recommendation.md.

    Args:
        named: the format that the student's answer to Q10 names.
    """
    figures, q10, base = sheet.figures, sheet.production, sheet.base
    picks = {"reasoning": sheet.reasoning, "ram": sheet.in_8_gb, "balance": sheet.sweet_spot}
    return _rendered(
        "recommendation.md.j2",
        _common(sheet)
        | {
            "own_choice": sheet.answers.get(10, ""),
            "pick": q10.pick,
            "choice": f"The rule: {q10.rule[0].lower()}{q10.rule[1:]}" if q10.pick else q10.text,
            "named": advice.by_the_figures(figures, named, sheet.limit) if named not in (None, q10.pick) else "",
            "why": advice.why(figures, q10.pick, base, sheet.limit) if q10.pick else [],
            "costs": advice.costs(sheet.records, figures, q10.pick),
            "others": advice.others(figures, sheet.orders, q10.pick, base, picks),
            "caveats": advice.caveats(sheet.records, figures, sheet.machine, sheet.gaps, sheet.limit),
            "table": tradeoffs.summary(figures),
        },
    )


def _common(sheet: Sheet) -> dict[str, object]:
    """What every section may print."""
    records = sheet.records
    return {
        "model": records.model.name,
        "base": sheet.base,
        "notices": notices(records, "model"),
        "not_original": sheet.not_original,
        "sources": {name: _sources(records, name) for name in steps.TABLE},
        "charts": sheet.charts,
        "blank": sheet.blank,
        "training_note": sheet.training_note,
    }


def _section(sheet: Sheet, question: Question, common: dict[str, object]) -> str:
    values = common | question.values(sheet) | {"own_words": sheet.answers.get(question.number, "")}
    return f"### {question.name}. {question.asked(sheet)}\n\n{_filled(question.template, values)}"


def _numbers(*kinds: Kind) -> str:
    """Q1, Q2 and Q5: the questions of these kinds."""
    return words(question.name for question in QUESTIONS.values() if question.kind in kinds)


def _filled(template: str, values: dict[str, object]) -> str:
    return environment("labctl.report").from_string(_MACROS + template).render(values).strip("\n")


def _rendered(template: str, values: dict[str, object]) -> str:
    """Fill one of the templates; blank lines are never doubled."""
    text = environment("labctl.report").get_template(template).render(values)
    lines: list[str] = []
    for line in text.split("\n"):
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines).rstrip("\n") + "\n"


def header(records: Measured, figures: Figures, machine: Machine | None) -> str:
    """Model, text, machine, versions and date, as a table of two columns."""
    # A file's folder is nobody's business, and no part of the measurement.
    spec = records.model.spec if records.model.origin in ("demo", "hub") else re.split(r"[/\\]", records.model.spec)[-1]
    lines = [("Model", f"{escape(records.model.name)} ({escape(spec)})")]
    if records.text is not None:
        covered = chunk_words(figures, records)
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


def _sources(records: Measured, step: str) -> str:
    """The record files behind a table, the formats of one step in braces."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in records.formats:
        path = record_name(records, step, name)
        if path is not None:
            start, _, end = path.rpartition(f"-{name}")
            found.setdefault((start, end), []).append(name)
    listed = {ends: names[0] if len(names) == 1 else "{" + ",".join(names) + "}" for ends, names in found.items()}
    return ", ".join(f"`{escape_code(f'{start}-{names}{end}')}`" for (start, end), names in listed.items())


def escape_code(name: str) -> str:
    """A file name that cannot end its own code span."""
    return name.replace("`", "'").replace("\n", " ")
