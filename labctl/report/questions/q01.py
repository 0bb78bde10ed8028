"""Q1: the sizes of the files."""

from __future__ import annotations

from labctl.report import tables
from labctl.report.questions.base import Question

QUESTION = Question(
    number=1,
    title="How large is each file, and how many times smaller than {base}?",
    kind="measured",
    values=lambda sheet: {
        "table": tables.sizes(sheet.records, sheet.figures),
        "notes": tables.size_notes(sheet.records),
    },
    template="""\
{{ table }}

{{ source("quantize") }}

1 GB = 1,000,000,000 bytes. bpw: bits per weight, over all tensors. Contents: share of the bytes by tensor type;
mixed formats such as Q4_K_M keep some tensors in a larger type on purpose.
{% for note in notes %}

⚠ {{ note | prose }}
{% endfor %}

{{ own() }}
""",
)
