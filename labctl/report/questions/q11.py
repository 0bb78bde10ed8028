"""Q11: the sweet spot."""

from __future__ import annotations

from labctl.report.questions.base import Question

QUESTION = Question(
    number=11,
    title="Where is the sweet spot of size, quality and speed?",
    kind="weighed",
    values=lambda sheet: {"answer": sheet.sweet_spot},
    template="""\
{{ ruled(answer) }}
""",
)
