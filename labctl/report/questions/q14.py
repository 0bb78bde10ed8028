"""Q14: whether perplexity predicts quality."""

from __future__ import annotations

from labctl.report import tradeoffs
from labctl.report.drafts import prediction
from labctl.report.questions.base import Question
from labctl.steps.perplexity.figures import load_nll

QUESTION = Question(
    number=14,
    title="Does perplexity alone predict the quality of generated text?",
    kind="judged",
    values=lambda sheet: {
        "draft": prediction(sheet.records, sheet.figures, load_nll(sheet.records)),
        "table": tradeoffs.prediction(sheet.records, sheet.figures),
    },
    template="""\
{{ table }}

<sub>From the tables of Q2 and Q6.{{ not_original | md }}</sub>
{{ see_training() }}

{{ drafted(draft) }}
""",
)
