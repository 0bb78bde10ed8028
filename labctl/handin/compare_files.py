"""What `labctl compare` shows and writes: its table, its files, and the chart with what it finds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from labctl.engines.llama_cpp.formats import FORMATS
from labctl.handin.compare import Comparison, Line
from labctl.steps.speed.ratios import times

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def as_rows(found: Comparison) -> list[tuple[str, ...]]:
    """The comparison as cells of text, for a terminal, Markdown or CSV."""
    from labctl.report.text import percent, rate, size

    def text(value: float | None, words: Any) -> str:
        return "" if value is None else str(words(value))

    return [
        (
            "+".join(line.runs),
            line.model,
            line.format,
            text(line.size_bytes, size),
            text(line.ppl, lambda value: f"{value:.4f}"),
            "" if line.n_chunks is None else str(line.n_chunks),
            text(line.increase_pct, percent),
            _interval_text(line),
            line.machine,
            text(line.tg_tps, rate),
            _speedup_text(line),
            text(line.pp_tps, rate),
            text(line.peak_rss_bytes, size),
        )
        for line in (*found.lines, *found.pooled)
    ]


def _interval_text(line: Line) -> str:
    from labctl.report.text import interval

    if line.increase_low_pct is None or line.increase_high_pct is None:
        return ""
    return interval(line.increase_low_pct, line.increase_high_pct)


def _speedup_text(line: Line) -> str:
    if line.speedup is None or line.increase_pct is None:  # the baseline's own is 1 by definition
        return "" if line.speedup is None else "1.0"
    return times(line.speedup, _or(line.speedup_low, 0.0), _or(line.speedup_high, math.inf))


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


HEADER = (
    *("Run", "Model", "Format", "Size", "Perplexity", "Chunks", "Increase", "95 % interval"),
    *("Machine", "Tokens/s", "Speed-up", "Prompt, tokens/s", "Peak memory"),
)


def files_of(found: Comparison) -> dict[str, bytes]:
    """comparison.md, comparison.csv and the chart, by file name."""
    import csv
    import io

    from labctl.report.plot import render, styled
    from labctl.report.text import csv_cell, escape, table

    rows = as_rows(found)
    stream = io.StringIO()
    cells = ([row[0], *map(csv_cell, row[1:3]), *row[3:]] for row in rows)  # model and format may be a stranger's words
    csv.writer(stream, lineterminator="\n").writerows([HEADER, *cells])
    listed = [f"- {label}: {escape(name)}" for label, name in (*found.runs.items(), *found.machines.items())]
    sheet = [
        "# Runs compared",
        "",
        table(HEADER, ([escape(cell) for cell in row] for row in rows), left=(0, 1, 2, 8)),
        "",
        *listed,
        "",
        *(f"- {note}" for note in found.notes),
    ]
    files = {"comparison.csv": stream.getvalue().encode("utf-8", "replace")}
    with styled():
        figure = _figure(found)
        if figure is not None:
            files |= {f"comparison.{kind}": data for kind, data in render(figure).items()}
            sheet += [
                "",
                "![Increase of perplexity and speed-up of each run](comparison.png)",
                "",
                f"*{reading(found)}*",
            ]
    files["comparison.md"] = ("\n".join(sheet) + "\n").encode("utf-8", "replace")
    return files


def reading(found: Comparison) -> str:
    """The chart's finding in a sentence."""
    timed: dict[str, list[Line]] = {}
    for line in found.lines:
        if line.speedup is not None and line.increase_pct is not None:
            timed.setdefault(line.format, []).append(line)
    several = {name: lines for name, lines in timed.items() if len(lines) > 1}
    if not several:
        return "No quantized format was timed in two of these runs."
    gaps = {
        name: max(_or(one.speedup_low, 0.0) for one in lines) / min(_or(one.speedup_high, math.inf) for one in lines)
        for name, lines in several.items()
    }
    name = max(gaps, key=lambda one: gaps[one])
    if gaps[name] <= 1:
        return "No format's speed-up is shown to differ between these runs: the intervals overlap."
    slow = min(several[name], key=lambda line: _or(line.speedup_high, math.inf))
    fast = max(several[name], key=lambda line: _or(line.speedup_low, 0.0))
    return (
        f"The speed-up differs most surely for {name}: {_speedup_text(slow)} times the run's own baseline in"
        f" {slow.runs[0]}, {_speedup_text(fast)} times in {fast.runs[0]}."
    )


def _figure(found: Comparison) -> Figure | None:
    """Increase of perplexity and speed-up by format; each run has its own colour and shape."""
    from labctl.report.plot import INK, chart_text, legend_above, look_at, new_figure

    measured = {line.format for line in found.lines if line.increase_pct is not None}
    formats = sorted(measured, key=lambda name: list(FORMATS).index(name) if name in FORMATS else len(FORMATS))
    if not formats:
        return None
    shown = list(found.runs)[:12]
    figure, panels = new_figure(
        reading(found).rstrip("."),
        [
            "Left: increase of perplexity over the run's own baseline, with its 95 % interval. Right: the speed-up of"
            " generation over the run's own baseline, with its 95 % interval; speeds of different"
            " computers do not compare.",
            *(f"{label}: {found.runs[label]}" for label in shown),
            *(["More runs than the chart can tell apart: the table has them all."] if len(found.runs) > 12 else []),
        ],
        [],
        plot_in=max(2.2, 0.55 * len(formats) + 0.5),
        n_axes=2,
        legend=1,
    )
    for place, label in enumerate(shown):
        style = look_at(place)
        lines = [line for line in found.lines if line.runs == (label,) and line.format in formats]
        shift = 0.5 * ((place + 0.5) / len(shown) - 0.5)
        for line in lines:
            spot = formats.index(line.format) + shift
            if line.increase_pct is not None:
                low, high = line.increase_low_pct, line.increase_high_pct
                bounded = low is not None and high is not None and abs(low) < 1e6 and abs(high) < 1e6
                bar = [[line.increase_pct - (low or 0)], [(high or 0) - line.increase_pct]] if bounded else None
                panels[0].errorbar(line.increase_pct, spot, xerr=bar, fmt=style.marker, color=style.color, markersize=6)
            if line.speedup is not None:
                low, high = _or(line.speedup_low, 0.0), _or(line.speedup_high, math.inf)
                ends = [[line.speedup - low], [high - line.speedup]] if math.isfinite(high) else None
                panels[1].errorbar(line.speedup, spot, xerr=ends, fmt=style.marker, color=style.color, markersize=6)
        panels[0].plot([], [], style.marker, color=style.color, label=label)
    for panel in panels:
        panel.set_yticks(
            range(len(formats)), [chart_text(name) for name in formats] if panel is panels[0] else [""] * len(formats)
        )
        panel.set_ylim(len(formats) - 0.4, -0.6)
        panel.tick_params(axis="y", length=0, labelsize=11, labelcolor=INK)
        panel.grid(visible=False, axis="y")
    panels[0].set_xlabel("Perplexity increase, %")
    panels[1].set_xlabel("Generation speed, times the baseline")
    legend_above(panels[0])
    return figure
