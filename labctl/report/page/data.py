"""What the page's sliders and comparisons need to know, as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from labctl.lab.config import Weights
from labctl.records.digests import digest
from labctl.report.board import boards
from labctl.report.charts.plot import look
from labctl.report.coursefiles import prompts
from labctl.report.figures import Cell, Figures, FormatFigures, cells
from labctl.report.fit import COMFORTABLE, GIB, TOO_LONG, kv_bytes_at, trained_for
from labctl.report.gaps import mislabelled
from labctl.report.order import Orders
from labctl.report.own_prompts import own_texts
from labctl.report.scoring import Leads
from labctl.report.text import printable
from labctl.steps.generate.answers import first_divergence, split_text
from labctl.steps.generate.record import Generation
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.quantize.step import QUANTIZE

_FIGURES = (
    *("size_bytes", "ppl", "ppl_increase_pct", "ppl_increase_low_pct", "ppl_increase_high_pct"),
    *("tg_tps", "tg_low_tps", "tg_high_tps", "pp_tps", "pp_low_tps", "pp_high_tps", "peak_rss_bytes"),
)


def page_data(records: Measured, figures: Figures, weights: Weights, limit: float) -> dict[str, Any]:
    """Figures, memory and texts of every format.

    Args:
        weights: what the sliders start at.
        limit: largest acceptable increase of perplexity, as a fraction.
    Returns: values that JSON can hold; a figure that was not measured is None.
    """
    outputs, marked = _outputs(records), mislabelled(records)
    literal = boards(figures, Orders(records, figures), weights).literal
    return {
        "model": printable(records.model.name),
        "base": records.formats[0],
        "limit_pct": 100 * limit,
        "weights": list(weights),
        "formats": [
            {
                "name": name,
                "marked": name in marked,
                "color": look(name).color,
                "marker": look(name).marker,
                "verdict": figures[name].verdict,
                **_numbers(figures[name]),
                "memory": _memory(records, name),
            }
            for name in records.formats
        ],
        "candidates": [{"format": score.format, "terms": list(score.terms)} for score in literal.scores],
        "leads": _leads(literal.leads),
        "fit": {"gib": GIB, "comfortable": COMFORTABLE, "n_ctx_train": trained_for(records), "too_long": TOO_LONG},
        "outputs": outputs,
        "outputs_key": digest({"model": records.model.name, "outputs": outputs})[:16],
    }


def as_json(data: Mapping[str, object]) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or a line."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _numbers(row: FormatFigures) -> dict[str, float | None]:
    values = cells(row)
    return {column: _figure(values[column]) for column in _FIGURES}


def _figure(value: Cell) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _leads(leads: Leads) -> dict[str, dict[str, list[float | None]]]:
    """Format -> other format -> how much each term is at least above the other's; None for no bound."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for (one, other), terms in leads.items():
        found.setdefault(one, {})[other] = [_figure(term) for term in terms]
    return found


def _memory(records: Measured, name: str) -> dict[str, object] | None:
    """The part of fit.py's arithmetic that is known in advance: peak, and the KV cache by context."""
    run = records.of(MEMORY).get(name)
    load = next((one for one in run.loads if not one.mmap), None) if run else None
    if run is None or load is None:
        return None
    file = records.of(QUANTIZE).get(name)
    return {
        "peak_bytes": load.peak_rss_bytes,
        "n_ctx": run.n_ctx,
        "kv_measured_bytes": kv_bytes_at(records, name, run.n_ctx),
        "kv_bytes_per_token": None if file is None else file.shape.kv_bytes(1),
        "kv_load_bytes": load.kv_bytes,
    }


def _outputs(records: Measured) -> list[dict[str, object]]:
    """Texts by prompt, way of choosing tokens and format; each split at the first token that is not the baseline's."""
    base = records.of(GENERATE).get(records.formats[0])
    found: list[dict[str, object]] = []
    for number, prompt in prompts(records).items():
        entry: dict[str, object] = {"number": number, "prompt": printable(prompt, newline="\n")}
        for decoding in ("greedy", "sampled"):
            theirs = base.find(number, decoding) if base else None
            entry[decoding] = {
                name: _split(mine, theirs)
                for name in records.formats
                if name in records.of(GENERATE)
                and (mine := records.of(GENERATE)[name].find(number, decoding)) is not None
            }
        found.append(entry)
    return found + _own_outputs(records)


def _own_outputs(records: Measured) -> list[dict[str, object]]:
    """The same of the student's own prompts, with the prompt as it was typed."""
    base = {
        (text.prompt_number, text.decoding): text for name, text in own_texts(records) if name == records.formats[0]
    }
    found: dict[int, dict[str, Any]] = {}
    for name, text in own_texts(records):
        entry = found.setdefault(
            text.prompt_number,
            {
                "number": text.prompt_number,
                "prompt": printable(text.prompt, newline="\n") + "\n",
                "greedy": {},
                "sampled": {},
            },
        )
        entry[text.decoding][name] = _split(text, base.get((text.prompt_number, text.decoding)))
    return [found[number] for number in sorted(found)]


def _split(mine: Generation, base: Generation | None) -> dict[str, object]:
    same, first, rest = split_text(mine, base)
    return {
        "text": printable(mine.text, newline="\n"),
        "same": printable(same, newline="\n"),
        "first": None if first is None else printable(first, newline="\n"),
        "rest": printable(rest, newline="\n"),
        "n_same": None if base is None else first_divergence(mine, base).n_same,
        "n_tokens": len(mine.tokens if base is None else base.tokens),
    }
