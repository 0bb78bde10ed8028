"""Commands that read what is measured: report, score, fit, doctor."""

from __future__ import annotations

from typing import Any

import click

from labctl.cli.options import display_for, lab_options, open_to_read, report_options, wait_option
from labctl.errors import LabError


@click.command()
@lab_options
@report_options
@wait_option
def report(as_json: bool, quiet: bool, wait: bool, **settings: Any) -> None:
    """Write worksheet, charts and course files; measures nothing.

    Example: labctl report
    """
    from labctl.cli.output import print_json, print_line
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import build_report, load_measured
    from labctl.records.lock import lock

    display = display_for(quiet, as_json)
    lab = open_to_read(settings, display)
    require_measured(lab)
    with lock(lab.folder.root, wait, display.note):
        records = load_measured(lab)
        paths = build_report(lab, records, force=True)
    if as_json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            print_line(str(path))


@click.command()
@click.option("--weights", help="What each counts. Default: .3, .4 and .3, or lab.toml's.")
@lab_options
def score(weights: str | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Rank the formats by a weighted score of size, quality and speed.

    Example: labctl score --weights size=.2,quality=.3,speed=.5
    """
    from labctl.cli.output import print_json, print_table
    from labctl.lab.values import parse_weights
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import load_records
    from labctl.report.analysis import frame, rows_of
    from labctl.report.board import boards
    from labctl.report.order import Orders
    from labctl.report.scoring import PLACES_RULE
    from labctl.report.tradeoffs import missing_words, place, too_little

    lab = open_to_read(
        {**settings, "weights": parse_weights(weights) if weights else None}, display_for(quiet, as_json)
    )
    require_measured(lab)
    shares = lab.config.weights
    chosen = (shares.get("size", 0.0), shares.get("quality", 0.0), shares.get("speed", 0.0))
    records = load_records(lab)
    rows = rows_of(frame(records))
    found = boards(rows, Orders(records, rows), chosen)
    if not found.comparable:
        hint = f"Scores need a file smaller than {records.formats[0]}'s: name formats with `labctl run --formats`."
        if "not measured" in missing_words(rows):
            hint = f"Measure what is missing: {lab.command('run', exact=True)}"
        raise LabError(too_little(rows), hint)
    first, second = ({score.format: score.total for score in board.scores} for board in found.both)
    missing = missing_words(rows)
    places, scaled_places = (board.order().ranks for board in found.both)
    lines = [(name, first[name], places[name], second[name], scaled_places[name]) for name in places]
    if as_json:
        keys = ("format", "score", "place", "normalised_score", "normalised_place")
        print_json([dict(zip(keys, line, strict=True)) for line in lines])
        return
    print_table(
        f"{lab.model.name}: score for size {chosen[0]:g}, quality {chosen[1]:g}, speed {chosen[2]:g}",
        ("format", "score", "place", "normalised", "place"),
        [(name, f"{one:.3f}", place(at), f"{two:.3f}", place(there)) for name, one, at, two, there in lines],
        caption="score: the course's formula; normalised: each term scaled to 0..1 over these formats. Sorted by score."
        f" {PLACES_RULE}{f' Not ranked: {missing}.' if missing else ''}",
    )


@click.command()
@click.option("--ram", type=click.FloatRange(min=0.1), help="Memory of the machine, in GiB. Default: this machine's.")
@click.option("--params", metavar="7B|NAME", help="Ask for another model: its number of weights, or Llama-2-7B, ...")
@lab_options
def fit(ram: float | None, params: str | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Say which formats fit into a machine's memory.

    Example: labctl fit --ram 8 --ctx 4096

    With --params it answers for a model that is not at hand, from its shape and the types llama.cpp would store:
    labctl fit --ram 8 --ctx 4096 --params 7B

    The unquantized baseline is left out unless --formats names it.
    """
    import msgspec

    from labctl.cli.output import print_json, print_table, print_text
    from labctl.machine.fingerprint import total_memory_bytes
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import load_records
    from labctl.report.fit import GIB, fit_table, gib, largest_words
    from labctl.report.fit_params import PARAMS_RULE, fit_params_table, other_shapes
    from labctl.report.shapes import find_shape, taken_words

    n_ctx, asked = settings.pop("ctx"), settings.get("formats") or ()
    display = display_for(quiet, as_json)
    whose = "" if ram is not None else ", this machine's"
    ram = ram or round(total_memory_bytes() / GIB, 1)
    lab = open_to_read(settings, display, notices=False)
    records = load_records(lab)
    if params is not None:
        shape, n_params = find_shape(params)
        if taken := taken_words(params):
            display.note(taken)
        n_ctx = n_ctx or lab.config.ctx
        rows = fit_params_table(records, ram, n_ctx, shape, n_params)
        parts = (PARAMS_RULE, other_shapes(shape, n_ctx), f"Shape: config.json of {shape.source}.")
        name, caption = shape.name, " ".join(part for part in parts if part)
    else:
        require_measured(lab)
        if not records.memory:
            raise LabError(
                "Memory is not measured for any format yet.", f"Measure first: {lab.command('memory', exact=True)}"
            )
        rows = fit_table(records, ram, n_ctx)
        name, caption = lab.model.name, ""
    base = records.formats[0]
    if len(rows) > 1 and not any(wanted.upper() == base for wanted in asked):
        rows = [row for row in rows if row.format != base]
    if as_json:
        print_json(msgspec.to_builtins(rows))
        return
    print_table(
        f"{name} in {ram:g} GiB of memory{whose}, at {n_ctx or lab.config.ctx} tokens of context",
        ("format", "verdict", "needed", "of it KV cache", "free"),
        [
            (
                row.format,
                row.verdict,
                "-" if row.need_bytes is None else gib(row.need_bytes),
                "-" if row.kv_bytes is None or row.need_bytes is None else gib(row.kv_bytes),
                gib(row.free_bytes),
            )
            for row in rows
        ],
        caption=caption,
    )
    for line in largest_words(rows):
        print_text(line)


@click.command()
@click.option("--no-hub", is_flag=True, help="Do not ask whether the Hub can be reached.")
@lab_options
def doctor(no_hub: bool, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Check whether this machine is ready for the lab.

    What is not ready comes with what to do.

    Example: labctl doctor
    """
    import msgspec

    from labctl.cli.output import print_json, print_table
    from labctl.pipeline.doctor import examine

    checks = examine(settings, display_for(True, as_json), check_hub=not no_hub)
    if as_json:
        print_json(msgspec.to_builtins(checks))
    else:
        print_table(
            "labctl doctor",
            ("check", "status", "found", "what to do"),
            [(one.name, one.status, one.detail, one.hint) for one in checks],
        )
    if any(one.status == "problem" for one in checks):
        raise click.exceptions.Exit(1)
