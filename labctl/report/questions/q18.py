"""Q18: the trade-off for everyone."""

from __future__ import annotations

from labctl.report.drafts import for_everyone
from labctl.report.questions.base import Question

QUESTION = Question(
    number=18,
    title="How would you explain the trade-off of size and quality to somebody non-technical?",
    kind="judged",
    values=lambda sheet: {"draft": for_everyone(sheet.records, sheet.figures, sheet.production)},
    template="""\
{{ drafted(draft) }}
""",
)
