"""Comparison 8: KL divergence from the baseline, by labctl's spool and by llama-perplexity's 16-bit file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import logs
from benchmarks.bench import Bench, section
from benchmarks.quality import measured, perplexity_command
from benchmarks.records import OURS, THEIRS, DivergencePair, Sample, Section
from labctl.records.arrays import load_rows
from labctl.steps.divergence.keep import Comparison
from labctl.steps.divergence.kl import KlSummary
from labctl.steps.divergence.spool import summary
from labctl.steps.perplexity import keep
from labctl.steps.perplexity.record import PerplexityTask

KL_CHUNKS = 16
_N_CTX = 512
_SPAN = np.float32(16.0)  # nats that llama-perplexity's file reaches below the largest value
_STEPS = np.float32(65535.0)
_ROWS = 64

Float32s = npt.NDArray[np.float32]


def divergence(bench: Bench) -> Section:
    """(8) The first chunks of the text; then labctl's once more, from its baseline stored as llama-perplexity does.

    What is left between the two after that is not due to the storage.
    """
    count = min(bench.settings.chunks or KL_CHUNKS, KL_CHUNKS)
    bench.runner.screen.section("8. KL divergence from the baseline", 3 * len(bench.quantized) + 2)
    folder = bench.fresh_folder("divergence")
    samples: list[Sample] = []
    pairs: list[DivergencePair] = []
    for label in bench.lab.formats:
        is_baseline = label == bench.lab.model.baseline
        samples.append(_ours(bench, folder, label, count, is_baseline=is_baseline, spool="spool"))
        command = [*perplexity_command(bench, bench.gguf(label), count), "--kl-divergence-base", str(folder / "base")]
        theirs = bench.runner.run(
            command if is_baseline else [*command, "--kl-divergence"],
            side=THEIRS,
            format_name=label,
            round_number=1,
            step="divergence",
        )
        bench.runner.screen.step(f"{THEIRS} {label}", theirs.sample.wall_s)
        samples.append(theirs.sample)
        if is_baseline:
            continue
        _ours(bench, folder, label, count, is_baseline=True, spool="spool-of-format")
        values = load_rows(folder / f"{label}-kl.npy")
        assert values is not None
        stored = _stored_kl(folder / "spool", folder / "spool-of-format", count)
        pairs.append(
            DivergencePair(
                format=label,
                n_chunks=count,
                ours=_figures(summary(values[:count])),
                stored=_figures(summary(stored)),
                theirs=logs.divergence_figures(theirs.stdout + theirs.stderr),
            )
        )
        (folder / "spool-of-format").unlink()
        (folder / "spool-of-format.rows").unlink()
    bench.fresh_folder("divergence")
    return section({"chunks": count, "n_threads": bench.lab.n_threads}, samples=samples, divergence=pairs)


def _ours(bench: Bench, folder: Path, label: str, count: int, *, is_baseline: bool, spool: str) -> Sample:
    """labctl's perplexity task with a spool: written for a baseline, compared with for others."""
    task = PerplexityTask(
        model_path=str(bench.gguf(label)),
        format=label,
        n_threads=bench.lab.n_threads,
        text=dataclasses.replace(bench.lab.text, path=str(Path(bench.lab.text.path).resolve())),
        n_ctx=_N_CTX,
        n_first=count,
    )
    kl_path = None if is_baseline else folder / f"{label}-kl.npy"
    rider = Comparison(folder / spool, count, _N_CTX, kl_path, optional=False)
    place = keep.Place(nll=folder / f"{label}.npy", shown=f"{label}.npy", tokens=folder / "tokens.npy")
    _, sample = measured(bench, task, place, 1, step="divergence", rider=rider)
    bench.runner.screen.step(f"{OURS} {label}", sample.wall_s)
    return sample


def _figures(found: KlSummary) -> dict[str, float]:
    return {
        "mean": found.mean,
        "median": found.median,
        "90 %": found.p90,
        "99 %": found.p99,
        "maximum": found.max,
        "same top token, %": 100 * found.same_top_p,
    }


def _stored_kl(base: Path, other: Path, n_chunks: int) -> npt.NDArray[np.float64]:
    """KL divergence from two spools of log-probabilities, the baseline's rounded as llama-perplexity rounds it.

    Returns: (n_chunks, 2 n_scored), divergences, then 1 or 0 for the same top token.
    Source: llama.cpp tools/perplexity/perplexity.cpp, both functions log_softmax.
    """
    n_scored = _N_CTX - 1 - _N_CTX // 2
    n_vocab = base.stat().st_size // (4 * n_chunks * n_scored)
    shape = (n_chunks * n_scored, n_vocab)
    ours, theirs = (np.memmap(path, dtype=np.float32, mode="r", shape=shape) for path in (base, other))
    kl, same = np.empty(len(ours)), np.empty(len(ours))
    for start in range(0, len(ours), _ROWS):
        rows = slice(start, start + _ROWS)
        kl[rows], same[rows] = _rows_kl(stored(np.array(ours[rows])), np.array(theirs[rows]))
    return np.concatenate([kl.reshape(n_chunks, -1), same.reshape(n_chunks, -1)], axis=1)


def stored(logp: Float32s) -> Float32s:
    """Log-probabilities, (n, n_vocab), after llama-perplexity's file: 65,536 steps, none below the largest - 16."""
    largest = logp.max(axis=1, keepdims=True)
    least = np.maximum(logp.min(axis=1, keepdims=True), largest - _SPAN)
    scale = (largest - least) / _STEPS
    steps = np.where(logp > least, np.rint((logp - least) / np.where(scale > 0, scale, 1)), 0)
    rounded: Float32s = (scale * steps + least).astype(np.float32)
    return rounded


def _rows_kl(base: Float32s, other: Float32s) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Each row's KL divergence, without tokens at or below -16 nats as in llama-perplexity; and equal top tokens."""
    p = np.where(base > -_SPAN, np.exp(base), 0).astype(np.float64)
    return (p * (base.astype(np.float64) - other)).sum(axis=1), base.argmax(axis=1) == other.argmax(axis=1)
