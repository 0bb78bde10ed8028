"""Q2: the perplexities and their increase."""

from __future__ import annotations

from labctl.report import perplexity_tables
from labctl.report.questions.base import Question

QUESTION = Question(
    number=2,
    title="What is the perplexity of each format, and its increase over {base}?",
    kind="measured",
    values=lambda sheet: {
        "table": perplexity_tables.perplexities(sheet.figures),
        "notes": [
            *perplexity_tables.perplexity_notes(sheet.records, sheet.figures),
            *filter(None, [perplexity_tables.noise_note(sheet.figures, sheet.base)]),
        ],
    },
    template="""\
{{ table }}

{{ source("perplexity") }}
{% for note in notes %}

{{ note | prose }}
{% endfor %}
{{ charts_at("Q2") }}

{{ own() }}
""",
)
