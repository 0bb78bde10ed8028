"""Q7: the smallest format for reasoning."""

from __future__ import annotations

from labctl.report import tables
from labctl.report.questions.base import Question

QUESTION = Question(
    number=7,
    title="What is the smallest format acceptable for reasoning?",
    kind="rule",
    values=lambda sheet: {"answer": sheet.reasoning, "table": tables.sums(sheet.records, sheet.figures)},
    template="""\
{{ table }}

{{ source("generate") }}
{{ see_training() }}

{{ ruled(answer) }}
""",
)
