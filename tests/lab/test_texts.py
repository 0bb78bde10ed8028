"""Which text perplexity is measured on, and that a wrong WikiText-2 is never used in silence."""

from __future__ import annotations

import hashlib
import io
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.hub_server import Hub, Repo, hub_for_this_test

from labctl.errors import LabError
from labctl.lab.sources import hub, texts
from labctl.records import places

REPOSITORY_DATA = Path(__file__).resolve().parents[2] / "lab_data"
# The official text is CC BY-SA and not in the repository: another text plays it, with its own digest.
WIKI = (" = Robert <unk> = \n \n Robert <unk> is an English film , television and theatre actor . \n" * 40).encode()


def zipped(member: str = texts.WIKITEXT_FILE, content: bytes = WIKI) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("wikitext-2-raw/wiki.train.raw", b"train")
        archive.writestr("../outside.txt", b"must not be unpacked")
        archive.writestr(member, content)
    return buffer.getvalue()


@pytest.fixture
def lab_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lab_data"
    (folder / "demo").mkdir(parents=True)
    (folder / texts.DEMO_FILE).write_bytes((REPOSITORY_DATA / texts.DEMO_FILE).read_bytes())
    monkeypatch.delenv("LABCTL_WIKITEXT", raising=False)
    monkeypatch.setattr(texts, "WIKITEXT_SHA256", hashlib.sha256(WIKI).hexdigest())
    monkeypatch.setattr(texts, "WIKITEXT_BYTES", len(WIKI))
    monkeypatch.setattr(places, "BESIDE", tmp_path / "beside")
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_for_this_test(
        Hub(datasets={texts.HUB_DATASET: Repo({texts.HUB_ZIP: zipped()})}), tmp_path / "hf", monkeypatch
    ) as running:
        yield running


def refused(spec: str | None, lab_data: Path, offline: bool = False) -> LabError:
    with pytest.raises(LabError) as caught:
        texts.resolve_text(spec, lab_data, offline=offline)
    assert "\n" not in caught.value.message + caught.value.hint and caught.value.hint
    return caught.value


def test_official_digest_and_size() -> None:
    assert texts.WIKITEXT_SHA256 == "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
    assert texts.WIKITEXT_BYTES == 1_290_590


# -- WikiText-2 -------------------------------------------------------------------------------------------------------


def test_fetched_once_then_kept(server: Hub, lab_data: Path, tmp_path: Path) -> None:
    first = texts.resolve_text(None, lab_data)
    assert (first.kind, first.name, first.notice) == ("wikitext-2", "WikiText-2 (raw, test split)", "")
    assert Path(first.path) == lab_data / "wikitext-2-raw" / "wiki.test.raw"
    assert Path(first.path).read_bytes() == WIKI and first.size_bytes == len(WIKI)
    assert first.sha256 == hashlib.sha256(WIKI).hexdigest()
    assert [path.name for path in Path(first.path).parent.iterdir()] == ["wiki.test.raw"]
    assert not list(tmp_path.rglob("outside.txt")) and not list(tmp_path.rglob("wiki.train.raw"))
    n_requests = len(server.requests)
    assert texts.resolve_text("wikitext-2", lab_data) == first
    assert texts.resolve_text(None, lab_data, offline=True) == first
    assert len(server.requests) == n_requests


def test_kept_copy_that_is_another_text_is_refused(lab_data: Path) -> None:
    kept = lab_data / texts.WIKITEXT_FILE
    kept.parent.mkdir()
    kept.write_bytes(WIKI + b"\n")
    for spec in (None, "wikitext-2"):
        error = refused(spec, lab_data)
        assert texts.WIKITEXT_SHA256 in error.message
        assert hashlib.sha256(WIKI + b"\n").hexdigest() in error.message
        assert "Delete" in error.hint
    assert kept.read_bytes() == WIKI + b"\n"


def test_environment_names_a_copy(lab_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "my copy.raw"
    copy.write_bytes(WIKI)
    monkeypatch.setenv("LABCTL_WIKITEXT", str(copy))
    found = texts.resolve_text(None, lab_data)
    assert (found.path, found.kind) == (str(copy), "wikitext-2") and not (lab_data / texts.WIKITEXT_FILE).exists()
    copy.write_bytes(WIKI.replace(b"Robert", b"Albert"))
    error = refused(None, lab_data)
    assert texts.WIKITEXT_SHA256 in error.message and hashlib.sha256(copy.read_bytes()).hexdigest() in error.message
    assert "LABCTL_WIKITEXT" in error.hint
    monkeypatch.setenv("LABCTL_WIKITEXT", str(tmp_path / "none.raw"))
    assert "No such text file: LABCTL_WIKITEXT=" in refused(None, lab_data).message


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (zipped(content=WIKI.replace(b"film", b"play")), "is not the official WikiText-2 test text"),
        (zipped(content=WIKI + b"x"), "bytes instead of"),
        (zipped(member="wikitext-2-raw/other.raw"), "holds no wikitext-2-raw/wiki.test.raw"),
        (b"no zip file at all " * 80, "is not a readable zip file"),
        (zipped()[:-300], "is not a readable zip file"),
        (zipped().replace(b"Robert", b"Albert", 9), "is not a readable zip file"),
    ],
)
def test_wrong_content_from_the_hub_is_an_error_not_a_fallback(
    server: Hub, lab_data: Path, archive: bytes, message: str
) -> None:
    server.datasets[texts.HUB_DATASET] = Repo({texts.HUB_ZIP: archive})
    for spec in (None, "wikitext-2"):
        assert message in refused(spec, lab_data).message
    assert not (lab_data / texts.WIKITEXT_FILE).exists()


def test_zip_file_that_is_not_what_the_hub_describes(server: Hub, lab_data: Path) -> None:
    server.datasets[texts.HUB_DATASET].claims[texts.HUB_ZIP] = "cd" * 32
    assert "not the file the Hub describes" in refused(None, lab_data).message


def test_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(texts.WIKITEXT_FILE, bytes(50_000_000))
    with pytest.raises(LabError, match="50,000,000 bytes instead of 1,290,590"):
        texts.extract(path)


def test_without_a_network_the_demo_text_stands_in_and_says_so(
    server: Hub, lab_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        found = texts.resolve_text(None, lab_data)
        assert time.monotonic() - began < 5
        assert "WikiText-2 could not be had" in refused("wikitext-2", lab_data).message
    assert (found.kind, found.name, found.size_bytes) == ("demo", "demo text", 72_519)
    assert found.notice.startswith(
        "WikiText-2 could not be had (Cannot reach the Hugging Face Hub at http://127.0.0.1:"
    )
    assert "not comparable with published WikiText-2 perplexities" in found.notice
    assert found.sha256 == hashlib.sha256((lab_data / texts.DEMO_FILE).read_bytes()).hexdigest()


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_a_hub_that_will_not_serve_it(server: Hub, lab_data: Path, status: int) -> None:
    server.fail = status
    assert texts.resolve_text(None, lab_data).kind == "demo"
    error = refused("wikitext-2", lab_data)
    assert "could not be had" in error.message and "--text demo" in error.hint


def test_sign_in_page_and_silence(server: Hub, lab_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.page = "<html>Please sign in</html>"
    assert texts.resolve_text(None, lab_data).kind == "demo"
    server.page, server.delay_s = "", 1.0
    monkeypatch.setattr(hub, "ANSWER_TIMEOUT_S", 0.3)
    assert "did not answer in time" in texts.resolve_text(None, lab_data).notice


def test_offline_asks_nobody(server: Hub, lab_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = texts.resolve_text(None, lab_data, offline=True)
    assert found.kind == "demo" and "offline" in found.notice
    assert "offline" in refused("wikitext-2", lab_data, offline=True).message
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in texts.resolve_text(None, lab_data).notice
    assert server.requests == []


def test_read_only_folder_is_said(server: Hub, lab_data: Path) -> None:
    (lab_data / "wikitext-2-raw").write_text("a file where the folder should be")
    assert "Cannot write" in refused(None, lab_data).message


# -- demo and the user's own ------------------------------------------------------------------------------------------


def test_demo_when_asked_for(lab_data: Path) -> None:
    found = texts.resolve_text("demo", lab_data)
    assert found.kind == "demo" and found.notice.startswith("Perplexity was measured on labctl's own demo text (73 kB)")
    (lab_data / texts.DEMO_FILE).unlink()
    missing = refused("demo", lab_data).message
    assert "demo text is missing" in missing
    assert str(lab_data / texts.DEMO_FILE) in missing and str(places.BESIDE / texts.DEMO_FILE) in missing


def test_a_lab_data_of_somebody_else_hides_no_text(lab_data: Path) -> None:
    for name in (texts.DEMO_FILE, texts.WIKITEXT_FILE):
        (places.BESIDE / name).parent.mkdir(parents=True)
    (lab_data / texts.DEMO_FILE).rename(places.BESIDE / texts.DEMO_FILE)
    (places.BESIDE / texts.WIKITEXT_FILE).write_bytes(WIKI)
    assert texts.resolve_text("demo", lab_data).path == str(places.BESIDE / texts.DEMO_FILE)
    assert texts.resolve_text("wikitext-2", lab_data).path == str(places.BESIDE / texts.WIKITEXT_FILE)
    (lab_data / texts.DEMO_FILE).write_text("My own demo text.\n" * 99, "utf-8")
    assert texts.resolve_text("demo", lab_data).path == str(lab_data / texts.DEMO_FILE)


def test_custom_text(lab_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "poems.txt"
    path.write_text("Ach, es ist Öl!\n", "utf-8")
    found = texts.resolve_text(str(path), lab_data)
    assert (found.kind, found.name, found.path, found.size_bytes) == ("custom", "poems.txt", str(path), 17)
    assert "poems.txt" in found.notice


def test_custom_path_to_the_official_text_is_the_official_text(lab_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.txt"
    path.write_bytes(WIKI)
    assert (texts.resolve_text(str(path), lab_data).kind, texts.resolve_text(str(path), lab_data).notice) == (
        "wikitext-2",
        "",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"GGUF\0\0\0\3", "is not a text file: it is a GGUF model"),
        ("Grüße".encode("latin-1"), "is not UTF-8 text: byte 2 does not fit"),
        ("text".encode("utf-16"), "is not UTF-8 text, which llama.cpp reads, but UTF-16"),
    ],
)
def test_custom_file_that_is_no_text(lab_data: Path, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    assert message in refused(str(path), lab_data).message


def test_no_such_text(lab_data: Path, tmp_path: Path) -> None:
    assert "No such text file: none.txt." in refused("none.txt", lab_data).message
    assert "is not a file" in refused(str(tmp_path), lab_data).message
    assert "No text is named" in refused("  ", lab_data).message
    assert "No such text file: a" in refused("a\0b", lab_data).message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_file_is_taken_or_refused_in_one_line(lab_data: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.txt"
    path.write_bytes(content)
    try:
        found = texts.resolve_text(str(path), lab_data)
    except LabError as error:
        assert "\n" not in error.message
    else:
        assert content.decode("utf-8").strip() and found.sha256 == hashlib.sha256(content).hexdigest()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(zipped()) - 1), byte=st.integers(0, 255))
def test_damaged_zip_gives_the_text_or_one_line(lab_data: Path, tmp_path: Path, at: int, byte: int) -> None:
    data = bytearray(zipped())
    data[at] = byte
    path = tmp_path / "damaged.zip"
    path.write_bytes(data)
    try:
        assert texts.extract(path) == WIKI
    except LabError as error:
        assert "\n" not in error.message
