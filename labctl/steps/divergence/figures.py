"""What a divergence's record says, against its raw samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from labctl.records.arrays import map_array
from labctl.steps.divergence.record import DivergenceRun


def doubts(run: DivergenceRun, folder: Path) -> Iterator[str]:
    """What of a record does not follow from its tokens' values."""
    mean, top = _from_values(folder, run)
    if not math.isclose(mean, run.kld_mean, rel_tol=1e-9, abs_tol=1e-15):
        yield f"KL divergence {run.kld_mean:.6f} in the record, {mean:.6f} from the tokens' values"
    if not math.isclose(top, run.same_top_p, rel_tol=1e-9):
        yield f"same top token {run.same_top_p:.6f} in the record, {top:.6f} from the tokens' values"


def _from_values(folder: Path, run: DivergenceRun) -> tuple[float, float]:
    """Mean KL divergence and top-token agreement from each token's values; NaN where these are missing or damaged."""
    path = folder / run.values_path
    try:
        if folder.resolve() not in path.resolve().parents:
            return math.nan, math.nan
        stored = map_array(path)
        if stored is None or not all(0 <= start < stop <= len(stored) for start, stop in run.chunks):
            return math.nan, math.nan
        values = np.asarray(stored[[chunk for start, stop in run.chunks for chunk in range(start, stop)]])
        n_scored = values.shape[1] // 2
        return float(values[:, :n_scored].mean()), float((values[:, n_scored:] > 0.5).mean())
    except (OSError, ValueError, IndexError, EOFError):
        return math.nan, math.nan
