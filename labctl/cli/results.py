"""Commands that read what is measured: report, score, fit, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import LAB, TO_MEASURE, TO_READ, lab_command, open_to_read, wait_option
from labctl.errors import LabError
from labctl.steps.memory.step import MEMORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labctl.cli.output import Output
    from labctl.report.fit import FitRow, KvType


@lab_command(*TO_READ, "blank")
@wait_option
def report(output: Output, wait: bool, **settings: object) -> None:
    """Write worksheet, charts and course files; measures nothing.

    Example: labctl report
    """
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import build_report, load_measured
    from labctl.records.lock import lock

    lab = open_to_read(settings, output.display)
    require_measured(lab)
    with lock(lab.folder.root, wait, output.display.note):
        records = load_measured(lab)
        paths = build_report(lab, records, force=True)
    output.data(paths)
    for path in paths:
        output.line(str(path))


@lab_command(*TO_READ, "weights")
def score(output: Output, **settings: object) -> None:
    """Rank the formats by a weighted score of size, quality and speed.

    Example: labctl score --weights size=.2,quality=.3,speed=.5
    """
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import load_records
    from labctl.report.board import boards
    from labctl.report.figures import figures_of
    from labctl.report.order import Orders
    from labctl.report.scoring import PLACES_RULE
    from labctl.report.tradeoffs import missing_words, place, too_little

    lab = open_to_read(settings, output.display)
    require_measured(lab)
    records = load_records(lab)
    figures, shares = figures_of(records), lab.config.shares
    found = boards(figures, Orders(records, figures), shares)
    if not found.comparable:
        hint = f"Scores need a file smaller than {records.formats[0]}'s: name formats with `labctl run --formats`."
        if "not measured" in missing_words(figures):
            hint = f"Measure what is missing: {lab.command('run', exact=True)}"
        raise LabError(too_little(figures), hint)
    first, second = ({score.format: score.total for score in board.scores} for board in found.both)
    missing = missing_words(figures)
    places, scaled_places = (board.order().ranks for board in found.both)
    lines = [(name, first[name], places[name], second[name], scaled_places[name]) for name in places]
    keys = ("format", "score", "place", "normalised_score", "normalised_place")
    output.data([dict(zip(keys, line, strict=True)) for line in lines])
    output.table(
        f"{lab.model.name}: score for size {shares[0]:g}, quality {shares[1]:g}, speed {shares[2]:g}",
        ("format", "score", "place", "normalised", "place"),
        [(name, f"{one:.3f}", place(at), f"{two:.3f}", place(there)) for name, one, at, two, there in lines],
        caption="score: the course's formula; normalised: each term scaled to 0..1 over these formats. Sorted by score."
        f" {PLACES_RULE}{f' Not ranked: {missing}.' if missing else ''}",
    )


@lab_command(*TO_READ)
@click.option("--base", metavar="OWNER/NAME", help="Repository of the model. Default: where it came from.")
@click.option("--by", metavar="NAME", default="", help="Who quantized it.")
@click.option("--license", "license_", metavar="ID", default="", help="The model's licence, as the Hub names it.")
@click.option(
    "--output", "target", type=click.Path(path_type=Path), help="Default: hub/README.md beside the worksheet."
)
@click.option("--force", is_flag=True, help="Write over a file that labctl did not write.")
def card(
    output: Output, base: str | None, by: str, license_: str, target: Path | None, force: bool, **settings: object
) -> None:
    """Write the README.md of a Hub repository for the files made here.

    Whoever publishes quantizations publishes what they cost: sizes, losses with intervals, speeds, hashes, how made.

    Example: labctl card --base owner/model --by me --license apache-2.0
    """
    from labctl.lab.sources.hubcard import base_of, checked_base, front_matter
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import load_measured, report_folder
    from labctl.records.disk import write_text
    from labctl.report.card import MARK, files_made, render_card
    from labctl.report.figures import figures_of

    lab = open_to_read(settings, output.display, notices=False)
    require_measured(lab)
    records = load_measured(lab)
    if not files_made(records):
        raise LabError("No file of this lab was made here.", "A card is for files that labctl quantized.")
    repo = base_of(lab.model) if base is None else checked_base(base)
    path = target or report_folder(lab) / "hub" / "README.md"
    if path.exists() and not force and MARK not in path.read_text("utf-8", errors="replace"):
        raise LabError(f"{path} is there, and labctl did not write it.", "Name another file, or add --force.")
    front = front_matter(base=repo, by=by, license_=license_, tags=["gguf", "llama.cpp", "labctl"])
    write_text(path, render_card(records, figures_of(records, lab.config.limit), front, repo, lab.config.limit))
    if not repo:
        output.display.warn(
            "The model's repository is not known: add --base owner/name, so that the Hub links the two."
        )
    output.data({"path": str(path)})
    output.line(str(path))


@lab_command(*LAB, "formats", "imatrix", "threads")
@click.argument("files", nargs=-1)
@click.option("--ram", type=click.FloatRange(min=0.1), help="Memory of the machine, in GiB. Default: this machine's.")
@click.option("--params", metavar="NAME|13B", help="Ask for another model: Qwen3-8B, ..., or its number of weights.")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="The same by the model's own config.json."
)
@click.option("--ctx", type=int, help="Tokens of context. Default: as measured.")
@click.option("--kv-type", type=click.Choice(["f16", "q8_0", "q4_0"]), default="f16", help="Of the KV cache.")
@click.option("--speed", is_flag=True, help="Time this machine once, about two minutes, to predict tokens/second.")
def fit(
    output: Output,
    files: tuple[str, ...],
    ram: float | None,
    params: str | None,
    config_path: Path | None,
    ctx: int | None,
    kv_type: KvType,
    speed: bool,
    formats: tuple[str, ...] | None,
    **settings: object,
) -> None:
    """Say which formats fit into a machine's memory.

    Example: labctl fit --ram 8 --ctx 4096

    FILES are GGUF files, folders of them or hf:owner/repo, quantized or not, and need no lab: their headers tell, of
    files on the Hub without a download. Without FILES the formats of a lab are meant. With --params or --config it
    answers for a model that is not at hand, from its shape and the types llama.cpp would store:
    labctl fit --ram 8 --ctx 4096 --params Qwen3-8B

    The unquantized baseline is left out unless --formats names it. With --speed it also tells how fast they generate
    text here; what was measured once is remembered.
    """
    from labctl.machine.fingerprint import total_memory_bytes
    from labctl.pipeline.pace import known_pace, measure_pace, predicted
    from labctl.pipeline.reopening import require_measured
    from labctl.pipeline.reporting import load_records
    from labctl.report.fit import GIB, SPEED_WORDS, fit_table, with_speeds
    from labctl.report.fit_params import PARAMS_RULE, fit_params_table, other_shapes, predicted_speeds
    from labctl.report.shape_config import read_shape
    from labctl.report.shapes import find_shape, taken_words

    whose = "" if ram is not None else ", this machine's"
    ram = ram or round(total_memory_bytes() / GIB, 1)
    if files:
        if params is not None or config_path is not None:
            raise LabError("--params and --config ask for a model that is not at hand, and FILES are.", "Name one.")
        _fit_files(output, files, ram, whose, ctx, kv_type)
        return
    lab = open_to_read({**settings, "formats": formats}, output.display, notices=False)
    records = load_records(lab)
    pace = known_pace(lab)
    if speed and pace is None:
        pace = measure_pace(lab, output.display)
    if config_path is not None and params is not None:
        raise LabError("--params and --config both name a model.", "Leave one of the two out.")
    if params is not None or config_path is not None:
        if config_path is not None:
            shape = read_shape(config_path)
            n_params, source = shape.n_params, shape.source
        else:
            shape, n_params = find_shape(params or "")
            source = f"config.json of {shape.source}"
            if taken := taken_words(params or ""):
                output.display.note(taken)
        rows = fit_params_table(records, ram, ctx or lab.config.ctx, shape, n_params, kv_type)
        rows = with_speeds(rows, None, predicted_speeds(records, shape, n_params, pace) if pace is not None else {})
        parts = (PARAMS_RULE, other_shapes(shape, ctx or lab.config.ctx), f"Shape: {source}.")
        name, caption = shape.name, " ".join(part for part in parts if part)
    else:
        require_measured(lab)
        if not records.of(MEMORY):
            raise LabError(
                "Memory is not measured for any format yet.", f"Measure first: {lab.command('memory', exact=True)}"
            )
        rows = with_speeds(
            fit_table(records, ram, ctx, kv_type), records, predicted(lab, pace) if pace is not None else {}
        )
        name, caption = lab.model.name, ""
    base = records.formats[0]
    if len(rows) > 1 and base not in map(str.upper, formats or ()):
        rows = [row for row in rows if row.format != base]
    if any(row.tg_tps is not None for row in rows):
        caption = f"{caption} {SPEED_WORDS}".strip()
    title = f"{name} in {ram:g} GiB of memory{whose}, at {ctx or lab.config.ctx} tokens of context"
    _show_fit(output, rows, title, caption)


def _fit_files(
    output: Output, files: tuple[str, ...], ram: float, whose: str, ctx: int | None, kv_type: KvType
) -> None:
    """What of some files fits, by their headers."""
    from labctl.lab.sources.offers import offers
    from labctl.report.fit import FILE_RULE, fit_file

    found = offers(files)
    for offer in found:
        if offer.fault:
            output.display.warn(f"{offer.label} is left out: {offer.fault}")
    held = [(offer.label, offer.holds) for offer in found if offer.holds is not None]
    if not held:
        raise LabError("None of the files can be read.", "Name other files.")
    usual = min(4096, *(holds.n_trained for _, holds in held))
    rows = [fit_file(label, holds, ram, ctx or usual, kv_type) for label, holds in held]
    title = f"{len(rows)} files in {ram:g} GiB of memory{whose}, at {ctx or usual} tokens of context"
    _show_fit(output, rows, title, FILE_RULE)


def _show_fit(output: Output, rows: Sequence[FitRow], title: str, caption: str) -> None:
    from labctl.report.fit import gib, largest_words, speed_words

    output.data(rows)
    has_speed = any(row.tg_tps is not None for row in rows)
    output.table(
        title,
        ("format", "verdict", "needed", "of it KV cache", "free", *(("tokens/s",) if has_speed else ())),
        [
            (
                row.format,
                row.verdict,
                "-" if row.need_bytes is None else gib(row.need_bytes),
                "-" if row.kv_bytes is None or row.need_bytes is None else gib(row.kv_bytes),
                gib(row.free_bytes),
                *((speed_words(row),) if has_speed else ()),
            )
            for row in rows
        ],
        caption=caption,
    )
    for line in largest_words(rows):
        output.text(line)


@lab_command(*TO_MEASURE, "chunks", "ctx")
@click.option("--no-hub", is_flag=True, help="Do not ask whether the Hub can be reached.")
def doctor(output: Output, no_hub: bool, **settings: object) -> None:
    """Check whether this machine is ready for the lab.

    What is not ready comes with what to do.

    Example: labctl doctor
    """
    from labctl.pipeline.doctor import examine

    checks = examine(settings, output.display, check_hub=not no_hub)
    output.data(checks)
    output.table(
        "labctl doctor",
        ("check", "status", "found", "what to do"),
        [(check.name, check.status, check.detail, check.hint) for check in checks],
    )
    if any(check.status == "problem" for check in checks):
        raise click.exceptions.Exit(1)
