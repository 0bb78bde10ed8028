"""results.json and RESULTS.md: the second is made from the first, and from nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks import report_busy
from benchmarks.claim import by_round
from benchmarks.claims import claims, lab_rounds, process_ratio, speed_ratio, total_ratio
from benchmarks.markdown import table
from benchmarks.records import AS_NEEDED, OURS, RESULTS_SCHEMA, THEIRS, ModelResults, Results, Section
from benchmarks.stats import PERPLEXITY_PEAK, PERPLEXITY_WALL, SPEED, Ratio, Target, ratio, verdict
from labctl.errors import LabError
from labctl.records.disk import write_bytes, write_text

JSON_NAME, PAGE_NAME = "results.json", "RESULTS.md"

_HOW = """\
## How it was taken

- One process at a time, labctl and llama.cpp in turn (A B A B ...), on the same files with the same number of threads.
  All files are read once beforehand, so the disk plays no part.
- Times run from the start of a process to its end: loading, tokenizing, work and writing included. labctl's side is
  the child process that `labctl` gives the same task to, Python's start included; in comparison 5 it is `labctl run`.
  In comparison 2 the first format of a round tokenizes the text and the others reuse its token ids, as in a lab.
- Peak memory is ru_maxrss as wait4 reports it. On Linux a process inherits that figure from the one that started it, so
  each is started from a parent of its own of about 10 MB, which is the smallest peak that could be read.
- A ratio is labctl over llama.cpp within a round, and of these the median over the rounds. Its 95 % interval is by
  order statistics, with two to five rounds by their range (Lord 1947); with one round there is none. Targets are judged
  on the ratio; the two sides' figures beside it are medians of their own.
- llama.cpp's tools run with their own defaults but for files, threads, chunks, and the course's sampling settings.
- Raw samples of everything are in results.json; this page is made from it by `python -m benchmarks --render`.

To repeat: `make bench`, or for another model `.venv/bin/python -m benchmarks --model FILE.gguf --chunks 64`.
"""


def read(folder: Path) -> Results:
    """results.json, or empty results where there is none.

    Raises:
        LabError: it is damaged or of another schema.
    """
    path = folder / JSON_NAME
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except FileNotFoundError:
        return Results()
    except (OSError, msgspec.MsgspecError) as error:
        raise LabError(f"{path} cannot be read: {error}.", "Move it away; the next run makes a new one.") from error
    if results.schema != RESULTS_SCHEMA:
        raise LabError(f"{path} has schema {results.schema}, not {RESULTS_SCHEMA}.", "Move it away and run again.")
    return results


def write(folder: Path, results: Results) -> None:
    """Write results.json, and RESULTS.md from it."""
    folder.mkdir(parents=True, exist_ok=True)
    document = msgspec.to_builtins(results)
    document["claims"] = {name: msgspec.to_builtins(claims(model)) for name, model in results.models.items()}
    write_bytes(folder / JSON_NAME, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    write_text(folder / PAGE_NAME, page(results))


def page(results: Results) -> str:
    """RESULTS.md."""
    parts = ["# labctl side by side with llama.cpp's own tools\n"]
    for model in results.models.values():
        parts.append(_summary(model))
    parts.append(_HOW)
    for model in results.models.values():
        parts += [_facts(model), *(_SECTIONS[name](model, part) for name, part in _in_order(model.sections))]
    return "\n".join(parts)


def _in_order(sections: Mapping[str, Section]) -> list[tuple[str, Section]]:
    return sorted(sections.items(), key=lambda item: int(item[0]))


def interval(one: Ratio) -> str:
    return "-" if math.isnan(one.low) else f"{one.low:.3f} to {one.high:.3f}"


def _summary(model: ModelResults) -> str:
    rows = [(f"({one.section}) {one.what}", one.target, one.result, verdict(one.met)) for one in claims(model)]
    return f"## {model.name}: targets\n\n" + table(("comparison", "target", "result", "target is"), rows)


def _facts(model: ModelResults) -> str:
    machine = model.machine
    cores = f"{machine['n_cores_physical']} cores, {machine['n_cores_logical']} threads"
    system = f"{machine['ram_bytes'] / 1e9:.1f} GB RAM, {machine['os']}, {machine['arch']}"
    rows = [
        ("model", f"{model.name}, {model.model['size_bytes']:,} bytes, sha256 {model.model['sha256'][:16]}..."),
        ("text", f"{model.text['name']}, {model.text['size_bytes']:,} bytes, sha256 {model.text['sha256'][:16]}..."),
        ("formats", ", ".join(model.formats)),
        ("machine", f"{machine['cpu_model']}, {cores}, {system}"),
        ("threads used", str(model.n_threads)),
        *model.versions.items(),
        *((f"comparison {name}", _when(part)) for name, part in _in_order(model.sections)),
    ]
    return f"## {model.name}: details\n\n" + table(("what", "value"), rows).replace("---:", "---")


def _when(part: Section) -> str:
    return "; ".join([part.taken_at, *(f"{key} {_setting(value)}" for key, value in part.settings.items())])


def _setting(value: object) -> str:
    return "all" if value is None else str(value)


def _ratio_table(rows: Iterable[tuple[str, Ratio]], unit: str, scale: float, digits: int, target: Target | None) -> str:
    head = ["format", f"labctl, {unit}", f"llama.cpp, {unit}", "ratio", "interval"]
    body = [
        [
            name,
            f"{one.ours / scale:,.{digits}f}",
            f"{one.theirs / scale:,.{digits}f}",
            f"{one.value:.3f}",
            interval(one),
        ]
        + ([] if target is None else [verdict(target.met(one.value))])
        for name, one in rows
    ]
    return table(head if target is None else [*head, f"target: {target.text}"], body)


def _perplexity(_model: ModelResults, part: Section) -> str:
    rows = [
        (
            pair.format,
            f"{pair.n_chunks}",
            f"{pair.ours[0]} ± {pair.ours[1]}",
            f"{pair.theirs[0]} ± {pair.theirs[1]}",
            f"{pair.n_equal} of {pair.n_chunks}",
            "yes" if pair.same else "**no**",
        )
        for pair in part.perplexity
    ]
    head = ("format", "chunks", "labctl", "llama-perplexity", "running values equal", "all digits equal")
    return "### 1. Perplexity, digit by digit\n\n" + table(head, rows)


def _cost(model: ModelResults, part: Section) -> str:
    def rows(figure: str) -> list[tuple[str, Ratio]]:
        return [(label, process_ratio(part, label, "perplexity", figure)) for label in model.formats]

    together = total_ratio(part, model.formats, "perplexity", "wall_s")
    differing = [pair.format for pair in part.perplexity if not pair.same]
    note = (
        f"\nDigits differed in: {', '.join(differing)}.\n" if differing else "\nAll digits were equal in every round.\n"
    )
    return (
        "### 2. Perplexity step: wall time and peak memory\n\nWall time, median of a whole process:\n\n"
        + _ratio_table([*rows("wall_s"), ("all together", together)], "s", 1, 2, PERPLEXITY_WALL)
        + "\nPeak memory:\n\n"
        + _ratio_table(rows("peak_rss_bytes"), "MB", 1e6, 1, PERPLEXITY_PEAK)
        + note
    )


def _quantized(_model: ModelResults, part: Section) -> str:
    rows = []
    for pair in part.quantized:
        types = ", ".join(
            f"{count} {name}" for name, count in sorted(pair.theirs_types.items(), key=lambda one: -one[1])
        )
        time = process_ratio(part, pair.format, "quantize", "wall_s")
        if pair.ours_types != pair.theirs_types:
            types = f"**different**: labctl {pair.ours_types}, llama-quantize {pair.theirs_types}"
        rows.append(
            (
                pair.format,
                types,
                f"{pair.n_same_bytes} of {pair.n_tensors}",
                f"{pair.ours_bytes:,}",
                "yes" if pair.same_file else "no",
                f"{time.ours:.2f}",
                f"{time.theirs:.2f}",
                f"{time.value:.3f}",
                interval(time),
            )
        )
    head = (
        "format",
        "tensors by type, both sides",
        "byte-identical tensors",
        "file bytes",
        "whole file identical",
        "labctl, s",
        "llama-quantize, s",
        "ratio",
        "interval",
    )
    return (
        "### 3. Quantization\n\n"
        + table(head, rows)
        + "\nlabctl's time includes a dry run first, the check of the result, its sha256, and the sync to disk.\n"
    )


def _speed(model: ModelResults, part: Section) -> str:
    text = "### 4. Speed against llama-bench\n"
    for test in sorted({one.test for one in part.speed}):
        rows = [(label, speed_ratio(part, label, test)) for label in model.formats]
        text += f"\n{test}:\n\n" + _ratio_table(rows, "t/s", 1, 1, SPEED)
    return text


def _lab(_model: ModelResults, part: Section) -> str:
    ours, theirs = lab_rounds(part)
    whole = ratio(ours, theirs)
    loops: dict[str, list[float]] = {}
    for name in ("quantize", "perplexity", "generate", "bench"):
        loops[name] = [
            sum(one.wall_s for one in part.samples if (one.side, one.step, one.round) == (THEIRS, name, number))
            for number in sorted({one.round for one in part.samples})
        ]
    stages = {name: [one.stage_s[name] for one in part.stages] for name in part.stages[0].stage_s}
    extras = {name: [one.extra_s[name] for one in part.stages] for name in part.stages[0].extra_s}

    def middle(values: Sequence[float] | None) -> str:
        return "-" if not values else f"{statistics.median(values):.1f}"

    stage_rows = [(name, middle(seconds), middle(loops.get(name))) for name, seconds in stages.items()]
    extra_s = statistics.median(sum(one.extra_s.values()) for one in part.stages)
    share = statistics.median(sum(one.extra_s.values()) / sum(one.stage_s.values()) for one in part.stages)
    rest = [max(a - sum(one.extra_s.values()), 1e-9) / b for a, one, b in zip(ours, part.stages, theirs, strict=True)]
    needed = by_round(part.samples, OURS, "", AS_NEEDED, "wall_s")
    as_it_comes = (
        f"\n`labctl run` as it comes, with as many chunks as the verdicts need, took {statistics.median(needed):.1f} s:"
        f" {statistics.median(needed) / whole.theirs:.3f} of the loops over the whole text.\n"
        if needed
        else ""
    )
    return (
        "### 5. The whole lab: `labctl run` against the shell loops\n\n"
        + _ratio_table([("the same chunks", whole)], "s", 1, 1, None)
        + as_it_comes
        + "\nThe loops' time is the sum of their processes, without the shell's own. Where the seconds went:\n\n"
        + table(("stage", "labctl run, s", "loops, s"), stage_rows)
        + f"\nlabctl does more in its time: {extra_s:.1f} s ({100 * share:.0f} % of its run) went into what the loops"
        " do not do (the divergence taken along in the perplexity step not counted). Without that it would be "
        + f"{statistics.median(rest):.3f} of the loops' time.\n\n"
        + table(("only in labctl", "s"), [(name, middle(seconds)) for name, seconds in extras.items()])
    )


def _start_up(_model: ModelResults, part: Section) -> str:
    rows = []
    for name, step in (("labctl --help", "help"), ("labctl run, second time", "second run")):
        values = by_round(part.samples, OURS, "", step, "wall_s")
        rows.append(
            (name, f"{statistics.median(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}", f"{len(values)}")
        )
    return "### 6. Start-up\n\n" + table(("command", "median, s", "least, s", "most, s", "repetitions"), rows)


def _verdicts(_model: ModelResults, part: Section) -> str:
    limit = part.settings["limit"]
    rows = [
        (
            pair.format,
            f"{100 * pair.increase:+.2f} %",
            f"{100 * pair.low:.2f} to {100 * pair.high:.2f} %",
            pair.whole,
            pair.early,
            f"{100 * pair.early_low:.2f} to {100 * pair.early_high:.2f} %",
            f"{pair.n_chunks} of {pair.n_chunks_text}",
            f"{pair.n_chunks / pair.n_chunks_text:.3f}",
            f"{pair.settled} after {pair.n_settled}" if pair.settled else "-",
            f"{1e3 * pair.look_s:.2f}",
        )
        for pair in part.verdicts
    ]
    head = (
        "format",
        "increase, all chunks",
        "95 % interval",
        "verdict, all chunks",
        "verdict, as needed",
        "bounds when it stopped",
        "chunks",
        "share of the tokens",
        "with --settle",
        "one decision, ms",
    )
    return (
        f"### 7. Is the increase under {100 * limit:g} %? Chunks as needed against all chunks\n\n"
        + table(head, rows)
        + f"\nThe baseline took {part.settings['baseline_chunks']} chunks. Every format takes a common set first, so"
        " that perplexities stand beside each other. The interval over all chunks is for text like this one; on the\n"
        "text itself the increase over all chunks is exact, and so is its verdict.\n"
    )


def _divergence(_model: ModelResults, part: Section) -> str:
    names = list(part.divergence[0].theirs)
    rows = [
        (pair.format, side, *(f"{values[name]:.6f}" for name in names))
        for pair in part.divergence
        for side, values in (("labctl", pair.ours), ("labctl, 16 bits", pair.stored), ("llama.cpp", pair.theirs))
    ]
    return (
        "### 8. KL divergence from the baseline, in nats\n\n"
        + table(("format", "side", *names), rows)
        + "\nllama-perplexity --kl-divergence keeps the baseline's log-probabilities in 16 bits, none more than 16"
        " nats below the largest,\nand leaves out tokens at or below -16; labctl keeps all of them in 32 bits. The"
        " middle row is labctl's from a baseline\nrounded that way.\n"
    )


def _coverage(_model: ModelResults, part: Section) -> str:
    rows = [
        (
            one.kind,
            one.asked,
            "yes" if one.gives_up else "no",
            f"{one.n_wrong:,} of {one.n_texts:,}",
            f"{one.share:.4f}",
        )
        for one in part.coverage
    ]
    return (
        "### 9. Wrong verdicts at the limit itself\n\nA look after every chunk of texts of"
        f" {part.coverage[0].n_chunks} chunks whose true increase is the limit, so that each verdict is wrong; the rule"
        " accepts 0.05. Of text\nlike it the bounds take neighbouring chunks as independent.\n\n"
        + table(("differences of chunks", "asked of", "gives up", "wrong", "share"), rows)
    )


_SECTIONS = {
    "1": _perplexity,
    "2": _cost,
    "3": _quantized,
    "4": _speed,
    "5": _lab,
    "6": _start_up,
    "7": _verdicts,
    "8": _divergence,
    "9": _coverage,
    "10": report_busy.busy,
    "11": report_busy.predictions,
    "12": report_busy.again,
}
