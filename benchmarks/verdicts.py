"""Comparison 7: verdicts that stop early against those from all chunks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench, section
from benchmarks.records import OURS, Sample, Section, VerdictPair
from benchmarks.whole import LABCTL
from labctl.errors import LabError
from labctl.lab.folder import RunFolder
from labctl.records.arrays import load_rows
from labctl.records.store import read_record
from labctl.steps.intervals import ALPHA
from labctl.steps.perplexity.increase import chunk_differences, paired_increase, side_of
from labctl.steps.perplexity.record import PerplexityRun
from labctl.steps.perplexity.scorer import chunk_order
from labctl.steps.perplexity.sequence import settle
from labctl.steps.perplexity.step import ORDER_SEED


def verdicts(bench: Bench) -> Section:
    """(7) `labctl perplexity --chunks auto` into an empty folder; there with --settle, then with --chunks all."""
    bench.runner.screen.section("7. Verdicts: chunks as needed, and all", 3 + len(bench.quantized))
    folder = bench.fresh_folder("verdicts")
    samples = [_perplexity(bench, folder, "auto")]
    run_folder = RunFolder(folder / "outputs" / bench.lab.model.name)
    early = {label: _record(run_folder, label) for label in bench.lab.formats}
    samples.append(_perplexity(bench, folder, "auto", "--settle"))
    settled = {label: _record(run_folder, label) for label in bench.lab.formats}
    samples.append(_perplexity(bench, folder, "all"))
    nll = {label: _rows(run_folder, _record(run_folder, label)) for label in bench.lab.formats}
    base = nll[bench.lab.model.baseline]
    limit = bench.lab.config.limit
    order = chunk_order(len(base), ORDER_SEED)
    pairs = []
    for label in bench.quantized:
        visited = order[: early[label].n_chunks]
        differences = chunk_differences(nll[label][visited], base[visited])
        begun = time.perf_counter()
        look = settle(differences, len(base), limit, ALPHA)
        look_s = time.perf_counter() - begun
        read = order[: settled[label].n_chunks]
        final = settle(chunk_differences(nll[label][read], base[read]), len(base), limit, ALPHA)
        whole = paired_increase(nll[label], base)
        pairs.append(
            VerdictPair(
                format=label,
                n_chunks=early[label].n_chunks,
                n_chunks_text=len(base),
                early=look.verdict,
                early_low=look.low,
                early_high=look.high,
                whole=side_of(whole.increase, whole.increase, limit),
                increase=whole.increase,
                low=whole.low,
                high=whole.high,
                look_s=look_s,
                n_settled=settled[label].n_chunks,
                settled=final.verdict,
            )
        )
        bench.runner.screen.step(f"{label}: {look.verdict} after {look.n_chunks} chunks, {pairs[-1].whole}", look_s)
    baseline = bench.lab.model.baseline
    settings = {
        "limit": limit,
        "alpha": ALPHA,
        "baseline_chunks": early[baseline].n_chunks,
        "baseline_chunks_settled": settled[baseline].n_chunks,
    }
    return section(settings, samples=samples, verdicts=pairs)


def _perplexity(bench: Bench, folder: Path, chunks: str, *flags: str) -> Sample:
    places = ["--outputs", str(folder / "outputs"), "--reports", str(folder / "reports")]
    command = [LABCTL, "perplexity", *bench.lab_flags, "--chunks", chunks, *flags, *places]
    step = " ".join(["chunks", chunks, *flags])
    sample = bench.runner.run(command, side=OURS, round_number=1, step=step).sample
    bench.runner.screen.step(f"labctl perplexity --{step}", sample.wall_s)
    return sample


def _record(folder: RunFolder, label: str) -> PerplexityRun:
    record = read_record(folder.record_path("perplexity", label), PerplexityRun)
    if record is None:
        raise LabError(f"labctl perplexity left {label} unmeasured.", f"Its outputs: {folder.root}")
    return record


def _rows(folder: RunFolder, record: PerplexityRun) -> np.ndarray:
    rows = load_rows(folder.root / record.nll_path)
    if rows is None:
        raise LabError(f"labctl perplexity left no values of {record.format}.", f"Its outputs: {folder.root}")
    return rows
