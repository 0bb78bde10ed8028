"""Q6: whether quality loss is visible."""

from __future__ import annotations

from labctl.report import perplexity_tables, tables, text_tables
from labctl.report.drafts import quality_loss
from labctl.report.greedy import LOOP_RULE
from labctl.report.questions.base import Question
from labctl.report.sheet import Sheet


def values(sheet: Sheet) -> dict[str, object]:
    """What the section prints."""
    worst, worst_table = text_tables.worst_beside_base(sheet.records, sheet.figures)
    return {
        "draft": quality_loss(sheet.records, sheet.figures),
        "same": text_tables.same_tokens(sheet.records),
        "worst": worst,
        "worst_table": worst_table,
        "loops": text_tables.looping(sheet.records),
        "loop_rule": LOOP_RULE,
        "kl": perplexity_tables.divergences(sheet.figures),
        "kl_note": perplexity_tables.divergence_note(sheet.records),
        "probes": tables.probes(sheet.records, sheet.figures),
    }


QUESTION = Question(
    number=6,
    title="Is quality loss visible, and in which formats?",
    kind="judged",
    values=values,
    template="""\
Evidence: how many tokens of each greedy text are {{ base }}'s before the first difference, of how many in
{{ base }}'s text ("all": the texts are the same to the end).

{{ same }}

{% if worst %}
Evidence: the greedy texts of {{ worst }} beside {{ base }}'s (Prompt 2 stands in Q5). The page `index.html`
has all texts side by side, and a blind comparison.

{{ worst_table }}

{% endif %}
{% if loops %}
Evidence: texts that go round in circles.

{{ loops }}

{{ loop_rule | prose }}.

{% endif %}
{% if kl %}
Evidence: predictions on the text, compared with {{ base }}'s token by token.

{{ kl }}

{{ source("divergence") }}

{{ kl_note | prose }}

{% endif %}
Evidence: questions with known answers (probes), with a 95 % Wilson interval of the share that is right.

{{ probes }}

{{ source("generate") }}

{% if training_note %}
⚠ {{ training_note | prose }}

{% endif %}
Lost: answers that {{ base }} has right and the format has wrong; gained: the reverse. The last column is the
probability of so uneven a split if losing and gaining were equally likely (McNemar's exact test); under 5 % is taken
as beyond chance. A probe of your own is a CSV file in `lab_data/probes/` with the columns prompt and answer; `labctl
run` asks it of every format.

{{ drafted(draft) }}
""",
)
