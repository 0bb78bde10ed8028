"""How fast a machine reads each type of weights, and how fast it would generate with another model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ERROR = 0.20
"""How far a prediction may be off; benchmarks/, comparison 11 holds predicted against measured speeds."""
_SMALL = 0.02
"""Types of less than this share of a file (norms, a few rows) are counted as if they were of its main type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """One machine, one build of llama.cpp, one number of threads.

    Attributes:
        key: digest of all that it depends on.
        seconds_per_byte: tensor type -> seconds for each byte of weights of a generated token, unpacking included.
        layer_s: seconds a layer takes whatever its weights.
        memory_s: seconds for each byte of a model that no cache holds; nothing is read faster from memory.
    """

    key: str
    seconds_per_byte: dict[str, float]
    layer_s: float
    memory_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One file that was timed: bytes read for a token by type, layers, seconds a token."""

    bytes_by_type: Mapping[str, float]
    n_layer: int
    token_s: float


def solve(timed: Sequence[Timed], key: str) -> Pace:
    """Seconds a byte of each type and seconds a layer that explain the times best, each time weighing alike.

    Least squares of the relative errors; a file's main type takes the bytes of its small ones.

    Args:
        timed: the first file is larger than the processor's cache, and unquantized.
    """
    import numpy as np

    merged = [_merged(one.bytes_by_type) for one in timed]
    types = sorted({name for one in merged for name in one})
    rows = [
        [*(found.get(name, 0.0) / one.token_s for name in types), one.n_layer / one.token_s]
        for one, found in zip(timed, merged, strict=True)
    ]
    matrix = np.array(rows)
    scale = matrix.max(axis=0)  # bytes and layers in one range of numbers
    solved = np.linalg.lstsq(matrix / scale, np.ones(len(rows)), rcond=None)[0] / scale
    first = merged[0]
    layer_s = max(0.0, float(solved[-1]))
    memory_s = (timed[0].token_s - layer_s * timed[0].n_layer) / sum(first.values())
    return Pace(
        key=key,
        seconds_per_byte={name: max(0.0, float(value)) for name, value in zip(types, solved, strict=False)},
        layer_s=layer_s,
        memory_s=max(0.0, memory_s),
    )


def predicted_tps(pace: Pace, bytes_by_type: Mapping[str, float], n_layer: int) -> float | None:
    """Tokens per second of generation with a file that no cache holds; None where it holds types never timed."""
    found = _merged(bytes_by_type)
    if any(name not in pace.seconds_per_byte for name in found):
        return None
    seconds = n_layer * pace.layer_s
    seconds += sum(n_bytes * max(pace.seconds_per_byte[name], pace.memory_s) for name, n_bytes in found.items())
    return 1 / seconds if seconds > 0 else None


def _merged(bytes_by_type: Mapping[str, float]) -> dict[str, float]:
    """The types that matter, with the bytes of the others in the largest."""
    total, main = sum(bytes_by_type.values()), max(bytes_by_type, key=lambda name: bytes_by_type[name])
    kept = {name: n_bytes for name, n_bytes in bytes_by_type.items() if n_bytes >= _SMALL * total}
    kept[main] += total - sum(kept.values())
    return kept
