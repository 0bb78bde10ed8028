"""The worksheet's questions, in the parts that they stand in: a new one is its module, and its place in PARTS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labctl.report.coursefiles import prompts
from labctl.report.gaps import outputs_name
from labctl.report.matrix import matrix
from labctl.report.order import ORDER_RULE
from labctl.report.questions import (
    q01,
    q02,
    q03,
    q04,
    q05,
    q06,
    q07,
    q08,
    q09,
    q10,
    q11,
    q12,
    q13,
    q14,
    q15,
    q16,
    q17,
    q18,
)
from labctl.report.questions.base import Question
from labctl.report.scoring import STARS_RULE
from labctl.report.sheet import Sheet
from labctl.report.tables import sampling
from labctl.report.text import table
from labctl.steps.perplexity.step import PERPLEXITY


def nothing(_sheet: Sheet) -> dict[str, object]:
    return {}


def _text(sheet: Sheet) -> dict[str, object]:
    records = sheet.records
    return {"text_notice": records.text.notice if records.text and records.of(PERPLEXITY) else ""}


def _samples(sheet: Sheet) -> dict[str, object]:
    records = sheet.records
    return {"prompts": prompts(records), "sampling": sampling(records), "outputs": outputs_name(records)}


def _speed(sheet: Sheet) -> dict[str, object]:
    return {"speed_notices": sheet.records.warnings}


def _matrix(sheet: Sheet) -> dict[str, object]:
    header = ("Format", "Size", "Perplexity", "Speed", "Quality", "Best for")
    lines = matrix(sheet.figures, sheet.orders, sheet.boards, sheet.uses)
    return {"matrix": table(header, lines, left=range(6)), "stars_rule": STARS_RULE, "order_rule": ORDER_RULE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the worksheet.

    Attributes:
        intro: what stands before its first question, in Jinja and Markdown; `values` is what it prints.
    """

    title: str
    questions: tuple[Question, ...]
    intro: str = ""
    values: Callable[[Sheet], dict[str, object]] = nothing


PARTS = (
    Part(title="Part 1: quantize", questions=tuple(module.QUESTION for module in (q01,))),
    Part(
        title="Part 2: perplexity",
        questions=tuple(module.QUESTION for module in (q02, q03, q04)),
        values=_text,
        intro="""\
{% if text_notice %}

> **Note: {{ text_notice | prose }}**
{% endif %}
""",
    ),
    Part(
        title="Part 3: quality of the text",
        questions=tuple(module.QUESTION for module in (q05, q06, q07)),
        values=_samples,
        intro="""\
{% if prompts %}
Prompts:

{% for number, prompt in prompts.items() %}
{{ number }}. {{ prompt | md }}
{% endfor %}

{{ sampling }} Full texts: `{{ outputs }}/<format>/prompt_<n>.txt`.
{% else %}
No text was generated.
{% endif %}
""",
    ),
    Part(
        title="Part 4: speed and memory",
        questions=tuple(module.QUESTION for module in (q08, q09)),
        values=_speed,
        intro="""\
{% for notice in speed_notices %}

> **Note: {{ notice | prose }}**
{% endfor %}
""",
    ),
    Part(
        title="Part 5: trade-offs",
        questions=tuple(module.QUESTION for module in (q10, q11, q12, q13, q14)),
        values=_matrix,
        intro="""\
### Decision matrix

{{ matrix }}

<sub>From the tables of Q1, Q2, Q6 and Q8.{{ not_original | md }}</sub>

Rules for the stars:
{% for rule in stars_rule %}

- {{ rule | prose }}
{%- endfor %}


{{ "" }}
*Rule for first places: {{ order_rule | md }}*

{{ charts_at("trade-offs") }}
""",
    ),
    Part(title="Challenge: a combined score", questions=tuple(module.QUESTION for module in (q15, q16))),
    Part(title="Reflection", questions=tuple(module.QUESTION for module in (q17, q18))),
)
QUESTIONS = {question.number: question for part in PARTS for question in part.questions}
"""Number -> question."""
PRODUCTION = q10.QUESTION
"""The question that the recommendation answers."""


def asked_for_judgement() -> tuple[Question, ...]:
    """Questions that ask for the student's own words."""
    return tuple(question for question in QUESTIONS.values() if question.kind == "judged")
