"""Q15: the combined score."""

from __future__ import annotations

from labctl.report import tradeoffs
from labctl.report.questions.base import Question
from labctl.report.scoring import NORMALISED_RULE, PLACES_RULE, SCORE_RULE

QUESTION = Question(
    number=15,
    title=(
        "Which format has the highest score with size {weights[0]:g} %, quality {weights[1]:g} %,"
        " speed {weights[2]:g} %?"
    ),
    kind="measured",
    values=lambda sheet: {
        "answer": tradeoffs.score_words(sheet.figures, sheet.boards),
        "table": tradeoffs.scores(sheet.figures, sheet.boards),
        "score_rule": SCORE_RULE,
        "places_rule": PLACES_RULE,
        "normalised_rule": NORMALISED_RULE,
    },
    template="""\
{{ table }}

<sub>From the tables of Q1, Q2 and Q8. Normalised terms: size / quality / speed.{{ not_original | md }}</sub>

**Answer:** {{ answer | prose }}{{ not_original | md }}

*Literal score, as the course defines it: {{ score_rule | prose }}*

*Normalised score: {{ normalised_rule | prose }}*

*Places: {{ places_rule | md }}*

{{ own() }}
""",
)
