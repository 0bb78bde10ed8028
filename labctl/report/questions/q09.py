"""Q9: what fits in 8 GB."""

from __future__ import annotations

from labctl.report import hardware, machine_tables
from labctl.report.questions.base import Question

QUESTION = Question(
    number=9,
    title="Which format with only 8 GB of RAM?",
    kind="rule",
    values=lambda sheet: {
        "answer": sheet.in_8_gb,
        "table": machine_tables.memories(sheet.records, sheet.figures),
        "kv": machine_tables.contexts(sheet.records),
        "parts": hardware.memory_parts(sheet.records),
        "parts_note": hardware.MEMORY_NOTE,
    },
    template="""\
{{ table }}

With mmap on, llama.cpp maps the file and the system reads its pages when they are needed; with mmap off, the whole
file is first copied into memory. Peaks without a remark are with mmap off.

{{ source("memory") }}

{{ ruled(answer) }}
{% if kv %}

The KV cache (what the model remembers of the conversation) at other context sizes, and the verdict for 8 GB:

{{ kv }}

<sub>Computed from the model's shape and the measured peaks.</sub>
{% endif %}
{% if parts %}

What the peak is made of:

{{ parts }}

{{ parts_note | prose }}
{% endif %}
{{ charts_at("Q9") }}

For other memory sizes, contexts and models: `labctl fit --ram 16 --ctx 8192 --params 7B`.
""",
)
