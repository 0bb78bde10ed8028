"""reports/<model>/index.html: worksheet, recommendation and what can be tried out, in one file that asks nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from labctl.report.markup import to_html
from labctl.report.pagedata import as_json, page_data
from labctl.report.plot import without_notices
from labctl.report.rules import Answer
from labctl.report.scoring import Weights
from labctl.report.text import interval, known, percent, printable, rate, shortened, significant, size, speedup_words
from labctl.steps.measured import LabRecords

Rows = Mapping[str, Mapping[str, Any]]
_SCRIPTS = ("page_score.js", "page_explore.js", "page_outputs.js")


def render_page(
    records: LabRecords,
    rows: Rows,
    *,
    worksheet: str,
    recommendation: str,
    charts: Mapping[str, bytes],
    pick: Answer,
    own_choice: str,
    weights: Weights,
    limit: float,
) -> str:
    """The page as HTML.

    Args:
        rows: as from `analysis.rows_of`.
        worksheet, recommendation: the finished Markdown: the page says what they say.
        charts: file name -> contents; the SVG files stand in for the PNG files that the worksheet names.
        pick: the rule's answer to Q10, said on top.
        own_choice: the student's answer to Q10; it then stands before the rule's.
        weights: what the sliders start at.
        limit: largest acceptable increase of perplexity, as a fraction.
    """
    import jinja2

    images = {name.removesuffix(".svg") + ".png": _image(svg) for name, svg in charts.items() if name.endswith(".svg")}
    data = page_data(records, rows, weights, limit)
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(name) for name in _SCRIPTS) + "})();\n"
    # Only this very script may run, whatever a model or a prompt brings into the page.
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("labctl.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    return environment.get_template("page.html.j2").render(
        model=printable(records.model.name),
        base=printable(records.formats[0]),
        own_choice=shortened(printable(own_choice), 200),
        lead=f"For production: {printable(pick.pick)}" if pick.pick else printable(pick.text),
        pick=pick.pick,
        tiles=_tiles(rows, pick.pick, records.formats[0]),
        foot="Made by labctl. This file holds everything it shows and asks nothing from any server.",
        recommendation=to_html(recommendation, images, shift=1, prefix="recommendation-"),
        worksheet=to_html(worksheet, images, shift=1),
        has_outputs=bool(data["outputs"]),
        css=_asset("page.css"),
        data=as_json(data),
        script=script,
        script_hash=f"sha256-{script_hash}",
    )


def _tiles(rows: Rows, pick: str | None, base: str) -> list[tuple[str, str, str]]:
    """What the pick is like at a glance: name, figure, what it means against the baseline."""
    if pick is None:
        return []
    row = rows[pick]
    tiles = []
    if known(row["size_bytes"]):
        ratio = row["compression_ratio"]
        small = f"{significant(ratio)} times smaller than {base}" if known(ratio) and ratio > 1 else "the baseline"
        tiles.append(("File", size(row["size_bytes"]), small))
    if known(row["ppl_increase_pct"]):
        spread = interval(row["ppl_increase_low_pct"], row["ppl_increase_high_pct"])
        words = f"over {base} on {row['n_pairs']:.0f} chunks, 95 % interval {spread}"
        tiles.append(("Perplexity", percent(row["ppl_increase_pct"]), words))
    if known(row["tg_tps"]):
        compared = known(row["speedup"]) and pick != base
        words = f"{speedup_words(row)} {base}" if compared else "generating text"
        tiles.append(("Tokens per second", rate(row["tg_tps"]), words))
    if known(row["peak_rss_bytes"]):
        words = f"at {row['memory_n_ctx']:.0f} tokens of context"
        if pick != base and known(rows[base]["peak_rss_bytes"]):
            words += f"; {base} {size(rows[base]['peak_rss_bytes'])}"
        tiles.append(("Peak memory", size(row["peak_rss_bytes"]), words))
    return [(name, figure.replace(" ", "\u00a0"), words) for name, figure, words in tiles]


def _image(svg: bytes) -> str:
    drawn = without_notices(svg.decode("utf-8"))
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode('utf-8')).decode('ascii')}"


def _asset(name: str) -> str:
    return (resources.files("labctl.report") / "templates" / name).read_text("utf-8")
