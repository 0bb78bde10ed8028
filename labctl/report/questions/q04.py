"""Q4: what to drop on perplexity alone."""

from __future__ import annotations

from labctl.report import perplexity_tables
from labctl.report.questions.base import Question
from labctl.report.rules import to_drop
from labctl.report.sheet import Sheet


def values(sheet: Sheet) -> dict[str, object]:
    """What the section prints."""
    table, told = perplexity_tables.pairs(sheet.orders.ppl)
    return {"answer": to_drop(sheet.figures, sheet.orders, sheet.limit), "table": table, "told": told}


QUESTION = Question(
    number=4,
    title="Which format would you drop from production on perplexity alone?",
    kind="rule",
    values=values,
    template="""\
{% call ruled(answer) %}
{% if table %}
Every two formats against each other, on the chunks that both read: by how much the perplexity of the format at the
left lies above that of the format at the top, for text like this. The intervals hold for all pairs together (95 %,
Bonferroni), so each is wider than it would be alone; pairs in small grey print are not told apart. {{ told | prose }}

{{ table }}

{{ source("perplexity") }}
{% endif %}
{% endcall %}
""",
)
