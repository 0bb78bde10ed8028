"""Q8: the speeds."""

from __future__ import annotations

from labctl.report import hardware, machine_tables, sweep_tables
from labctl.report.questions.base import Question

QUESTION = Question(
    number=8,
    title="How fast does each format generate text, and how many times faster than {base}?",
    kind="measured",
    values=lambda sheet: {
        "table": machine_tables.speeds(sheet.figures),
        "note": machine_tables.speed_note(sheet.records),
        "work": hardware.work_table(sheet.records, sheet.figures),
        "work_note": hardware.WORK_NOTE,
        "batch": sweep_tables.batch_table(sheet.records),
        "batch_note": sweep_tables.batch_note(sheet.records),
        "threads": sweep_tables.threads_table(sheet.records),
        "threads_note": sweep_tables.threads_note(sheet.records),
    },
    template="""\
{{ table }}

{{ source("bench") }}

{{ note | prose }}
{{ charts_at("Q8") }}
{% if work %}

What the tests ask of the machine:

{{ work }}

{{ work_note | prose }}
{% endif %}
{{ charts_at("Q8 work") }}
{% if batch %}

Several sequences side by side:

{{ batch }}

{{ source("batch") }}

{{ batch_note | prose }}
{% endif %}
{% if threads %}

Different numbers of threads:

{{ threads }}

{{ source("threads") }}

{{ threads_note | prose }}
{% endif %}

{{ own() }}
""",
)
