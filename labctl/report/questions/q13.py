"""Q13: the least format for each use."""

from __future__ import annotations

from labctl.report.questions.base import Question
from labctl.report.text import escape, table

QUESTION = Question(
    number=13,
    title="What is the least format acceptable for each use?",
    kind="weighed",
    values=lambda sheet: {
        "table": table(
            ("Use", "Allowance", "Least format"),
            ((use, escape(answer.rule), escape(answer.text)) for use, answer in sheet.uses),
            left=range(3),
        )
    },
    template="""\
{{ own() }}

**Answer by rule{{ ", for comparison" if own_words }}:**

{{ table }}

<sub>From the tables of Q1, Q2, Q6 and Q7.{{ not_original | md }}</sub>
{{ see_training() }}

*Rule: the smallest file within all allowances of the use. The allowances are a convention of this lab, to be argued
with: change them in `lab.toml` under `[q13_limits]`. Code and stories themselves are not measured here.*
""",
)
