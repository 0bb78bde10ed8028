"""The comparison gives way to perplexity on a full disk, whoever meets it first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.errors import LabError
from labctl.records.arrays import ArrayJournal
from labctl.records.sources import TextSource
from labctl.steps.divergence.keep import Comparison
from labctl.steps.divergence.record import list_path
from labctl.steps.perplexity.record import PerplexityRun

N_CTX = 128


@pytest.mark.parametrize("is_baseline", [True, False], ids=["baseline", "other format"])
def test_the_spool_is_taken_from_under_a_child_that_uses_it(
    is_baseline: bool,
    measure_perplexity: Callable[..., PerplexityRun],
    demo_text: TextSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the third chunk on no row can be kept while the spool takes the room."""
    measure = functools.partial(measure_perplexity, "Q8_0", demo_text, 8, n_ctx=N_CTX)
    spool = tmp_path / "spool"
    whole = measure(tmp_path / "whole.npy", rider=Comparison(spool, 8, N_CTX, None, optional=True))
    kl_path = None
    if is_baseline:
        spool.unlink()
        list_path(spool).unlink()
    else:
        kl_path = tmp_path / "kl.npy"
    add = ArrayJournal.add

    def full(self: ArrayJournal, number: int, values: bytes) -> None:
        if number >= 2 and spool.exists():
            raise LabError("The disk is full.", "Free some space.")
        add(self, number, values)

    monkeypatch.setattr(ArrayJournal, "add", full)
    run = measure(tmp_path / "nll.npy", rider=Comparison(spool, 8, N_CTX, kl_path, optional=True))
    assert (run.ppl, run.chunks) == (whole.ppl, ((0, 8),))
    assert not spool.exists() and not list_path(spool).exists()
    if kl_path is not None:
        assert sorted(ArrayJournal(kl_path, 2 * (N_CTX - 1 - N_CTX // 2)).rows) == [0, 1]
