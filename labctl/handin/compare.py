"""`labctl compare`: several runs side by side; quality pooled only for equal files, speed never across machines."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import LabError
from labctl.handin.submission import load_folder, read_manifest, read_zip, unpack
from labctl.machine.surroundings import fault
from labctl.records.base import Provenance
from labctl.steps.measured import Measured
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

if TYPE_CHECKING:
    from labctl.report.figures import Figures, FormatFigures
    from labctl.steps.bench.ratios import Ratio

MOST_RUNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run to compare; `label` is R1, R2, ... in the order given."""

    label: str
    name: str
    records: Measured
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One format of one run, or the same file's quality pooled over runs (`machine` and speeds empty).

    Attributes:
        runs: labels of the runs that the line stands on.
        machine: label of the computer and its build of llama.cpp, M1, M2, ...
    """

    runs: tuple[str, ...]
    model: str
    format: str
    text: str
    size_bytes: float | None
    ppl: float | None
    n_chunks: int | None
    increase_pct: float | None
    increase_low_pct: float | None
    increase_high_pct: float | None
    machine: str = ""
    tg_tps: float | None = None
    speedup: Ratio | None = None
    pp_tps: float | None = None
    peak_rss_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All lines, pooled ones after the single ones, and what the labels stand for."""

    runs: dict[str, str]
    machines: dict[str, str]
    lines: tuple[Line, ...]
    pooled: tuple[Line, ...]
    notes: tuple[str, ...]


@contextlib.contextmanager
def opened(paths: Sequence[Path]) -> Iterator[tuple[Run, ...]]:
    """Load runs: outputs/<model> folders or submissions; zips are unpacked for as long as this lasts.

    Raises:
        LabError: fewer than two, too many, or one that is no run.
    """
    from labctl.report.figures import figures_of
    from labctl.report.text import counted

    if not 2 <= len(paths) <= MOST_RUNS:
        raise LabError(
            f"{counted(len(paths), 'run')} cannot be compared.",
            f"Name 2 to {MOST_RUNS} outputs/<model> folders or submissions.",
        )
    with contextlib.ExitStack() as stack:
        runs = []
        for number, path in enumerate(paths, 1):
            if not path.exists():
                raise LabError(
                    f"There is no {path}.", "Name an outputs/<model> folder, or a zip that `labctl submit` wrote."
                )
            if path.is_dir():
                records = load_folder(path)
            else:
                files = read_zip(path)
                manifest = read_manifest(path, files)
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="labctl-compare-")))
                unpack({name: data for name, data in files.items() if name in manifest.files}, place)
                model = next((name.split("/")[1] for name in sorted(files) if name.startswith("outputs/")), "model")
                records = load_folder(place / "outputs" / model, manifest.formats, manifest.warnings)
            with contradictions(path.name):
                figures = figures_of(records)
            runs.append(Run(label=f"R{number}", name=str(path), records=records, figures=figures))
        yield tuple(runs)


@contextlib.contextmanager
def contradictions(name: str) -> Iterator[None]:
    """Turn what only impossible records can cause into one line: those of a stranger may say anything.

    Raises:
        LabError: in place of an error of arithmetic, shape or type; a fault of this machine is told as one.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        if (found := fault(error)) is not None:
            raise found from error
        raise LabError(
            f"{name}: the records contradict themselves ({type(error).__name__}: {str(error)[:120]}).",
            "Leave it out, or look at it with `labctl verify`.",
        ) from error


def compare(runs: Sequence[Run]) -> Comparison:
    """Put runs side by side."""
    from labctl.report.hardware import build_words
    from labctl.report.text import counted

    machines: dict[str, tuple[str, str]] = {}
    lines = []
    for run in runs:
        for name, row in run.figures.items():
            origin = _origin(run.records, name)
            label = ""
            if origin is not None:
                machine, build = origin.machine, build_words(origin.versions)
                place = f"{machine.machine_id}|{build}"
                if place not in machines:
                    words = f"{machine.cpu_model}, {counted(machine.n_cores_physical, 'core')}, {machine.os}"
                    machines[place] = (f"M{len(machines) + 1}", f"{words}{f'; {build}' if build else ''}")
                label = machines[place][0]
            lines.append(_line(run, name, row, label))
    pooled = tuple(_pooled(runs))
    notes = [
        "Speed and memory stand for one computer with one build of llama.cpp each and are never averaged over several;"
        " the speed-up is within one run."
    ]
    if pooled:
        notes.append("Pooled: runs that measured the very same files (sha256) on the same text, their chunks together.")
    else:
        notes.append("Nothing is pooled: no two runs measured the same files on the same text.")
    if len({run.records.text.sha256 for run in runs if run.records.text}) > 1:
        notes.append("The runs used different texts: their perplexities do not compare.")
    return Comparison(
        runs={run.label: run.name for run in runs},
        machines=dict(machines.values()),
        lines=tuple(lines),
        pooled=pooled,
        notes=tuple(notes),
    )


def _origin(records: Measured, name: str) -> Provenance | None:
    """Where a format's figures are from; what is timed decides, since speed stands for one computer and build."""
    found = [kept.record.provenance for kept in records if kept.case.format == name and kept.step.after]
    return found[-1] if found else None


def _line(run: Run, name: str, row: FormatFigures, machine: str) -> Line:
    increase, tg, pp = row.increase, row.speed("tg"), row.speed("pp")
    return Line(
        runs=(run.label,),
        model=run.records.model.name,
        format=name,
        text="" if run.records.text is None else run.records.text.name,
        size_bytes=row.size_bytes,
        ppl=row.ppl,
        n_chunks=None if row.perplexity is None else row.perplexity.n_chunks,
        increase_pct=row.increase_pct,
        increase_low_pct=None if increase is None else increase.low_pct,
        increase_high_pct=None if increase is None else increase.high_pct,
        machine=machine,
        tg_tps=None if tg is None else tg.tps,
        speedup=row.speedup,
        pp_tps=None if pp is None else pp.tps,
        peak_rss_bytes=row.peak_rss_bytes,
    )


def _pooled(runs: Sequence[Run]) -> Iterator[Line]:
    """Quality of a file over all runs that measured it, with its baseline, on one text with one chunk size."""
    import numpy as np

    from labctl.steps.perplexity.figures import load_nll
    from labctl.steps.perplexity.increase import paired_increase
    from labctl.steps.perplexity.scorer import perplexity

    groups: dict[tuple[object, ...], list[tuple[Run, str]]] = {}
    values = {run.label: load_nll(run.records) for run in runs}
    for run in runs:
        base = run.records.formats[0]
        for name in run.records.formats:
            files, measured = run.records.of(QUANTIZE), run.records.of(PERPLEXITY).get(name)
            if measured is None or name not in values[run.label] or name not in files or base not in files:
                continue
            digests = (files[name].sha256, files[base].sha256)
            protocol = (measured.text.sha256, measured.n_ctx, measured.n_chunks_text, measured.n_scored_per_chunk)
            members = groups.setdefault((*digests, *protocol), [])
            if all(other is not run for other, _ in members):  # two labels of one file count once
                members.append((run, name))
    for members in groups.values():
        if len(members) < 2:
            continue
        first, name = members[0]
        base = first.records.formats[0]
        stacks = [np.stack([values[run.label][one] for run, one in members])]
        if all(run.records.formats[0] in values[run.label] for run, _ in members):
            stacks.append(np.stack([values[run.label][run.records.formats[0]] for run, _ in members]))
        mean = [_mean_of_known(stack) for stack in stacks]
        chunks = np.flatnonzero(np.isfinite(mean[0]).all(axis=1))
        ppl, _ = perplexity(mean[0][chunks])
        increase = None
        if (
            name != base
            and len(mean) == 2
            and (np.isfinite(mean[1]).all(axis=1) & np.isfinite(mean[0]).all(axis=1)).any()
        ):
            increase = paired_increase(*mean)
        # Where a run stopped when its verdict was settled, the t interval over the chunks together would be too narrow.
        chosen = any(run.records.of(PERPLEXITY)[label].could_stop for run, label in members)
        yield Line(
            runs=tuple(run.label for run, _ in members),
            model=first.records.model.name,
            format=name,
            text=first.records.of(PERPLEXITY)[name].text.name,
            size_bytes=float(first.records.of(QUANTIZE)[name].size_bytes),
            ppl=ppl,
            n_chunks=len(chunks),
            increase_pct=None if increase is None else 100 * increase.increase,
            increase_low_pct=None if increase is None or chosen else 100 * increase.low,
            increase_high_pct=None if increase is None or chosen else 100 * increase.high,
        )


def _mean_of_known(stack: Any) -> Any:
    """Mean over runs of each chunk that any of them measured; NaN where none did."""
    import numpy as np

    counts = np.isfinite(stack).sum(axis=0)
    sums = np.where(np.isfinite(stack), stack, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
