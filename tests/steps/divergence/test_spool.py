"""The baseline's probabilities on disk: written and read by pieces, and believed only where they are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labctl.errors import LabError
from labctl.steps.divergence.kl import log_softmax_rows
from labctl.steps.divergence.record import list_path
from labctl.steps.divergence.spool import Spool

N_SCORED, N_VOCAB = 10, 33
PIECES = ((0, 4), (4, 8), (8, 10))


def logits(row: int) -> np.ndarray:
    return np.random.default_rng(row).normal(0, 3, (N_SCORED, N_VOCAB)).astype(np.float32)


def open_spool(folder: Path, n_vocab: int = N_VOCAB) -> Spool:
    return Spool(folder / "spool", N_SCORED, n_vocab)


def write(spool: Spool, *rows: int) -> None:
    spool.begin()
    for start, stop in PIECES:
        for row in rows:
            spool.write(row, start, logits(row)[start:stop])
    for row in rows:
        spool.close_row(row)


def read(spool: Spool, row: int) -> np.ndarray:
    parts = [spool.read(row, start, stop - start) for start, stop in PIECES]
    spool.check_row(row)
    return np.vstack(parts)


def test_rows_written_side_by_side_come_back(tmp_path: Path) -> None:
    write(open_spool(tmp_path), 2, 0)
    again = open_spool(tmp_path)
    assert again.rows == {0, 2}
    for row in (0, 2):
        assert (read(again, row) == log_softmax_rows(logits(row))).all()


def test_a_row_counts_only_when_it_is_closed(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    write(spool, 0)
    spool.write(1, 0, logits(1)[:4])  # killed here
    again = open_spool(tmp_path)
    assert again.rows == {0}
    write(again, 1)
    assert (read(open_spool(tmp_path), 1) == log_softmax_rows(logits(1))).all()


@pytest.mark.parametrize("place", [0, 5, N_SCORED * N_VOCAB - 1])
def test_a_changed_value_is_found(tmp_path: Path, place: int) -> None:
    spool = open_spool(tmp_path)
    write(spool, 0, 1)
    values = np.fromfile(tmp_path / "spool", dtype=np.float32)
    values[N_SCORED * N_VOCAB + place] += 1
    values.tofile(tmp_path / "spool")
    assert (read(spool, 0) == log_softmax_rows(logits(0))).all()
    with pytest.raises(LabError, match="do not fit"):
        read(spool, 1)
    again = open_spool(tmp_path)
    again.begin()
    assert again.rows == {0}


def test_a_cut_off_file_and_another_vocabulary_are_refused(tmp_path: Path) -> None:
    write(open_spool(tmp_path), 0, 1)
    with pytest.raises(LabError, match="do not fit"):
        read(open_spool(tmp_path, N_VOCAB + 1), 1)
    with (tmp_path / "spool").open("r+b") as stream:
        stream.truncate(4 * (N_SCORED * N_VOCAB + 20))
    with pytest.raises(LabError, match="do not fit"):
        read(open_spool(tmp_path), 1)


def test_a_torn_last_line_of_the_list_counts_nothing(tmp_path: Path) -> None:
    write(open_spool(tmp_path), 0, 1)
    path = list_path(tmp_path / "spool")
    path.write_bytes(path.read_bytes()[:-1])
    assert open_spool(tmp_path).rows == {0}


def test_removing_leaves_nothing_and_nothing_is_written_after_it(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    write(spool, 0)
    spool.remove()
    with pytest.raises(LabError):
        spool.write(1, 0, logits(1)[:4])
    with pytest.raises(LabError):
        spool.read(0, 0, 4)
    assert not list(tmp_path.iterdir())
