"""reports/<model>/index.html: worksheet, recommendation and what can be tried out, in one file that asks nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

from labctl.lab.config import Weights
from labctl.records.units import percent, rate, significant, size_text
from labctl.report.charts.plot import without_notices
from labctl.report.figures import Figures
from labctl.report.jinja import environment
from labctl.report.page.data import as_json, page_data
from labctl.report.page.markup import to_html
from labctl.report.rules import Answer
from labctl.report.text import cell, interval, printable, shortened, speedup_words
from labctl.steps.measured import Measured

_SCRIPTS = ("page_score.js", "page_explore.js", "page_outputs.js")


def render_page(
    records: Measured,
    figures: Figures,
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
        worksheet, recommendation: the finished Markdown: the page says what they say.
        charts: file name -> contents; the SVG files stand in for the PNG files that the worksheet names.
        pick: the rule's answer to Q10, said on top.
        own_choice: the student's answer to Q10; it then stands before the rule's.
        weights: what the sliders start at.
        limit: largest acceptable increase of perplexity, as a fraction.
    """
    images = {name.removesuffix(".svg") + ".png": _image(svg) for name, svg in charts.items() if name.endswith(".svg")}
    data = page_data(records, figures, weights, limit)
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(name) for name in _SCRIPTS) + "})();\n"
    # Only this very script may run, whatever a model or a prompt brings into the page.
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        environment("labctl.report.page", html=True)
        .get_template("page.html.j2")
        .render(
            model=printable(records.model.name),
            base=printable(records.formats[0]),
            own_choice=shortened(printable(own_choice), 200),
            lead=f"For production: {printable(pick.pick)}" if pick.pick else printable(pick.text),
            pick=pick.pick,
            tiles=_tiles(figures, pick.pick, records.formats[0]),
            foot="Made by labctl. This file holds everything it shows and asks nothing from any server.",
            recommendation=to_html(recommendation, images, shift=1, prefix="recommendation-"),
            worksheet=to_html(worksheet, images, shift=1),
            has_outputs=bool(data["outputs"]),
            css=_asset("page.css"),
            data=as_json(data),
            script=script,
            script_hash=f"sha256-{script_hash}",
        )
    )


def _tiles(figures: Figures, pick: str | None, base: str) -> list[tuple[str, str, str]]:
    """What the pick is like at a glance: name, figure, what it means against the baseline."""
    if pick is None:
        return []
    row, tiles = figures[pick], []
    if row.size_bytes is not None:
        ratio = row.compression_ratio
        smaller = ratio is not None and ratio > 1
        words = f"{cell(ratio, significant)} times smaller than {base}" if smaller else "the baseline"
        tiles.append(("File", size_text(row.size_bytes), words))
    if (increase := row.increase) is not None:
        spread = interval(increase.low_pct, increase.high_pct)
        words = f"over {base} on {increase.n_pairs} chunks, 95 % interval for text like this {spread}"
        tiles.append(("Perplexity", percent(increase.pct), words))
    if (speed := row.speed("tg")) is not None:
        compared = speed.speedup is not None and pick != base
        words = f"{cell(speed.speedup, speedup_words)} {base}" if compared else "generating text"
        tiles.append(("Tokens per second", rate(speed.tps), words))
    if row.memory is not None:
        words = f"at {row.memory.n_ctx} tokens of context"
        if pick != base and (before := figures[base].peak_rss_bytes) is not None:
            words += f"; {base} {size_text(before)}"
        tiles.append(("Peak memory", size_text(row.memory.peak_rss_bytes), words))
    return [(name, figure.replace(" ", "\u00a0"), words) for name, figure, words in tiles]


def _image(svg: bytes) -> str:
    drawn = without_notices(svg.decode("utf-8"))
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode('utf-8')).decode('ascii')}"


def _asset(name: str) -> str:
    return (resources.files("labctl.report.page") / "templates" / name).read_text("utf-8")
