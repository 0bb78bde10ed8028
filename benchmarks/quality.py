"""Comparisons 1 to 3: perplexity digit by digit, time and memory of the perplexity step, quantized files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks import logs
from benchmarks.bench import Bench, section
from benchmarks.records import OURS, THEIRS, PerplexityPair, QuantizedPair, Sample, Section
from labctl.errors import LabError
from labctl.executors.base import OnRows
from labctl.records.digests import file_sha256
from labctl.steps.perplexity import keep
from labctl.steps.perplexity.record import PerplexityRun, PerplexityTask, Rider, Scored
from labctl.steps.quantize.record import Made, QuantizeTask


def perplexity_parity(bench: Bench) -> Section:
    """(1) Each format once by both sides over the same chunks."""
    bench.runner.screen.section("1. Perplexity, digit by digit", 2 * len(bench.lab.formats))
    pairs: list[PerplexityPair] = []
    samples: list[Sample] = []
    for label in bench.lab.formats:
        run, pair, both = _both(bench, label, bench.settings.chunks, 1)
        pairs.append(pair)
        samples += both
    return section({"chunks": bench.settings.chunks, **_settings(run)}, samples=samples, perplexity=pairs)


def perplexity_cost(bench: Bench) -> Section:
    """(2) The perplexity step in rounds: whole process against whole process."""
    count = bench.settings.rounds
    bench.runner.screen.section("2. Perplexity step: wall time and peak memory", 2 * len(bench.lab.formats) * count)
    pairs: dict[str, PerplexityPair] = {}
    samples: list[Sample] = []
    for number, label in bench.rounds(count):
        if label == bench.lab.formats[0]:
            tokens = bench.fresh_folder("tokens") / "tokens.npy"
        run, pair, both = _both(bench, label, bench.settings.timing_chunks, number, tokens)
        samples += both
        if label not in pairs or not pair.same:
            pairs[label] = pair
    settings = {"chunks": bench.settings.timing_chunks, "rounds": count, **_settings(run)}
    return section(settings, samples=samples, perplexity=pairs.values())


def _settings(run: PerplexityRun) -> dict[str, int]:
    shape = {f"labctl_{name}": value for name, value in dataclasses.asdict(run.shape).items()}
    return {"n_ctx": run.n_ctx, "n_threads": run.n_threads, **shape}


def _both(
    bench: Bench, label: str, chunks: int | None, number: int, tokens: Path | None = None
) -> tuple[PerplexityRun, PerplexityPair, tuple[Sample, Sample]]:
    """One format by labctl, then by llama-perplexity.

    Args:
        tokens: where labctl keeps the text's token ids for the next format.
    Raises:
        LabError: they did not score the same chunks.
    """
    nll_path = bench.fresh_folder("nll") / f"{label}.npy"
    place = keep.Place(nll=nll_path, shown=nll_path.name, tokens=tokens)
    run, ours = measured(bench, perplexity_task(bench, label, chunks), place, number)
    bench.runner.screen.step(f"{OURS} {label}, round {number}", ours.wall_s, f"{ours.peak_rss_bytes / 1e6:.0f} MB")
    theirs = bench.runner.run(
        perplexity_command(bench, bench.gguf(label), chunks),
        side=THEIRS,
        format_name=label,
        round_number=number,
        step="perplexity",
        share=lambda out: logs.chunks_done(out) / run.n_chunks,
    )
    running = logs.running_perplexity(theirs.stdout)
    nll = np.load(nll_path)
    nll = nll[~np.isnan(nll[:, 0])]
    if len(running) != len(nll):
        raise LabError(f"{label}: labctl scored {len(nll)} chunks, llama-perplexity {len(running)}.")
    pair = PerplexityPair(
        format=label,
        n_chunks=len(nll),
        ours_running=logs.printed_running(nll),
        theirs_running=running,
        ours=(f"{run.ppl:.4f}", f"{run.ppl_se:.5f}"),
        theirs=logs.final_perplexity(theirs.stdout + theirs.stderr),
    )
    bench.runner.screen.step(
        f"{THEIRS} {label}, round {number}",
        theirs.sample.wall_s,
        f"{theirs.sample.peak_rss_bytes / 1e6:.0f} MB; {pair.n_equal} of {pair.n_chunks} running values equal; "
        f"PPL {pair.ours[0]} against {pair.theirs[0]}",
    )
    return run, pair, (ours, theirs.sample)


def perplexity_task(bench: Bench, label: str, chunks: int | None) -> PerplexityTask:
    """What labctl's child is given for a format's first chunks, or all."""
    return PerplexityTask(
        model_path=str(bench.gguf(label)),
        format=label,
        n_threads=bench.lab.n_threads,
        text=dataclasses.replace(bench.lab.text, path=str(Path(bench.lab.text.path).resolve())),
        n_ctx=512,
        n_first=chunks,
    )


def measured(
    bench: Bench,
    task: PerplexityTask,
    place: keep.Place,
    round_number: int,
    *,
    step: str = "perplexity",
    rider: Rider | None = None,
) -> tuple[PerplexityRun, Sample]:
    """labctl's perplexity of a format, and what its child took."""
    samples: list[Sample] = []

    def run(task: PerplexityTask, kind: type[Scored], *, on_rows: OnRows) -> Scored:
        scored, sample = bench.runner.run_task(
            task, kind, format_name=task.format, round_number=round_number, step=step, on_rows=on_rows
        )
        samples.append(sample)
        return scored

    figures = keep.measure(run, task, place, bench.lab.provenance("perplexity", "", {}, {}), rider=rider)
    return figures, samples[0]


def perplexity_command(bench: Bench, path: Path, chunks: int | None) -> list[str]:
    """llama-perplexity with its own defaults but for files, chunks and threads."""
    limit = [] if chunks is None else ["--chunks", str(chunks)]
    text = str(Path(bench.lab.text.path).resolve())
    return [bench.tools.path("llama-perplexity"), "-m", str(path), "-f", text, "-t", bench.threads, *limit]


def quantization(bench: Bench) -> Section:
    """(3) Each format made by both sides in rounds; the files compared tensor by tensor."""
    count = bench.settings.rounds
    bench.runner.screen.section("3. Quantization", 2 * len(bench.quantized) * count)
    samples: list[Sample] = []
    pairs: list[QuantizedPair] = []
    for number in range(1, count + 1):
        for label in bench.quantized:
            folder = bench.fresh_folder("quantize")
            mine, other = folder / f"ours-{label}.gguf", folder / f"theirs-{label}.gguf"
            task = QuantizeTask(
                model_path=str(Path(bench.lab.model.path).resolve()),
                format=label,
                n_threads=bench.lab.n_threads,
                target_path=str(mine),
                allow_requantize=bench.lab.config.allow_quantized_source,
            )
            _, ours = bench.runner.run_task(task, Made, format_name=label, round_number=number, step="quantize")
            bench.runner.screen.step(f"{OURS} {label}, round {number}", ours.wall_s)
            theirs = bench.runner.run(
                bench.quantize_command(label, other),
                side=THEIRS,
                format_name=label,
                round_number=number,
                step="quantize",
            ).sample
            note = ""
            if number == 1:
                pair = compare_files(label, mine, other)
                pairs.append(pair)
                note = f"{pair.n_same_bytes} of {pair.n_tensors} tensors byte-identical"
            bench.runner.screen.step(f"{THEIRS} {label}, round {number}", theirs.wall_s, note)
            samples += [ours, theirs]
    bench.fresh_folder("quantize")
    return section({"rounds": count, "n_threads": bench.lab.n_threads}, samples=samples, quantized=pairs)


def compare_files(label: str, mine: Path, other: Path) -> QuantizedPair:
    """Compare two GGUF files tensor by tensor, read by the gguf package."""
    from gguf import GGUFReader

    ours = {tensor.name: tensor for tensor in GGUFReader(mine).tensors}
    theirs = {tensor.name: tensor for tensor in GGUFReader(other).tensors}
    alike = [name for name, tensor in theirs.items() if name in ours and ours[name].tensor_type == tensor.tensor_type]
    identical = [
        name for name in alike if np.array_equal(ours[name].data.view(np.uint8), theirs[name].data.view(np.uint8))
    ]
    return QuantizedPair(
        format=label,
        ours_bytes=mine.stat().st_size,
        theirs_bytes=other.stat().st_size,
        ours_types=dict(Counter(tensor.tensor_type.name for tensor in ours.values())),
        theirs_types=dict(Counter(tensor.tensor_type.name for tensor in theirs.values())),
        n_tensors=len(theirs),
        n_same_type=len(alike),
        n_same_bytes=len(identical),
        same_file=file_sha256(mine) == file_sha256(other),
    )
