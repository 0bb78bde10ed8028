"""Q12: a large against a small format."""

from __future__ import annotations

from labctl.report import tradeoffs
from labctl.report.drafts import large_against_small
from labctl.report.questions.base import Question

QUESTION = Question(
    number=12,
    title="For which uses does Q8_0 beat Q4_K_M?",
    kind="judged",
    values=lambda sheet: {
        "draft": large_against_small(sheet.records, sheet.figures),
        "table": tradeoffs.compared(sheet.figures, ("Q8_0", "Q4_K_M")),
    },
    template="""\
{{ table }}

<sub>From the tables of Q1, Q2, Q6, Q8 and Q9.{{ not_original | md }}</sub>
{{ see_training() }}

{{ drafted(draft) }}
""",
)
