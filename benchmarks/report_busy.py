"""RESULTS.md of comparisons 10 to 12: speeds beside a load, predicted, and measured again."""

from __future__ import annotations

import statistics

from benchmarks.markdown import table
from benchmarks.records import BUSY, QUIET, ModelResults, Section


def busy(_model: ModelResults, part: Section) -> str:
    """Comparison 10."""
    rows = [
        (
            f"{pair.format}, {pair.test}",
            f"{pair.quiet:.3f}",
            f"{pair.busy:.3f}",
            f"{pair.low:.3f} to {pair.high:.3f}" if pair.is_known else "undecided",
            f"{pair.n_undisturbed:,} of {pair.n_all:,}",
            "-" if pair.undisturbed_slower is None else f"{pair.undisturbed_slower:.3f}",
            f"{pair.all_slower:.3f}",
        )
        for pair in part.busy
    ]
    head = (
        "format, test",
        "speed-up, idle machine",
        "beside a load",
        "interval",
        "undisturbed",
        "time, undisturbed over idle",
        "time, all over idle",
    )
    return "### 10. A machine in use\n\n" + table(head, rows)


def predictions(_model: ModelResults, part: Section) -> str:
    """Comparison 11."""
    rows = [
        (
            one.format,
            f"{one.size_bytes / 1e6:,.0f}",
            f"{one.measured_tps:,.1f}",
            "types never timed" if one.predicted_tps is None else f"{one.predicted_tps:,.1f}",
            "-" if one.off is None else f"{100 * one.off:+.0f} %",
        )
        for one in part.predictions
    ]
    head = ("format", "file, MB", "measured, tokens/s", "predicted, tokens/s", "off")
    return "### 11. Predicted speed of generation\n\n" + table(head, rows)


def again(_model: ModelResults, part: Section) -> str:
    """Comparison 12."""
    rows = []
    for what in dict.fromkeys(one.what for one in part.again):
        for state in (QUIET, BUSY):
            runs = [one for one in part.again if one.what == what and one.state == state]
            ratios = [one.ratio for one in runs]
            n_apart = sum(one.sign != 0 for one in runs)
            rows.append(
                (
                    f"{what[0]} over {what[1]}, {what[2]}, {state}",
                    f"{statistics.median(ratios):.3f}",
                    f"{min(ratios):.3f} to {max(ratios):.3f}",
                    f"{n_apart} of {len(runs)}",
                )
            )
    text = (
        "Each run is `labctl bench` as it comes. An interval that holds the truth in 95 of 100 runs holds another run's"
        " estimate,\nwhich is off itself, in about 83 of 100 pairs.\n\n"
    )
    head = ("ratio", "median of runs", "smallest and largest", "told apart")
    return "### 12. Speeds again\n\n" + text + table(head, rows)
