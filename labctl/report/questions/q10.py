"""Q10: one format for production."""

from __future__ import annotations

from labctl.report.questions.base import Question

QUESTION = Question(
    number=10,
    title="Which one format for production, and why?",
    kind="weighed",
    values=lambda sheet: {"answer": sheet.production},
    template="""\
{{ ruled(answer) }}
""",
)
