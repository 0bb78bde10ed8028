"""Comparison 9: how often stopping early ends on the wrong side, by simulation at the limit itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.bench import Bench, section
from benchmarks.records import REAL, Coverage, Section
from labctl.records.arrays import load_rows
from labctl.steps.perplexity.increase import chunk_differences
from labctl.steps.perplexity.sequence import BURN_IN, is_futile, sequence_bounds

Floats = npt.NDArray[np.float64]

N_TEXTS = 10_000
N_CHUNKS = 648
_BATCH = 500  # texts at a time, for the memory's sake
_BLOCK = 8  # neighbouring chunks that are resampled together
_LIMIT = 0.02


def _heavy(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.standard_t(3, shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.lognormal(0.0, 0.6, shape)


def _autocorrelated(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Texts whose neighbouring chunks correlate at 0.8, visited in random order."""
    values = np.empty(shape)
    values[:, 0] = rng.standard_normal(shape[0])
    noise = math.sqrt(1 - 0.8**2) * rng.standard_normal(shape)
    for place in range(1, shape[1]):
        values[:, place] = 0.8 * values[:, place - 1] + noise[:, place]
    return rng.permuted(values, axis=1)


def _resampled(differences: Floats) -> Callable[[np.random.Generator, tuple[int, int]], Floats]:
    """Texts of blocks of neighbouring chunks of a real run, visited in random order."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        n_blocks = -(-shape[1] // _BLOCK)
        starts = rng.integers(0, len(differences) - _BLOCK + 1, (shape[0], n_blocks))
        places = (starts[:, :, None] + np.arange(_BLOCK)).reshape(shape[0], -1)[:, : shape[1]]
        return rng.permuted(differences[places], axis=1)

    return draw


def coverage(bench: Bench) -> Section:
    """(9) Simulated and resampled texts; the real differences are those of comparison 7, as far as it was taken."""
    kinds: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
        "normal": lambda rng, shape: rng.standard_normal(shape),
        "Student t, 3 degrees of freedom": _heavy,
        "lognormal, skewness 2.3": _skewed,
        "autocorrelated, 0.8": _autocorrelated,
        **{f"{label}, {REAL}": _resampled(values) for label, values in _real(bench)},
    }
    bench.runner.screen.section("9. Wrong verdicts by simulation", len(kinds))
    found = []
    for number, (kind, draw) in enumerate(kinds.items()):
        found += _wrong(kind, draw, np.random.default_rng(number))
        bench.runner.screen.step(f"{kind}: {', '.join(f'{one.share:.4f}' for one in found[-3:])}", 0.0)
    return section({"texts": N_TEXTS, "chunks": N_CHUNKS, "patience": bench.lab.config.patience}, coverage=found)


def _real(bench: Bench) -> Iterator[tuple[str, Floats]]:
    """Each format's chunk differences over the whole text, in the text's order."""
    folder = bench.work / "verdicts" / "outputs" / bench.lab.model.name / "nll"
    nll = {label: _rows(folder, label) for label in bench.lab.formats}
    base = nll[bench.lab.model.baseline]
    for label in bench.quantized:
        rows = nll[label]
        if rows is not None and base is not None:
            values = chunk_differences(rows, base)
            if np.isfinite(values).all():
                yield label, values


def _rows(folder: Path, label: str) -> Floats | None:
    paths = [path for path in folder.glob(f"{label}-*.npy") if not path.name.startswith(f"{label}-kl-")]
    return load_rows(paths[0]) if paths else None


def _wrong(
    kind: str, draw: Callable[[np.random.Generator, tuple[int, int]], Floats], rng: np.random.Generator
) -> list[Coverage]:
    """Verdicts about texts whose increase is the limit, with a look after every chunk from the burn-in on."""
    n_wrong = {("this text", False): 0, ("this text", True): 0, ("text like it", False): 0}
    spread, middle = None, None
    for _ in range(N_TEXTS // _BATCH):
        values = draw(rng, (_BATCH, N_CHUNKS))
        if spread is None or middle is None:  # of the kind, not of each text
            many = draw(np.random.default_rng(7), (4 * _BATCH, N_CHUNKS))
            spread, middle = float(many.std()), float(many.mean())
        scaled = (values - middle) / spread * 0.02
        this = scaled - scaled.mean(axis=1, keepdims=True)
        first = _first_stop(this[:, :-1], N_CHUNKS)  # of all of it nothing is left to be wrong about
        n_wrong["this text", False] += int((first < N_CHUNKS).sum())
        n_wrong["this text", True] += _before_giving_up(this + math.log1p(_LIMIT), first)
        n_wrong["text like it", False] += int((_first_stop(scaled, math.inf) < N_CHUNKS).sum())
    return [
        Coverage(kind=kind, asked=asked, gives_up=gives_up, n_texts=N_TEXTS, n_chunks=N_CHUNKS, n_wrong=count)
        for (asked, gives_up), count in n_wrong.items()
    ]


def _first_stop(values: Floats, n_text: float) -> npt.NDArray[np.int64]:
    """Chunks after which the bounds first leave out 0, (n_texts,); N_CHUNKS where they never do."""
    n = np.arange(1, values.shape[1] + 1, dtype=np.float64)
    one, two, three = (np.cumsum(values**power, axis=1) / n for power in (1, 2, 3))
    variance = np.maximum(two - one**2, 1e-30)
    skewness = (three - 3 * one * two + 2 * one**3) / variance**1.5
    farthest = np.maximum(np.maximum.accumulate(values, axis=1) - one, one - np.minimum.accumulate(values, axis=1))
    looks = slice(BURN_IN - 1, None)
    moments = (n, one, np.sqrt(variance * n / np.maximum(n - 1, 1)), skewness, farthest)
    low, high = sequence_bounds(*(part[..., looks] for part in moments), n_text=n_text)
    outside = (low > 0) | (high < 0)
    return np.where(outside.any(axis=1), outside.argmax(axis=1) + BURN_IN, N_CHUNKS)


def _before_giving_up(texts: Floats, first: npt.NDArray[np.int64]) -> int:
    """How many texts stop before a look, at the ends of blocks that grow by half, gives them up."""
    count = 0
    for values, stop in zip(texts[first < N_CHUNKS], first[first < N_CHUNKS], strict=True):
        n = 12
        while n < stop and not is_futile(values[:n], N_CHUNKS, _LIMIT, patience=4):
            n = min(N_CHUNKS, math.ceil(1.5 * n))
        count += bool(n >= stop)
    return count
