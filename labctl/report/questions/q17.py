"""Q17: the most surprising finding."""

from __future__ import annotations

from labctl.report.drafts import surprise_draft, surprises
from labctl.report.questions.base import Question
from labctl.report.sheet import Sheet


def values(sheet: Sheet) -> dict[str, object]:
    """What the section prints."""
    surprising = surprises(sheet.records, sheet.figures, sheet.orders)
    return {"surprises": surprising, "draft": surprise_draft(sheet.figures, surprising)}


QUESTION = Question(
    number=17,
    title="What is the most surprising finding?",
    kind="judged",
    values=values,
    template="""\
{% if surprises %}
Evidence: figures that go against the expected order (smaller is faster, of higher perplexity, and answers less).

{% for finding in surprises %}
- {{ finding | prose }}
{% endfor %}

{% endif %}
{{ drafted(draft) }}
""",
)
