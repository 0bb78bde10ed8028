"""Q3: which formats pass the limit."""

from __future__ import annotations

from labctl.report import perplexity_tables
from labctl.report.questions.base import Question
from labctl.report.rules import under_limit

QUESTION = Question(
    number=3,
    title="Which formats stay under an increase of {limit}?",
    kind="rule",
    values=lambda sheet: {
        "answer": under_limit(sheet.figures, sheet.limit),
        "table": perplexity_tables.verdicts(sheet.figures),
    },
    template="""\
{% call ruled(answer) %}
{{ table }}

{{ source("perplexity") }}
{% endcall %}
""",
)
