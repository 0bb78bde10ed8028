"""Files as Windows editors save them: byte order marks, UTF-16, CRLF; read, told in words, or put back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from kit.command import ROOT, Cli
from kit.small_gguf import Small

from labctl.engines.llama_cpp.imatrix import find_imatrix
from labctl.errors import LabError
from labctl.lab.sources import texts
from labctl.lab.values import load_config
from labctl.records.digests import DigestCache
from labctl.records.encodings import encoding_of, read_settings
from labctl.records.sources import SourceModel
from labctl.report.build import read_answers
from labctl.steps.generate.probes import read_probe

SAVED_AS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
LINES = "\n".join(f"The cat sat on mat {number} and looked at the rain." for number in range(90)) + "\n"


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", SAVED_AS)
def test_settings_answers_and_probes_are_read_however_they_were_saved(tmp_path: Path, encoding: str, ends: str) -> None:
    def saved(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(text.replace("\n", ends).encode(encoding))
        return tmp_path / name

    saved("lab.toml", 'chunks = 7\noutputs = "Größe"\n')
    config = load_config({}, tmp_path, {})
    assert (config.chunks, config.outputs) == (7, "Größe")
    assert read_answers(saved("answers.toml", 'Q6 = "größer als erwartet"\nQ7 = """a\nb"""\n')) == {
        6: "größer als erwartet",
        7: "a\nb",
    }
    for separator in ",;\t":
        questions = read_probe(saved("p.csv", f"prompt{separator}answer\nÄpfel sind{separator}grün\n"))
        assert [(one.prompt, one.expected) for one in questions] == [("Äpfel sind", "grün")]


def test_settings_of_an_older_windows_program_are_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_bytes('outputs = "Größe"\n'.encode("cp1252"))
    with pytest.raises(LabError, match=r"not UTF-8 text .perhaps Windows-1252.*byte 13 does not fit; save it as UTF-8"):
        load_config({}, tmp_path, {})
    (tmp_path / "answers.toml").write_bytes('Q6 = "größer"\n'.encode("cp1252"))
    with pytest.raises(LabError, match="perhaps Windows-1252"):
        read_answers(tmp_path / "answers.toml")


def test_a_settings_file_with_a_mark_serves_the_command(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_bytes(b"\xef\xbb\xbf" + b'model = "demo"\r\ntext = "demo"\r\nchunks = 4\r\n')
    done = cli("prepare", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"plain", "utf-8"),
        (b"", "utf-8"),
        (b"\xef\xbb\xbfx", "utf-8-sig"),
        ("Grüße an alle".encode("utf-16-le"), "utf-16-le"),
        ("Grüße an alle".encode("utf-16-be"), "utf-16-be"),
        ("x".encode("utf-32"), "utf-32"),
        (bytes(200), "utf-8"),
        (bytes(range(256)), "utf-8"),
    ],
)
def test_encodings_are_told_apart(data: bytes, encoding: str, tmp_path: Path) -> None:
    assert encoding_of(data) == encoding
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa")
    assert read_settings(tmp_path / "f") == "a"


# -- texts ------------------------------------------------------------------------------------------------------------


def prepared(cli: Cli, folder: Path, content: bytes) -> Any:
    """The small model and a text made ready, through the command line."""
    (folder / "m.gguf").write_bytes(Small().bytes())
    (folder / "t.txt").write_bytes(content)
    return cli("prepare", "--model", "m.gguf", "--text", "t.txt", "--ctx", "64", cwd=folder)


@pytest.mark.parametrize(
    ("content", "said", "cure"),
    [
        (LINES.replace("\n", "\r\n").encode(), "Its lines have Windows line ends (CRLF)", "tr -d '\\r' < t.txt"),
        (LINES.replace("\n", "\r\n", 40).encode(), "40 of its 90 lines have Windows line ends", "tr -d '\\r' < t.txt"),
        (LINES.replace("\n", "\r").encode(), "Its lines have old Mac line ends (CR)", "tr '\\r' '\\n' < t.txt"),
        (LINES.encode("utf-8-sig"), "It begins with a byte order mark", "without one"),
    ],
    ids=["crlf", "some crlf", "cr", "mark"],
)
def test_what_an_editor_added_to_a_text_is_noticed_with_the_cure(
    cli: Cli, tmp_path: Path, content: bytes, said: str, cure: str
) -> None:
    done = prepared(cli, tmp_path, content)
    shown = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 0 and said in shown and cure in shown, done.stderr


def test_a_plain_text_is_not_complained_about(cli: Cli, tmp_path: Path) -> None:
    done = prepared(cli, tmp_path, LINES.encode())
    assert done.returncode == 0 and "line ends" not in done.stderr and "byte order" not in done.stderr


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (LINES.encode("utf-16"), "t.txt is not UTF-8 text, which llama.cpp reads, but UTF-16", "iconv -f UTF-16 -t"),
        (LINES.encode("utf-16-be"), "but UTF-16", "iconv -f UTF-16-BE -t UTF-8 t.txt > t-utf8.txt"),
        (LINES.encode("utf-32"), "but UTF-32", "iconv -f UTF-32 -t"),
        (("Grüße. " + LINES).encode("cp1252"), "is not UTF-8 text: byte 2 does not fit", "iconv -f WINDOWS-1252"),
        (b"PAR1" + bytes(90), "a Parquet table", "column of texts"),
        (b"PK\x03\x04" + bytes(90), "a zip archive", "Unpack it"),
        (b"\x1f\x8b\x08" + bytes(90), "compressed with gzip", "gunzip"),
        (b"%PDF-1.7\n%\xe2\xe3\n", "a PDF document", "pdftotext"),
        (b"words\0and more words", "zero bytes", "UTF-8"),
        (b"\xef\xbb\xbf\r\n", "is empty", "UTF-8"),
    ],
    ids=["utf-16", "utf-16 be", "utf-32", "latin", "parquet", "zip", "gzip", "pdf", "zero byte", "only a mark"],
)
def test_what_is_no_utf8_text_is_told_for_what_it_is(
    cli: Cli, tmp_path: Path, content: bytes, said: str, hint: str
) -> None:
    done = prepared(cli, tmp_path, content)
    shown = " ".join(done.stderr.split())
    assert done.returncode == 1 and said in shown and hint in shown and "Traceback" not in shown, done.stderr


def test_a_calibration_text_is_looked_at_too(tmp_path: Path) -> None:
    model = SourceModel(
        name="m",
        spec="m.gguf",
        path="m.gguf",
        origin="gguf",
        size_bytes=1,
        sha256="0" * 64,
        baseline="F16",
        quantized=False,
        notices=(),
    )
    arguments = (model, None, ROOT / "lab_data", tmp_path, DigestCache(tmp_path / "digests.json"))
    (tmp_path / "c.txt").write_bytes(LINES.encode("utf-16"))
    with pytest.raises(LabError, match="but UTF-16"):
        find_imatrix(f"auto:{tmp_path / 'c.txt'}", *arguments)
    (tmp_path / "c.txt").write_bytes(LINES.replace("\n", "\r\n").encode())
    found = find_imatrix(f"auto:{tmp_path / 'c.txt'}", *arguments)
    assert found is not None and "computed on c.txt. Its lines have Windows line ends" in found.notices[0]


# -- WikiText-2 -------------------------------------------------------------------------------------------------------

# The official text is CC BY-SA and not in the repository: another text plays it, with its own digest.
WIKI = (" \n = Robert <unk> = \n \n Robert <unk> is an English film – television actor . \n" * 40).encode()


@pytest.fixture
def lab_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LABCTL_WIKITEXT", raising=False)
    monkeypatch.setattr(texts, "WIKITEXT_SHA256", hashlib.sha256(WIKI).hexdigest())
    monkeypatch.setattr(texts, "WIKITEXT_BYTES", len(WIKI))
    return tmp_path / "lab_data"


@pytest.mark.parametrize("way", ["--text", "LABCTL_WIKITEXT", "kept"])
@pytest.mark.parametrize(
    ("saved", "what"),
    [
        (WIKI.replace(b"\n", b"\r\n"), "CRLF line ends"),
        (b"\xef\xbb\xbf" + WIKI, "a byte order mark"),
        (b"\xef\xbb\xbf" + WIKI.replace(b"\n", b"\r\n"), "a byte order mark and CRLF line ends"),
        (WIKI.decode().replace("\n", "\r\n").encode("utf-16"), "the encoding UTF-16 and CRLF line ends"),
        (WIKI.replace(b"\n", b"\r"), "CR line ends"),
    ],
    ids=["crlf", "mark", "both", "utf-16", "cr"],
)
def test_the_official_text_saved_by_an_editor_is_measured_as_it_was(
    lab_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bytes, what: str, way: str
) -> None:
    path = lab_data / texts.WIKITEXT_FILE if way == "kept" else tmp_path / "wiki.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved)
    if way == "LABCTL_WIKITEXT":
        monkeypatch.setenv("LABCTL_WIKITEXT", str(path))
    told: list[str] = []
    found = texts.resolve_text(str(path) if way == "--text" else None, lab_data, offline=True, say=told.append)
    assert (found.kind, found.notice, found.sha256) == ("wikitext-2", "", hashlib.sha256(WIKI).hexdigest())
    assert Path(found.path).read_bytes() == WIKI and Path(found.path).is_relative_to(lab_data)
    assert path.read_bytes() == saved
    assert told == [
        f"{path.name} is the official WikiText-2 test text with {what}: measured in its official form, {found.path}."
    ]
    again = texts.resolve_text("wikitext-2", lab_data, offline=True)
    assert again == found


def test_a_changed_text_with_crlf_is_not_taken_for_the_official_one(lab_data: Path, tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_bytes(WIKI.replace(b"Robert", b"Albert").replace(b"\n", b"\r\n"))
    found = texts.resolve_text(str(tmp_path / "w.txt"), lab_data, offline=True)
    assert found.kind == "custom" and "CRLF" in found.notice and not lab_data.exists()


def test_the_real_official_text_with_crlf_through_the_command(cli: Cli, tmp_path: Path) -> None:
    official = ROOT.parent / "shared" / "data" / "wikitext-2-raw" / "wiki.test.raw"
    if not official.is_file():
        pytest.skip("no WikiText-2 here")
    (tmp_path / "wiki.txt").write_bytes(official.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "m.gguf").write_bytes(Small().bytes())
    arguments = ("prepare", "--model", "m.gguf", "--text", "wiki.txt", "--lab-data", "data")
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is the official WikiText-2 test text with CRLF line ends" in " ".join(done.stderr.split())
    again = cli(*arguments, "--json", cwd=tmp_path)  # how a table breaks its lines hangs on the folder's name
    assert "WikiText-2 (raw, test split)" in again.stdout
