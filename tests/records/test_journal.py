"""A killed measurement loses at most the chunks it was computing."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import LabError
from labctl.records import arrays as journal
from labctl.records.arrays import ArrayJournal, from_ranges, load_rows, to_ranges

N_CHUNKS, N_SCORED = 6, 5
ROW_BYTES = 12 + 8 * N_SCORED


def nll(chunk: int) -> np.ndarray:
    return np.linspace(0.1, 3.0, N_SCORED) + chunk


def there(folder: Path) -> list[int]:
    """The rows that a newly opened journal has."""
    return sorted(open_store(folder).rows)


def open_store(folder: Path) -> ArrayJournal:
    return ArrayJournal(folder / "Q8_0.npy", N_SCORED)


def journal_of(folder: Path) -> Path:
    return folder / ".journal-Q8_0"


def test_chunks_are_there_after_a_kill_without_finish(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    for chunk in (4, 0, 2):
        first.add(chunk, nll(chunk).tobytes())
    # no close, no finish: as after kill -9
    second = open_store(tmp_path)
    assert sorted(second.rows) == [0, 2, 4]
    assert all((second.rows[chunk] == nll(chunk)).all() for chunk in (0, 2, 4))
    first.close()


def test_a_row_is_readable_by_its_documented_layout(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(3, nll(3).tobytes())
    store.close()
    data = journal_of(tmp_path).read_bytes()
    assert len(data) == ROW_BYTES
    chunk, count, checksum = struct.unpack_from("<III", data)
    assert (chunk, count) == (3, N_SCORED)
    assert checksum == zlib.crc32(data[12:], 3)
    assert (np.frombuffer(data[12:], "<f8") == nll(3)).all()


def test_a_journal_torn_at_any_byte_keeps_its_whole_rows_and_goes_on(tmp_path: Path) -> None:
    whole = open_store(tmp_path)
    for chunk in range(3):
        whole.add(chunk, nll(chunk).tobytes())
    whole.close()
    data = journal_of(tmp_path).read_bytes()
    for length in range(len(data) + 1):
        journal_of(tmp_path).write_bytes(data[:length])
        n_whole = length // ROW_BYTES
        store = open_store(tmp_path)
        assert len(store.rows) == n_whole, length
        for chunk in set(range(N_CHUNKS)) - set(store.rows):
            store.add(chunk, nll(chunk).tobytes())
        store.close()
        again = open_store(tmp_path)
        assert all((again.rows[chunk] == nll(chunk)).all() for chunk in range(N_CHUNKS)), length


def test_a_changed_byte_anywhere_in_a_row_drops_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(0, nll(0).tobytes())
    store.add(1, nll(1).tobytes())
    store.close()
    data = journal_of(tmp_path).read_bytes()
    for place in range(ROW_BYTES, 2 * ROW_BYTES):
        changed = bytearray(data)
        changed[place] ^= 0x10
        journal_of(tmp_path).write_bytes(changed)
        assert there(tmp_path) == [0], place


def test_finish_folds_the_journal_into_one_file_and_is_idempotent(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(1, nll(1).tobytes())
    store.finish(N_CHUNKS)
    assert not journal_of(tmp_path).exists()
    written = (tmp_path / "Q8_0.npy").stat()
    store.finish(N_CHUNKS)
    assert (tmp_path / "Q8_0.npy").stat().st_mtime_ns == written.st_mtime_ns
    again = open_store(tmp_path)
    again.finish(N_CHUNKS)
    loaded = load_rows(tmp_path / "Q8_0.npy")
    assert loaded is not None
    assert loaded.dtype == np.float64
    assert (loaded[1] == nll(1)).all()
    assert np.isnan(np.delete(loaded, 1, axis=0)).all()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["Q8_0.npy"]


def test_adding_after_finish_keeps_the_earlier_chunks(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(1, nll(1).tobytes())
    store.finish(N_CHUNKS)
    store = open_store(tmp_path)
    store.add(0, nll(0).tobytes())
    store.finish(N_CHUNKS)
    assert there(tmp_path) == [0, 1]


def test_a_kill_between_the_npy_and_the_journals_removal_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    store.add(0, nll(0).tobytes())
    store.add(5, nll(5).tobytes())

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.finish(N_CHUNKS)
    monkeypatch.undo()
    assert journal_of(tmp_path).exists()
    again = open_store(tmp_path)
    assert sorted(again.rows) == [0, 5]
    again.finish(N_CHUNKS)
    assert not journal_of(tmp_path).exists()
    assert (open_store(tmp_path).rows[5] == nll(5)).all()


def test_a_kill_before_the_npy_is_published_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    store.add(0, nll(0).tobytes())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        store.finish(N_CHUNKS)
    monkeypatch.undo()
    assert there(tmp_path) == [0]


def test_a_journal_of_another_shape_is_not_taken_over(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(5, nll(5).tobytes())
    store.close()
    store = open_store(tmp_path)
    store.finish(3)
    assert not ArrayJournal(tmp_path / "Q8_0.npy", N_SCORED + 1).rows
    shorter = load_rows(tmp_path / "Q8_0.npy")
    assert shorter is not None and shorter.shape == (3, N_SCORED) and np.isnan(shorter).all()


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2)), np.zeros(4), np.zeros((N_CHUNKS, N_SCORED), np.float32), np.array([[{}]], dtype=object)],
    ids=["other shape", "one axis", "float32", "pickled"],
)
def test_an_npy_of_another_make_is_measured_again(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "Q8_0.npy", array, allow_pickle=True)
    assert there(tmp_path) == []


def test_an_npy_cut_anywhere_is_measured_again(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((N_CHUNKS, N_SCORED)))
    data = buffer.getvalue()
    for length in [*range(0, 140), len(data) - 1]:
        (tmp_path / "Q8_0.npy").write_bytes(data[:length])
        assert there(tmp_path) == [], length


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    journal_of(tmp_path).symlink_to("/dev/full")
    store = ArrayJournal(tmp_path / "other.npy", N_SCORED)
    store._journal_path = journal_of(tmp_path)
    with pytest.raises(LabError, match="disk is full"):
        store.add(0, nll(0).tobytes())
    assert not store.rows
    with contextlib.suppress(OSError):
        store.close()


def test_closing_after_a_full_disk_does_not_hide_the_reason(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    store = open_store(tmp_path)
    journal_of(tmp_path).symlink_to("/dev/full")
    with pytest.raises(LabError, match="disk is full"):
        store.add(0, nll(0).tobytes())
    store.close()


@given(st.lists(st.integers(0, 40)))
def test_ranges_cover_exactly_these_chunks(chunks: list[int]) -> None:
    ranges = to_ranges(chunks)
    assert from_ranges(ranges) == set(chunks)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))  # no two that could be one
