"""Q16: other weights."""

from __future__ import annotations

from labctl.report import tradeoffs
from labctl.report.questions.base import Question
from labctl.report.scoring import MAP_STEPS

QUESTION = Question(
    number=16,
    title="Does the winner change with speed 50 %, size 20 %, quality 30 %?",
    kind="measured",
    values=lambda sheet: {
        "answer": tradeoffs.change_words(sheet.figures, sheet.boards, (0.2, 0.3, 0.5)),
        "map": tradeoffs.winners(sheet.boards.normalised) if sheet.boards.comparable else "",
        "shares": tradeoffs.shares(sheet.boards),
        "n_points": (MAP_STEPS + 1) * (MAP_STEPS + 2) // 2,
    },
    template="""\
**Answer:** {{ answer | prose }}{{ not_original | md }}
{% if map %}

Highest normalised score for every division of the weights (quality has what size and speed leave); where several
formats stand, they are not told apart:

{{ map }}

Share of all divisions of the weights at which each format has the highest score, and at which the intervals leave no
other first place (grid of {{ n_points }} points):

{{ shares }}
{{ charts_at("Q16") }}
{% endif %}

{{ own() }}
""",
)
