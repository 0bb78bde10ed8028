"""What `labctl compare` shows and writes: its table, its files, and the chart with what it finds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from labctl.engines import in_order
from labctl.handin.compare import Comparison, Line
from labctl.steps.bench.ratios import Ratio, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def as_rows(found: Comparison) -> list[tuple[str, ...]]:
    """The comparison as cells of text, for a terminal, Markdown or CSV."""
    from labctl.records.units import percent, rate, size_text

    def text(value: float | None, words: Any) -> str:
        return "" if value is None else str(words(value))

    return [
        (
            "+".join(line.runs),
            line.model,
            line.format,
            text(line.size_bytes, size_text),
            text(line.ppl, lambda value: f"{value:.4f}"),
            "" if line.n_chunks is None else str(line.n_chunks),
            text(line.increase_pct, percent),
            _interval_text(line),
            line.machine,
            text(line.tg_tps, rate),
            _speedup_text(line),
            text(line.pp_tps, rate),
            text(line.peak_rss_bytes, size_text),
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
    return _ratio_text(line.speedup)


def _ratio_text(speedup: Ratio) -> str:
    return times(speedup.ratio, speedup.low, speedup.high)


HEADER = (
    *("Run", "Model", "Format", "Size", "Perplexity", "Chunks", "Increase", "95 % interval"),
    *("Machine", "Tokens/s", "Speed-up", "Prompt, tokens/s", "Peak memory"),
)


def files_of(found: Comparison) -> dict[str, bytes]:
    """comparison.md, comparison.csv and the chart, by file name."""
    import csv
    import io

    from labctl.report.charts.plot import render, styled
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
    timed: dict[str, list[tuple[Ratio, str]]] = {}
    for line in found.lines:
        if line.speedup is not None and line.increase_pct is not None:
            timed.setdefault(line.format, []).append((line.speedup, line.runs[0]))
    several = {name: ratios for name, ratios in timed.items() if len(ratios) > 1}
    if not several:
        return "No quantized format was timed in two of these runs."
    gaps = {
        name: max(ratio.low for ratio, _ in ratios) / min(ratio.high for ratio, _ in ratios)
        for name, ratios in several.items()
    }
    name = max(gaps, key=lambda one: gaps[one])
    if gaps[name] <= 1:
        return "No format's speed-up is shown to differ between these runs: the intervals overlap."
    slow, slow_run = min(several[name], key=lambda timed: timed[0].high)
    fast, fast_run = max(several[name], key=lambda timed: timed[0].low)
    return (
        f"The speed-up differs most surely for {name}: {_ratio_text(slow)} times the run's own baseline in {slow_run},"
        f" {_ratio_text(fast)} times in {fast_run}."
    )


def _figure(found: Comparison) -> Figure | None:
    """Increase of perplexity and speed-up by format; each run has its own colour and shape."""
    from labctl.report.charts.plot import INK, chart_text, legend_above, look_at, new_figure

    measured = {line.format for line in found.lines if line.increase_pct is not None}
    formats = list(dict.fromkeys((*in_order(measured), *sorted(measured))))
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
                middle, low, high = line.speedup.ratio, line.speedup.low, line.speedup.high
                ends = [[middle - low], [high - middle]] if math.isfinite(high) else None
                panels[1].errorbar(middle, spot, xerr=ends, fmt=style.marker, color=style.color, markersize=6)
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
