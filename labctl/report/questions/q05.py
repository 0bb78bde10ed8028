"""Q5: one prompt side by side."""

from __future__ import annotations

from labctl.report import text_tables
from labctl.report.questions.base import Question

QUESTION = Question(
    number=5,
    title="Prompt 2 side by side",
    kind="measured",
    values=lambda sheet: {
        "table": text_tables.side_by_side(sheet.records),
        "written": text_tables.written_together(sheet.records),
    },
    template="""\
{{ table }}

{{ source("generate") }}

"Greedy" always takes the most likely token, so the first token that differs (bold) is the model's own change of mind,
not the dice. ⏎ marks a line end.{{ written }}

{{ own() }}
""",
)
