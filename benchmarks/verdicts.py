"""Comparisons 7 and 8: verdicts that stop early against those from all chunks, and KL divergence."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np

from benchmarks import logs
from benchmarks.bench import Bench, section
from benchmarks.quality import perplexity_command
from benchmarks.records import OURS, THEIRS, DivergencePair, Sample, Section, VerdictPair
from benchmarks.whole import LABCTL
from labctl import quality, tasks
from labctl.errors import LabError
from labctl.journal import load_nll
from labctl.measure.divergence import summary
from labctl.measure.perplexity import chunk_order
from labctl.measure.sequence import settle
from labctl.measure.verdict import chunk_differences, paired_increase, verdict
from labctl.records import PerplexityRun
from labctl.store import RunFolder, read_record

KL_CHUNKS = 16


def verdicts(bench: Bench) -> Section:
    """(7) `labctl perplexity --chunks auto` into an empty folder, then --chunks all into the same one."""
    bench.runner.screen.section("7. Verdicts: chunks as needed, and all", 2 + len(bench.quantized))
    folder = bench.fresh_folder("verdicts")
    samples = [_perplexity(bench, folder, "auto")]
    run_folder = RunFolder(folder / "outputs" / bench.lab.model.name)
    early = {label: _record(run_folder, label) for label in bench.lab.labels}
    samples.append(_perplexity(bench, folder, "all"))
    nll = {label: _rows(run_folder, _record(run_folder, label)) for label in bench.lab.labels}
    base = nll[bench.lab.model.baseline]
    limit = bench.lab.config.limit
    order = chunk_order(len(base), quality.ORDER_SEED)
    pairs = []
    for label in bench.quantized:
        visited = order[: early[label].n_chunks]
        differences = chunk_differences(nll[label][visited], base[visited])
        begun = time.perf_counter()
        look = settle(differences, limit=limit, alpha=quality.ALPHA)
        look_s = time.perf_counter() - begun
        whole = paired_increase(nll[label], base)
        pairs.append(
            VerdictPair(
                format=label, n_chunks=early[label].n_chunks, n_chunks_text=len(base), early=look.verdict,
                early_low=look.low, early_high=look.high, whole=verdict(whole, limit), increase=whole.increase,
                low=whole.low, high=whole.high, look_s=look_s,
            )
        )  # fmt: skip
        bench.runner.screen.step(f"{label}: {look.verdict} after {look.n_chunks} chunks, {pairs[-1].whole}", look_s)
    settings = {"limit": limit, "alpha": quality.ALPHA, "baseline_chunks": early[bench.lab.model.baseline].n_chunks}
    return section(settings, samples=samples, verdicts=pairs)


def _perplexity(bench: Bench, folder: Path, chunks: str) -> Sample:
    places = ["--outputs", str(folder / "outputs"), "--reports", str(folder / "reports")]
    command = [LABCTL, "perplexity", *bench.lab_flags, "--chunks", chunks, *places]
    sample = bench.runner.run(command, side=OURS, round_number=1, step=f"chunks {chunks}").sample
    bench.runner.screen.step(f"labctl perplexity --chunks {chunks}", sample.wall_s)
    return sample


def _record(folder: RunFolder, label: str) -> PerplexityRun:
    record = read_record(folder.record_path("perplexity", label), PerplexityRun)
    if record is None:
        raise LabError(f"labctl perplexity left {label} unmeasured.", f"Its outputs: {folder.root}")
    return record


def _rows(folder: RunFolder, record: PerplexityRun) -> np.ndarray:
    rows = load_nll(folder.root / record.nll_path)
    if rows is None:
        raise LabError(f"labctl perplexity left no values of {record.format}.", f"Its outputs: {folder.root}")
    return rows


def divergence(bench: Bench) -> Section:
    """(8) KL divergence from the baseline over the first chunks, by labctl's spool and by llama-perplexity's file."""
    count = min(bench.settings.chunks or KL_CHUNKS, KL_CHUNKS)
    bench.runner.screen.section("8. KL divergence from the baseline", 2 * len(bench.lab.labels))
    folder = bench.fresh_folder("divergence")
    samples: list[Sample] = []
    pairs: list[DivergencePair] = []
    for label in bench.lab.labels:
        is_baseline = label == bench.lab.model.baseline
        task = tasks.PerplexityTask(
            model_path=str(bench.gguf(label)),
            format=label,
            n_threads=bench.lab.n_threads,
            text=dataclasses.replace(bench.lab.text, path=str(Path(bench.lab.text.path).resolve())),
            n_ctx=512,
            shape=quality.SHAPE,
            n_first=count,
            nll_path=str(folder / f"{label}.npy"),
            shown_nll_path=f"{label}.npy",
            tokens_path=str(folder / "tokens.npy"),
            divergence=tasks.SpoolPlan(
                spool_path=str(folder / "spool"), n_rows=count, is_baseline=is_baseline,
                kl_path=str(folder / f"{label}-kl.npy"),
            ),
            provenance=bench.lab.provenance("perplexity", "", {}, {}),
        )  # fmt: skip
        _, ours = bench.runner.run_task(task, PerplexityRun, format_name=label, round_number=1, step="divergence")
        bench.runner.screen.step(f"{OURS} {label}", ours.wall_s)
        command = [*perplexity_command(bench, bench.gguf(label), count), "--kl-divergence-base", str(folder / "base")]
        theirs = bench.runner.run(
            command if is_baseline else [*command, "--kl-divergence"],
            side=THEIRS, format_name=label, round_number=1, step="divergence",
        )  # fmt: skip
        bench.runner.screen.step(f"{THEIRS} {label}", theirs.sample.wall_s)
        samples += [ours, theirs.sample]
        if is_baseline:
            continue
        values = load_nll(folder / f"{label}-kl.npy")
        assert values is not None
        found = summary(values[:count])
        pairs.append(
            DivergencePair(
                format=label,
                n_chunks=count,
                ours={
                    "mean": found.mean, "median": found.median, "90 %": found.p90, "99 %": found.p99,
                    "maximum": found.max, "same top token, %": 100 * found.same_top_p,
                },
                theirs=logs.divergence_figures(theirs.stdout + theirs.stderr),
            )
        )  # fmt: skip
    bench.fresh_folder("divergence")
    return section({"chunks": count, "n_threads": bench.lab.n_threads}, samples=samples, divergence=pairs)
