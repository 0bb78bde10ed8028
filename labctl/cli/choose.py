"""The command that chooses among ready-made files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import lab_command
from labctl.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labctl.cli.output import Output
    from labctl.lab.config import LabConfig
    from labctl.lab.sources.offers import Offer
    from labctl.pipeline.choosing import Chooser, Field
    from labctl.report.choice import Limits, Outcome, Prospect
    from labctl.steps.bench.pace import Pace


@lab_command("outputs", "lab_data", "yes", "threads", "text", "chunks", "budget_s", "settle")
@click.argument("files", nargs=-1, required=True)
@click.option("--ram", type=click.FloatRange(min=0.1), help="Memory of the machine, in GiB. Default: this machine's.")
@click.option(
    "--ctx", type=click.IntRange(16, 1 << 30), help="Tokens of context. Default: 4096, if trained for so many."
)
@click.option("--max-loss", default="2%", show_default=True, metavar="PERCENT", help="Largest increase of perplexity.")
@click.option("--min-tps", type=click.FloatRange(min=0.001), help="Fewest tokens per second of generation, here.")
@click.option("--list", "only_list", is_flag=True, help="Say what is known of the files, and measure nothing.")
@click.option("--keep", is_flag=True, help="Keep the files that are downloaded for measuring.")
@click.option("--speed", is_flag=True, help="Time this machine once, about two minutes, to predict tokens/second.")
def choose(
    output: Output,
    files: tuple[str, ...],
    ram: float | None,
    ctx: int | None,
    max_loss: str,
    min_tps: float | None,
    only_list: bool,
    keep: bool,
    speed: bool,
    **settings: object,
) -> None:
    """Say which of several ready-made files to use.

    FILES are GGUF files, a folder of them, or hf:owner/repo (or hf:owner/repo:pattern, or its address). Files on the
    Hub are looked into without a download. A model that is not quantized (demo, a name from `labctl models`, an F16
    file, a checkpoint folder) stands for the usual formats, made here one by one. Those that come into question are
    then measured one by one, the most doubtful first; what is downloaded or made for that is deleted again, but for the
    file of the answer where it was made here. Perplexity takes five minutes a file at most, unless --budget, --settle
    or --chunks says otherwise.

    Example: labctl choose hf:owner/model-GGUF --ram 16 --ctx 8192 --min-tps 8 --max-loss 2%
    """
    from labctl.lab.sources.offers import reference_of
    from labctl.lab.values import load_config
    from labctl.machine.fingerprint import total_memory_bytes
    from labctl.pipeline.choosing import field_of
    from labctl.report.choice import Limits
    from labctl.report.fit import GIB

    config = load_config(settings)
    ram = ram or round(total_memory_bytes() / GIB, 1)
    fraction = _fraction(max_loss)
    output.display.note("Looking into the files ...")
    found = _found(files, config, output)
    reference = reference_of(found)
    limits = Limits(ram_gib=ram, n_ctx=_context(reference, ctx), max_loss=fraction, min_tps=min_tps)
    field = field_of(found, reference, limits, _pace(config, output, speed=speed))
    _show_field(field, limits, output)
    if only_list:
        output.data(_plain(field, ()))
        return
    _measure(config, field, limits, output, keep=keep)


def _found(files: tuple[str, ...], config: LabConfig, output: Output) -> tuple[Offer, ...]:
    """The files to choose from: those that are named, or the formats that a model can be made into here."""
    from labctl.lab.sources.offers import is_original, offers
    from labctl.lab.sources.presets import PRESETS
    from labctl.pipeline.choosing import to_make

    if len(files) == 1:
        is_named = files[0].strip().lower() in ("demo", *PRESETS) or (Path(files[0]) / "config.json").is_file()
        found = () if is_named else offers(files)
        if is_named or (len(found) == 1 and is_original(found[0]) and found[0].repo is None):
            return to_make(config.having({"model": files[0]}), output.display)
        return found
    return offers(files)


_USUAL_CTX = 4096


def _context(reference: Offer, asked: int | None) -> int:
    """The tokens of context that the files must have room for.

    Raises:
        LabError: the model was not trained for so many as are asked for.
    """
    most = _USUAL_CTX if reference.holds is None else reference.holds.n_trained
    if asked is not None and asked > most:
        raise LabError(
            f"--ctx {asked}: this model was trained for {most} tokens of context at most.",
            f"Ask for --ctx {most} or less.",
        )
    return min(_USUAL_CTX, most) if asked is None else asked


def _fraction(text: str) -> float:
    """A loss as it is typed, as a fraction.

    Raises:
        LabError: it is no percentage, or none that makes sense.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if match is None or not 0 < float(match[1]) < 1000:
        raise LabError(f"--max-loss {text}: not a percentage.", "Write it with its sign, such as 2% or 0.5%.")
    return float(match[1]) / 100


def _pace(config: LabConfig, output: Output, *, speed: bool) -> Pace | None:
    """How fast this machine is, if it was timed, or is to be."""
    from labctl.pipeline.forecast import any_lab
    from labctl.pipeline.pace import known_pace, measure_pace

    try:
        lab = any_lab(config.outputs, output.display)
    except LabError:  # without the demo model nothing is timed; what is asked goes on
        if speed:
            raise
        return None
    known = known_pace(lab)
    return measure_pace(lab, output.display) if known is None and speed else known


def _show_field(field: Field, limits: Limits, output: Output) -> None:
    from labctl.records.units import significant, size_text
    from labctl.report.choice import is_too_slow
    from labctl.report.fit import GIB

    def answer(one: Prospect) -> str:
        if one.fault:
            return "left out"
        return "too slow" if one.fit in ("fits", "tight") and is_too_slow(one, limits) else one.fit

    has_speed = any(one.tps is not None for one in field.prospects)
    output.table(
        f"{len(field.offers)} files for {limits.ram_gib:g} GiB of memory at {limits.n_ctx} tokens of context",
        ("file", "size", "bits", "holds", "needs GiB", *(("t/s",) if has_speed else ()), "verdict"),
        [
            (
                one.label,
                size_text(one.size_bytes),
                f"{one.bpw:.2f}" if one.bpw else "-",
                _contents(field, one.label),
                "-" if one.need_bytes is None else significant(one.need_bytes / GIB, 2),
                *(("-" if one.tps is None else f"~{significant(one.tps, 2)}",) if has_speed else ()),
                answer(one),
            )
            for one in field.prospects
        ],
        caption="bits: per weight. needs: memory of the whole process, estimated."
        + (" t/s: tokens per second of generation here, predicted." if has_speed else "")
        + (" No file was downloaded for this." if any(offer.repo for offer in field.offers) else ""),
    )
    for one in field.prospects:
        if one.fault:
            output.display.warn(f"{one.label} is left out: {one.fault.rstrip('.')}.")


def _contents(field: Field, label: str) -> str:
    """What a file holds, and whether an importance matrix was used, as far as it tells."""
    holds = field.offer(label).holds
    if holds is None:
        return "-"
    total = sum(share.size_bytes for share in holds.types)
    most = [one for one in holds.types[:2] if one.size_bytes >= 0.01 * total]
    listed = [f"{one.tensor_type} {100 * one.size_bytes / total:.0f} %" for one in most]
    return ", ".join([*listed, *(["imatrix"] if holds.making.imatrix else [])])


def _measure(config: LabConfig, field: Field, limits: Limits, output: Output, *, keep: bool) -> None:
    from labctl.lab.dialogue import LARGE_BYTES
    from labctl.pipeline.choosing import Chooser, download_bytes, to_measure
    from labctl.records.units import percent, rate, significant, size_text
    from labctl.report.choice import ANSWER_RULE, answer, described, unmeasured_words
    from labctl.report.fit import GIB
    from labctl.report.text import interval

    display, reference = output.display, field.reference.label
    in_all, at_once = download_bytes(field, limits)
    what = (
        f"{len(to_measure(field, limits))} files come into question beside {reference}, which losses are counted from"
    )
    if in_all:
        most = in_all if keep else at_once
        what += f"; to download: at most {size_text(in_all)} in all, {size_text(most)} on the disk at a time"
    if in_all > LARGE_BYTES:
        display.confirm(f"{what}.", yes=config.yes)
    else:
        display.note(f"{what}.")
    chooser = Chooser(config, field, limits, display, keep=keep)
    for one in chooser.measured():
        display.note(f"{one.label}: {one.fault or described(one, limits, reference)}")
    outcomes = chooser.outcomes
    text, pick = answer(outcomes, limits, reference, chooser.apart)
    lines = [] if pick is None or pick.all_met(limits) != "pass" else _next_lines(chooser, pick.label)
    output.data(
        {**_plain(field, outcomes), "answer": text, "pick": None if pick is None else pick.label, "next": list(lines)}
    )
    output.table(
        f"Measured on {chooser.text.name}, with {chooser.n_threads} threads",
        ("file", "size", "needs GiB", "t/s (95 %)", "loss (95 %)", "limits"),
        [
            (
                one.label,
                size_text(one.size_bytes),
                "-" if one.need_bytes is None else significant(one.need_bytes / GIB, 2),
                "-"
                if one.tps is None
                else f"{rate(one.tps)}"
                + (
                    ""
                    if one.low_tps is None or one.high_tps is None
                    else f" ({rate(one.low_tps)} to {rate(one.high_tps)})"
                ),
                "reference"
                if one.label == reference
                else "-"
                if one.loss is None
                else f"{percent(one.loss_pct, 1)} ({interval(one.low_pct, one.high_pct, 1)})",
                {"pass": "met", "fail": "not met", "undecided": "undecided"}[one.all_met(limits)],
            )
            for one in outcomes
        ],
        caption=f"{ANSWER_RULE} {unmeasured_words(field.prospects, outcomes, limits)}".strip(),
    )
    original = "" if field.is_original else ", the best of these files, not from the original model"
    output.text(f"Loss: increase of perplexity on {chooser.text.name}, counted from {reference}{original}.")
    output.text(text, style="bold")
    for line in ("To run it:", *lines) if lines else ():
        output.line(line)


def _next_lines(chooser: Chooser, label: str) -> Sequence[str]:
    """What to type to run a file, with its Modelfile written where the file stays on this disk."""
    from labctl.records.disk import safe_name, write_text
    from labctl.report.serving import Served, modelfile, next_lines

    offer, path = chooser.field.offer(label), chooser.path_of(label)
    if path is not None and not path.is_file():  # made for an earlier choice, and deleted
        return ()
    served = Served(
        file=offer.name if path is None else str(path.absolute()),
        name=safe_name(offer.name.rpartition("/")[2].removesuffix(".gguf")).lower(),
        n_ctx=chooser.limits.n_ctx,
        n_threads=chooser.n_threads,
        repo_id="" if offer.repo is None else offer.repo.repo_id,
    )
    if served.repo_id or path is None:
        return next_lines(served)
    written = chooser.folder / served.name / "Modelfile"
    write_text(written, modelfile(served))
    return next_lines(served, str(written))


def _plain(field: Field, outcomes: Sequence[Outcome]) -> dict[str, object]:
    names = {offer.label: offer.name for offer in field.offers}
    return {
        "reference": field.reference.label,
        "is_original": field.is_original,
        "names": names,
        "files": list(field.prospects),
        "measured": list(outcomes),
    }
