"""Bad texts, settings, answers, records and submissions: one clear line, or work redone; never a traceback."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from kit.command import ROOT, Cli
from kit.small_gguf import TEXT, Small

from labctl.errors import LabError
from labctl.handin import compare, compare_files, submission
from labctl.handin.verify import verify
from labctl.lab.sources.texts import MAX_TEXT_BYTES, resolve_text
from labctl.lab.values import load_config
from labctl.pipeline.reporting import kinds
from labctl.records import arrays as journal
from labctl.records import store
from labctl.report.build import read_answers

# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, cli: Cli) -> Callable[[bytes], Any]:
    """Measure the small model's perplexity on a text: the command's result."""
    (tmp_path / "m.gguf").write_bytes(Small().bytes())
    arguments = ("--ctx", "64", "--chunks", "1", "--formats", "Q8_0", "--yes", "--threads", "1", "--json")

    def run(content: bytes) -> Any:
        (tmp_path / "t.txt").write_bytes(content)
        return cli("perplexity", "--model", "m.gguf", "--text", "t.txt", *arguments, cwd=tmp_path)

    return run


def test_one_token_is_too_short(small: Callable[[bytes], Any]) -> None:
    done = small(b"a")
    assert done.returncode == 1 and "t.txt is too short" in done.stderr and done.stderr.count("error:") == 1


def test_windows_line_ends_and_a_byte_order_mark_are_measured_as_they_are(small: Callable[[bytes], Any]) -> None:
    done = small(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert done.returncode == 0, done.stderr


def test_a_line_of_two_million_letters_is_read(small: Callable[[bytes], Any]) -> None:
    resource = pytest.importorskip("resource", reason="POSIX")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    begun = time.monotonic()
    done = small(b"ab" * 1_000_000)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 120
    assert max(0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before) < 1_000_000  # kB


@pytest.mark.parametrize("size", [MAX_TEXT_BYTES + 1, 100_000_000])
def test_a_line_of_a_hundred_megabytes_is_refused_unread(tmp_path: Path, size: int) -> None:
    path = tmp_path / "long.txt"
    with path.open("wb") as stream:
        stream.truncate(size)
    begun = time.monotonic()
    with pytest.raises(LabError, match="larger than 32 MiB") as caught:
        resolve_text(str(path), ROOT / "lab_data")
    assert time.monotonic() - begun < 1 and "Cut a part out" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"\x89PNG\0", "zero bytes"),
        ("Grüße".encode("latin-1"), "not UTF-8"),
        ("Text".encode("utf-16"), "but UTF-16"),
        (b"ok \xed\xa0\x80", "not UTF-8"),
        (b"\x80" * 1000, "not UTF-8"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(LabError, match=said):
        resolve_text(str(tmp_path / "t.txt"), ROOT / "lab_data")


# -- settings and answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("seed = " + "9" * 5000, "not valid TOML"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("hang_s = inf", "hang_s"),
        ("hang_s = nan", "hang_s"),
        ("bench_budget_s = nan", "bench_budget_s"),
        ("bench_budget_s = -1.0", "bench_budget_s"),
        ("new_tokens = 99999999999999999999999", "new_tokens"),
        ("bench_max_rounds = 1000000000", "bench_max_rounds"),
        ("probe_items = 99999999999999999999999", "probe_items"),
        ("kl_spool_bytes = 99999999999999999999999", "kl_spool_bytes"),
        ("chunks = 99999999999999999999999", "chunks"),
        ("memory_limit_bytes = -1", "memory_limit_bytes"),
        ("memory_limit = 1", "memory_limit_bytes"),
        ("chunk = 3", "chunks"),
        ("[chunks]\nx = 1", "chunks"),
        ("seed = 1979-05-27", "seed"),
        ("# " + "x" * (1 << 20), "larger than a settings file"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_lab_toml_is_one_line(tmp_path: Path, toml: str, said: str) -> None:
    (tmp_path / "lab.toml").write_text(toml + "\n", "utf-8")
    with pytest.raises(LabError) as caught:
        load_config({}, tmp_path, {})
    assert said in caught.value.message + caught.value.hint and len(caught.value.message) < 500
    assert caught.value.hint


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("Q" + "1" * 5000 + ' = "x"', "is not an answer"),
        ("Q6 = " + "9" * 5000, "Cannot read"),
        ("Q6 = " + "[" * 100_000, "Cannot read"),
        ('q_6 = "x"', "Did you mean Q6"),
        ('Question12 = "x"', "Did you mean Q12"),
        ('Q0 = "x"', "is not an answer"),
        ('Q³ = "x"', "Cannot read"),
        ('"Q³" = "x"', "is not an answer"),
        ("Q6 = 3", "needs text in quotes"),
        ('[Q6]\ntext = "x"', "needs text in quotes"),
        ('Q6 = "x"\nQ06 = "y"', "twice"),
        ("# " + "x" * (1 << 20), "larger than 18 answers"),
        ("\x00", "Cannot read"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_answers_toml_is_one_line(tmp_path: Path, toml: str, said: str) -> None:
    path = tmp_path / "answers.toml"
    path.write_text(toml + "\n", "utf-8")
    with pytest.raises(LabError) as caught:
        read_answers(path)
    assert said in caught.value.message and len(caught.value.message) < 500 + len(str(path)) and caught.value.hint


# -- records ----------------------------------------------------------------------------------------------------------

Change = Callable[[Path], None]


def changed(**fields: Any) -> Change:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("change", "status", "said", "set_aside"),
    [
        (changed(schema_version=0), 0, "", False),
        (changed(schema_version=99), 1, "newer labctl (schema 99", False),
        (cut, 0, "damaged and is set aside", True),
        (lambda path: path.write_bytes(b"\xff\xfe\0"), 0, "damaged and is set aside", True),
        (lambda path: path.write_text("[" * 100_000, "utf-8"), 0, "damaged and is set aside", True),
        (changed(record={"format": 3}), 0, "damaged and is set aside", True),
    ],
    ids=["older", "newer", "cut", "binary", "nested", "other fields"],
)
def test_a_bad_record_is_redone_or_refused_and_said(
    cli: Cli, lab_copy: Path, change: Change, status: int, said: str, set_aside: bool
) -> None:
    path = lab_copy / "outputs/labllama-15m/records/memory-Q8_0.json"
    good = json.loads(path.read_text("utf-8"))
    change(path)
    bad = path.read_bytes()
    done = cli("memory", cwd=lab_copy)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    assert said in done.stderr
    aside = path.with_name(path.name + ".damaged")
    assert aside.exists() == set_aside
    if set_aside:
        assert aside.read_bytes() == bad
    if status == 0:
        assert json.loads(path.read_text("utf-8"))["record"]["format"] == good["record"]["format"]


def test_sound_records_stay_where_they_are(lab_copy: Path) -> None:
    folder = lab_copy / "outputs/labllama-15m/records"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert store.set_aside_damaged(folder, kinds()) == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def npy(header: str, payload: bytes = bytes(800)) -> bytes:
    head = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        bytes(500),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10, 10), }")[:300],
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 255), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 10), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (10, 10), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10, 10), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (100,), }"),
        npy("__import__('os').system('touch pwned')"),
        npy("((((((((((((((((((((((((((((((((((((((((((((((((((((((((((("),
        npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (10, 10), }"),
    ],
)
def test_a_damaged_file_of_values_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert journal.load_rows(tmp_path / "x.npy") is None
    assert not Path("pwned").exists()


# -- strangers' submissions -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(cli: Cli, small_lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "lab"
    shutil.copytree(small_lab, folder)
    done = cli("submit", "--incomplete", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Path(folder / done.stdout.strip())


def test_random_damage_to_a_zip_never_escapes(packed: Path, tmp_path: Path) -> None:
    whole, chance = packed.read_bytes(), random.Random(5)
    path = tmp_path / "s.zip"
    outcomes = {True: 0, False: 0}
    for number in range(250):
        data = bytearray(whole)
        end = len(data) - 4000 if number % 2 else 0  # half of them in the directory at the end
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(end, len(data))] = chance.randrange(256)
        if number % 10 == 0:
            del data[chance.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            submission.read_manifest(path, submission.read_zip(path))
            outcomes[True] += 1
        except LabError as error:
            assert "\n" not in error.message and len(error.message) < 1000
            outcomes[False] += 1
    assert outcomes[False] > 100


def repacked(packed: Path, path: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """A submission with its files changed and the manifest made to agree."""
    files = submission.read_zip(packed)
    manifest = submission.read_manifest(packed, files)
    del files["manifest.json"]
    edit(files)
    entries = {
        name: submission.FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in files.items()
    }
    submission.write_zip(path, msgspec.structs.replace(manifest, files=entries), files)
    return path


def record(step: str, **fields: Any) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        name = next(one for one in files if one.endswith(f"records/{step}.json"))
        content = json.loads(files[name])
        content["record"].update(fields)
        files[name] = json.dumps(content).encode()

    return edit


def raw(end: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        for name in [one for one in files if one.endswith(end)]:
            files[name] = data

    return edit


STRANGE: dict[str, Callable[[dict[str, bytes]], None]] = {
    "endless number": record("quantize-Q8_0", size_bytes=10**400),
    "no size": record("quantize-F16", size_bytes=0, n_params=0, tensor_bytes=0),
    "chunks backwards": record("perplexity-Q8_0", chunks=[[9, 2]]),
    "chunks beyond": record("perplexity-Q8_0", chunks=[[0, 10**12]]),
    "no visits": record("bench-Q8_0", visits=[]),
    "no loads": record("memory-Q8_0", loads=[]),
    "noise of no chunks": record("noise-F16", chunks=[]),
    "negative noise": record("noise-F16", klds=[-1.0, 0.0, 0.0, 0.0]),
    "noise of too many": record("noise-F16", same_tops=[10**9] * 4),
    "a path out": record("perplexity-F16", nll_path="../../../../etc/passwd"),
    "a name out": record("source", name="../../evil", baseline="../../evil"),
    "values torn": raw(".npy", b"\x93NUMPY"),
    "results of bytes": raw("results.csv", b"\xff\x00\n" * 100),
    "newer record": raw("records/source.json", b'{"schema_version": 9, "kind": "SourceModel", "record": {}}'),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_submissions_are_found_wrong_or_refused_and_nothing_worse(
    packed: Path, tmp_path: Path, case: str
) -> None:
    path = repacked(packed, tmp_path / "s.zip", STRANGE[case])
    config = load_config(
        {"lab_data": str(tmp_path / "none"), "outputs": str(tmp_path / "none"), "text": "demo"}, tmp_path, {}
    )
    try:
        checks = verify(path, config, seed=1)
        assert any(check.status == "wrong" for check in checks)
    except LabError as error:
        assert error.hint
    try:
        with compare.opened([path, packed]) as runs, compare.contradictions("The runs"):
            compare_files.files_of(compare.compare(runs))
    except LabError as error:
        assert error.hint and "\n" not in error.message
    assert not list(tmp_path.rglob("evil*"))


def test_a_zip_packed_by_another_method_is_refused(packed: Path, tmp_path: Path) -> None:
    files = submission.read_zip(packed)
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_LZMA) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(LabError, match="cannot hold"):
        submission.read_zip(tmp_path / "s.zip")


def test_values_of_a_stranger_are_not_taken_for_more_than_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    found = journal.load_rows(tmp_path / "x.npy")
    assert found is not None and found.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
