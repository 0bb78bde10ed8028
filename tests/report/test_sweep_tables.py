"""The worksheet's tables of several sequences and of threads."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.lab_factory import make_lab, provenance

from labctl.report.build import ReportOptions, build
from labctl.report.sweep_tables import batch_note, batch_table, threads_note, threads_table
from labctl.steps.batch.record import BatchPoint, BatchRun
from labctl.steps.batch.step import BATCH
from labctl.steps.bench.record import SpeedVisit
from labctl.steps.measured import Measured
from labctl.steps.threads.record import ThreadSweep
from labctl.steps.threads.step import THREADS


def batch(label: str, seconds: dict[int, float]) -> BatchRun:
    """So many seconds for 128 tokens of each sequence, and half of that for the prompts."""
    points = tuple(BatchPoint(n_seq=n, pp_s=(s / 2,), tg_s=(s,)) for n, s in seconds.items())
    return BatchRun(format=label, n_threads=2, n_prompt=128, n_gen=128, points=points, provenance=provenance("batch"))


def sweep(seconds: dict[int, tuple[float, ...]]) -> ThreadSweep:
    """One repetition a round, as long for the prompt."""
    visits = {
        count: tuple(
            SpeedVisit(round=place, order=place, load_s=0, pp_s=(one,), tg_s=(one,), token_s=((one / 128,),))
            for place, one in enumerate(times)
        )
        for count, times in seconds.items()
    }
    return ThreadSweep(format="Q4_K_M", n_prompt=512, n_gen=128, visits=visits, provenance=provenance("threads"))


def with_sweeps(folder: Path) -> Measured:
    lab = make_lab(folder)
    lab.of(BATCH)["F16"] = batch("F16", {1: 2.0, 4: 4.0})
    lab.of(BATCH)["Q4_K_M"] = batch("Q4_K_M", {1: 1.0, 2: 1.6})
    lab.of(THREADS)["Q4_K_M"] = sweep({1: (2.0, 2.5), 2: (1.0, 1.28)})
    return lab


def test_tokens_of_all_sequences_together(tmp_path: Path) -> None:
    header, _, *lines = batch_table(with_sweeps(tmp_path)).splitlines()
    assert (
        "tg128, 1 at once | tg128, 2 at once | tg128, 4 at once | Most against fewest | pp128, most at once" in header
    )
    assert lines == [
        "| F16 | 64.0 | not measured | 128 | 2.00x | 256 |",
        "| Q4_K_M | 128 | 160 | not measured | 1.25x | 320 |",
    ]


def test_the_sweep_of_threads(tmp_path: Path) -> None:
    lab = with_sweeps(tmp_path)
    assert threads_table(lab).splitlines()[2:] == [
        "| 1 | 57.2 (13.9 to 236) | 229 (55.5 to 945) |",  # two rounds: 6.354 ranges to either side
        "| 2 | 113 (23.6 to 543) | 453 (94.3 to 2172) |",
    ]
    note = threads_note(lab)
    assert note.startswith("Q4_K_M; 2 rounds") and "generating text (tg): 2; for reading" in note


@pytest.mark.slow
def test_the_worksheet_and_the_page_show_them_only_if_they_were_measured(tmp_path: Path) -> None:
    for made, shown in ((make_lab(tmp_path / "a"), False), (with_sweeps(tmp_path / "b"), True)):
        folder = tmp_path / str(shown)
        build(made, folder, ReportOptions())
        for name in ("worksheet.md", "index.html"):
            text = (folder / name).read_text("utf-8")
            assert ("Several sequences side by side" in text) is shown
            assert ("Different numbers of threads" in text) is shown
            assert ("records/batch-{F16,Q4_K_M}.json" in text) is shown
            assert ("records/threads-Q4_K_M.json" in text) is shown
    empty = make_lab(tmp_path / "c")
    assert batch_table(empty) == batch_note(empty) == threads_table(empty) == threads_note(empty) == ""
