"""Files are whole or not there, records come back as they were, one labctl at a time works on a model."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import MACHINE, gguf_file

from labctl.errors import LabError
from labctl.lab.folder import RunFolder
from labctl.records import digests, store
from labctl.records.base import SCHEMA_VERSION, Machine
from labctl.records.digests import DigestCache, _sha256, digest, file_sha256
from labctl.records.disk import (
    PARTIAL,
    SCRATCH,
    partial_path,
    remove_partials,
    safe_name,
    write_bytes,
    write_text,
    writing,
)
from labctl.records.files import GgufFile

# -- atomic writes ----------------------------------------------------------------------------------------------------


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    write_bytes(path, b"one, and longer than the next")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_failed_write_leaves_the_old_file_and_no_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, code: int
) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(LabError) as caught:
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file.txt"]
    assert caught.value.hint
    assert ("disk is full" in caught.value.message) == (code in (errno.ENOSPC, errno.EDQUOT))


def test_a_full_disk_is_told_with_the_folder_that_people_know(tmp_path: Path) -> None:
    scratch = tmp_path / "model" / SCRATCH
    scratch.mkdir(parents=True)
    for code, told in ((errno.ENOSPC, f"spool-1 in {scratch.parent}."), (errno.EACCES, f"Cannot write to {scratch}: ")):
        with pytest.raises(LabError) as caught, writing(scratch / "spool-1"):
            raise OSError(code, os.strerror(code))
        assert told in caught.value.message


def test_a_full_device_is_reported_as_a_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(LabError, match="disk is full"),
        writing(Path("/dev/full")),
        Path("/dev/full").open("wb", 0) as to,
    ):
        to.write(b"x")


def test_writing_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(LabError, match="not a directory") as caught:
        RunFolder(tmp_path / "file" / "model").make()
    assert "\n" not in caught.value.message
    with pytest.raises(LabError):
        write_text(tmp_path / "file" / "text.txt", "x")


def test_unchanged_text_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    write_text(path, "Grüße\n")
    os.utime(path, ns=(1, 1))
    write_text(path, "Grüße\n")
    assert path.stat().st_mtime_ns == 1
    write_text(path, "other\n")
    assert path.stat().st_mtime_ns != 1
    assert path.read_bytes() == b"other\n"


def test_partial_files_are_swept_and_others_are_not(tmp_path: Path) -> None:
    partial = partial_path(tmp_path / "model.gguf")
    assert partial.parent == tmp_path
    assert partial.name.startswith(PARTIAL)
    partial.write_bytes(b"half")
    (tmp_path / "model.gguf").write_bytes(b"whole")
    remove_partials(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["model.gguf"]
    remove_partials(tmp_path / "not there")


@given(st.text(max_size=300))
def test_a_partial_name_fits_into_the_folder(name: str) -> None:
    base = safe_name(name)
    assert len(partial_path(Path("folder") / f"{base}-Q4_K_M.gguf").name.encode()) <= 255


# -- names ------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=200))
def test_a_safe_name_never_leaves_its_folder(text: str) -> None:
    name = safe_name(text)
    assert 1 <= len(name) <= 80
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0] not in "-._"
    assert os.path.normpath(os.path.join("outputs", name)) == os.path.join("outputs", name)  # noqa: PTH118


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("..", "model"),
        ("", "model"),
        ("/", "model"),
        ("C:\\x\\y", "C-x-y"),
        ("a\x1b[31mb\n", "a-31mb"),
        ("~root", "root"),
        ("labllama-15m", "labllama-15m"),
        ("Qwen2.5_0.5B", "Qwen2.5_0.5B"),
        ("CON", "model-CON"),
        ("nul.v2", "model-nul.v2"),
        ("com1", "model-com1"),
        ("Console-7B", "Console-7B"),
    ],
)
def test_safe_name_of_hostile_and_plain_names(text: str, expected: str) -> None:
    assert safe_name(text) == expected


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "records" / "quantize-Q4_K_M.json"
    record = gguf_file("Q4_K_M")
    store.write_record(path, record)
    assert store.read_record(path, GgufFile) == record
    envelope = json.loads(path.read_text("utf-8"))
    assert (envelope["schema_version"], envelope["kind"]) == (SCHEMA_VERSION, "GgufFile")


def test_no_record_is_none(tmp_path: Path) -> None:
    assert store.read_record(tmp_path / "none.json", Machine) is None
    assert store.read_record(tmp_path, Machine) is None


def test_a_record_cut_anywhere_or_of_another_kind_is_none(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    store.write_record(path, MACHINE)
    whole = path.read_bytes()
    assert store.read_record(path, GgufFile) is None
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        assert store.read_record(path, Machine) is None, length


@given(st.binary(max_size=300))
def test_garbage_is_no_record(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.json"
    path.write_bytes(data)
    assert store.read_record(path, Machine) is None


def _with(path: Path, **changes: object) -> None:
    store.write_record(path, MACHINE)
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def test_an_older_schema_is_redone_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    _with(path, schema_version=SCHEMA_VERSION - 1)
    assert store.read_record(path, Machine) is None
    _with(path, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(LabError, match="newer labctl") as caught:
        store.read_record(path, Machine)
    assert "Update" in caught.value.hint


def test_a_field_of_a_wrong_type_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    store.write_record(path, MACHINE)
    envelope = json.loads(path.read_text("utf-8"))
    envelope["record"]["ram_bytes"] = "much"
    path.write_text(json.dumps(envelope), "utf-8")
    assert store.read_record(path, Machine) is None


def test_a_record_of_endless_brackets_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text('{"schema_version": 1, "kind": "Machine", "record": ' + "[" * 100_000, "utf-8")
    assert store.read_record(path, Machine) is None


# -- digests ----------------------------------------------------------------------------------------------------------


def test_digest_does_not_depend_on_order_and_does_on_every_value() -> None:
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    different: list[dict[str, Any]] = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": None}, {}]
    assert len({digest(one) for one in different}) == len(different)


def test_file_sha256_is_the_files_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * 9000
    path.write_bytes(data)
    assert file_sha256(path) == hashlib.sha256(data).hexdigest()
    with path.open("rb") as stream:
        assert _sha256(stream) == hashlib.sha256(data).hexdigest()


def test_digest_cache_notices_a_change_of_size_time_or_file(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    cache = DigestCache(tmp_path / "digests.json")

    def true() -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    path.write_bytes(b"one")
    assert cache.sha256(path) == true()
    path.write_bytes(b"longer")
    assert cache.sha256(path) == true()
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"LONGER")
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert cache.sha256(path) == true()
    other.write_bytes(b"replac")
    os.utime(other, ns=(stamp + 1, stamp + 1))
    other.replace(path)  # same size, same time, another file
    assert cache.sha256(path) == true()


def test_digest_cache_reads_a_file_once_and_remembers_it_over_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    expected = DigestCache(tmp_path / "digests.json").sha256(path)
    monkeypatch.setattr(digests, "file_sha256", lambda _: pytest.fail("read again"))
    assert DigestCache(tmp_path / "digests.json").sha256(path) == expected


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"x": 1}', '{"PATH": [1, 2]}', "\udcff"])
def test_a_damaged_digest_cache_costs_time_only(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    (tmp_path / "digests.json").write_bytes(
        damage.replace("PATH", str(path.resolve())).encode("utf-8", "surrogateescape")
    )
    assert DigestCache(tmp_path / "digests.json").sha256(path) == hashlib.sha256(b"one").hexdigest()


def test_digest_of_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="Cannot read"):
        DigestCache(tmp_path / "digests.json").sha256(tmp_path / "none")


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("", "utf-8")
    (tmp_path / "file").write_bytes(b"one")
    cache = DigestCache(tmp_path / "blocked" / "digests.json")
    assert cache.sha256(tmp_path / "file") == hashlib.sha256(b"one").hexdigest()
