"""Which model a spec means: demo, paths, and the Hub, played by a local server behind the real client."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli
from hub_server import COMMIT, Hub, Repo, hub_for_this_test
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import hub
from labctl.lab.sources import models as sources
from labctl.lab.sources.folders import model_name_of
from labctl.lab.sources.remote import model_name
from labctl.records import places
from labctl.records.digests import DigestCache

LAB_DATA = Path(__file__).resolve().parents[2] / "lab_data"
TOKEN = "hf_secretsecretsecret"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tiny_gguf(
    kind: int = 1, mark: int = 0, split: tuple[int, int] | None = None, name: str = "llama", made_as: int | None = None
) -> bytes:
    """A whole GGUF file of 256 x 4 weights, of ggml type `kind`; `mark` makes files differ."""
    sizes = {0: 4096, 1: 2048, 30: 2048, 3: 640, 8: 1088, 12: 576}
    keys = [text("general.architecture") + struct.pack("<I", 8) + text(name)]
    for key, value in (
        ("block_count", 1),
        ("embedding_length", 256),
        ("attention.head_count", 4),
        ("context_length", 64),
    ):
        keys.append(text(f"{name}.{key}") + struct.pack("<II", 4, value))
    if made_as is not None:
        keys.append(text("general.file_type") + struct.pack("<II", 4, made_as))
    keys.append(text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("llama"))
    keys.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 4) + b"".join(map(text, "abcd")))
    if split:
        keys += [
            text("split.no") + struct.pack("<IH", 2, split[0]),
            text("split.count") + struct.pack("<IH", 2, split[1]),
        ]
    names = ("token_embd.weight", "blk.0.w") if split is None else (("token_embd.weight", "blk.0.w")[split[0]],)
    tensors = [text(one) + struct.pack("<IQQIQ", 2, 256, 4, kind, n * sizes[kind]) for n, one in enumerate(names)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % 32) + bytes([mark]) * sizes[kind] * len(tensors)


F16, BF16, F32, Q4_1 = tiny_gguf(1), tiny_gguf(30), tiny_gguf(0), tiny_gguf(3)


@pytest.fixture
def digests(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "digests.json")


# -- demo and paths ---------------------------------------------------------------------------------------------------


def test_demo(digests: DigestCache) -> None:
    model = sources.resolve_model("demo", LAB_DATA, digests)
    assert (model.name, model.origin, model.baseline, model.quantized) == ("labllama-15m", "demo", "F16", False)
    assert model.size_bytes == 30_713_088 and model.notices == ()
    assert model.sha256 == hashlib.sha256((LAB_DATA / sources.DEMO_FILE).read_bytes()).hexdigest()


def test_demo_missing(tmp_path: Path, digests: DigestCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "BESIDE", tmp_path / "beside")
    with pytest.raises(LabError, match="demo model is missing") as caught:
        sources.resolve_model("demo", tmp_path / "here", digests)
    assert "git checkout" in caught.value.hint
    for folder in ("beside", "here"):
        assert str(tmp_path / folder / sources.DEMO_FILE) in caught.value.message


def test_a_lab_data_of_somebody_else_hides_no_demo(tmp_path: Path, digests: DigestCache) -> None:
    (tmp_path / "lab_data" / "demo").mkdir(parents=True)
    (tmp_path / "lab_data" / "results.csv").write_text("mine", "utf-8")
    model = sources.resolve_model("demo", tmp_path / "lab_data", digests)
    assert model.path == str(LAB_DATA / sources.DEMO_FILE)


def test_probes_are_found_file_by_file(tmp_path: Path) -> None:
    from labctl.pipeline.opening import _probes

    assert _probes(tmp_path) == _probes(LAB_DATA)
    for name in ("demo/probes/sums.csv", "probes/colours.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("prompt,answer\nThe sky is,blue\n", "utf-8")
    found = _probes(tmp_path)
    assert found["sums"] == tmp_path / "demo/probes/sums.csv" and found["colours"] == tmp_path / "probes/colours.csv"
    assert found["capitals"] == LAB_DATA / "demo/probes/capitals.csv"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models--HuggingFaceTB--SmolLM2-135M/snapshots/" + "93efa2f097d58c2a74874c7e644dbc9b0cee75a2", "SmolLM2-135M"),
        ("snapshots/" + "a" * 40, "a" * 40),
        ("my-model-f16", "my-model"),
    ],
)
def test_a_snapshot_in_the_hubs_cache_goes_by_its_repositorys_name(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert model_name(model_name_of(tmp_path / folder)) == name


@pytest.mark.parametrize(
    ("file", "content", "name", "baseline"),
    [
        ("My-Model-F16.gguf", F16, "My-Model", "F16"),
        ("my model.bf16.gguf", BF16, "my-model", "BF16"),
        ("x_fp32.gguf", F32, "x", "F32"),
        ("plain.gguf", F16, "plain", "F16"),
    ],
)
def test_path(tmp_path: Path, digests: DigestCache, file: str, content: bytes, name: str, baseline: str) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    model = sources.resolve_model(str(path), LAB_DATA, digests)
    assert (model.name, model.baseline, model.origin, model.path) == (name, baseline, "gguf", str(path))
    assert (model.size_bytes, model.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_split_model_counts_all_parts(tmp_path: Path, digests: DigestCache) -> None:
    parts = [tiny_gguf(1, number, (number, 2)) for number in range(2)]
    for number, content in enumerate(parts):
        (tmp_path / f"big-f16-0000{number + 1}-of-00002.gguf").write_bytes(content)
    first = str(tmp_path / "big-f16-00001-of-00002.gguf")
    model = sources.resolve_model(first, LAB_DATA, digests)
    assert (model.name, model.size_bytes, model.path) == ("big", sum(map(len, parts)), first)
    changed = tmp_path / "big-f16-00002-of-00002.gguf"
    changed.write_bytes(tiny_gguf(1, 9, (1, 2)))
    assert sources.resolve_model(first, LAB_DATA, digests).sha256 != model.sha256


def test_quantized_source_is_refused_unless_allowed(tmp_path: Path, digests: DigestCache) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(Q4_1)
    with pytest.raises(LabError, match=r"m.gguf is already quantized \(Q4_1\)") as caught:
        sources.resolve_model(str(path), LAB_DATA, digests)
    assert "--allow-quantized-source" in caught.value.hint
    model = sources.resolve_model(str(path), LAB_DATA, digests, allow_quantized=True)
    assert (model.quantized, model.baseline) == (True, "Q4_1")
    assert model.notices[0].startswith("The source is already quantized (Q4_1): ")


@pytest.mark.parametrize(
    ("kind", "made_as", "baseline", "said"),
    [
        (3, 3, "Q4_1", "Q4_1"),
        (12, 15, "Q4_K", "Q4_K_M"),
        (12, 14, "Q4_K", "Q4_K_S"),
        (8, 15, "Q8_0", "Q4_K_M, most bytes in Q8_0"),
        (8, 1, "Q8_0", "Q8_0"),
        (8, 999, "Q8_0", "Q8_0"),
    ],
)
def test_a_quantized_source_is_called_what_it_was_made_as(
    tmp_path: Path, digests: DigestCache, kind: int, made_as: int, baseline: str, said: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_gguf(kind, made_as=made_as))
    model = sources.resolve_model(str(path), LAB_DATA, digests, allow_quantized=True)
    assert model.baseline == baseline and f"is already quantized ({said}): sizes" in model.notices[0]
    with pytest.raises(LabError, match=f"is already quantized .{said}.: what it lost"):
        sources.resolve_model(str(path), LAB_DATA, digests)


def test_a_format_that_the_source_stands_for_is_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_gguf(8, made_as=15))
    arguments = ("--model", "m.gguf", "--text", "demo", "--allow-quantized-source")
    for formats, is_told in (("Q8_0,Q4_K_M", True), ("Q4_K_M", False)):
        done = cli("prepare", *arguments, "--formats", formats, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        shown = " ".join(done.stderr.replace("│", " ").split())
        assert ("the source itself stands for that format, and no other file of it is made" in shown) == is_told


def test_a_text_that_is_missing_is_told_before_a_model_is_fetched(cli: Cli, tmp_path: Path) -> None:
    done = cli("prepare", "--model", "hf:owner/large", "--text", "typo.txt", cwd=tmp_path)
    assert done.returncode == 1 and "No such text file: typo.txt" in done.stderr


def test_what_is_no_model(tmp_path: Path, digests: DigestCache) -> None:
    (tmp_path / "notes.txt").write_text("a few words about models\n" * 9)
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "inside.gguf").write_bytes(F16)
    (tmp_path / "cut.gguf").write_bytes(F16[:-10])
    for spec, message, hint in [
        ("", "No model is named", "demo"),
        (str(tmp_path / "notes.txt"), "it is a text file", ".gguf"),
        (str(tmp_path / "empty.gguf"), "is empty", "again"),
        (str(tmp_path / "cut.gguf"), "is cut short: 10 bytes missing", "again"),
        (str(tmp_path / "folder"), "is a folder without a model", "checkpoint folder"),
        (str(tmp_path / "ggufs"), "is a folder", "inside.gguf"),
        ("nowhere.gguf", "No such model: nowhere.gguf.", "hf:owner/repo"),
        ("labllama-f61.gguf", "No such model", "labllama-f16.gguf"),
        ("demoo", "No such model: demoo.", "Did you mean demo?"),
        ("owner/name", "No such model", "hf:owner/name"),
        ("~nobody-of-this-name/m.gguf", "No such model: ~nobody-of-this-name/m.gguf.", "hf:"),
        ("bad\0name", "No such model", "hf:"),
        ("x" * 5000, "No such model", "hf:"),
        ("https://huggingface.co/" + "x" * 5000, "is not the page of a model", "hf:"),
        ("hf:", "Cannot read 'hf:'", "hf:owner/repo"),
        ("hf:onlyname", "Cannot read", "hf:owner/repo"),
        ("hf:a/b/c", "Cannot read", "hf:owner/repo"),
        ("hf:a/b:../../etc/passwd", "is refused", "Name a file"),
        ("hf:a/b:/etc/passwd", "is refused", "Name a file"),
        ("hf:a/b:C:\\x.gguf", "is refused", "Name a file"),
    ]:
        with pytest.raises(LabError) as caught:
            sources.resolve_model(spec, LAB_DATA, digests)
        assert message in caught.value.message and "\n" not in caught.value.message, caught.value.message
        assert hint in caught.value.hint, (spec, caught.value.hint)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path, digests: DigestCache) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(LabError, match="is not a file"):
        sources.resolve_model(str(tmp_path / "pipe.gguf"), LAB_DATA, digests)


@given(st.text(max_size=60))
def test_model_names_cannot_leave_their_folder(stem: str) -> None:
    name = sources.model_name(stem)
    assert name and Path(name).name == name and name not in (".", "..")


# -- which file of a repository ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["m-Q4_K_M.gguf", "m-F16.gguf", "m-BF16.gguf", "README.md"], None, ["m-F16.gguf"]),
        (["m-Q8_0.gguf", "m-bf16.gguf", "m-f32.gguf"], None, ["m-bf16.gguf"]),
        (["m-Q8_0.gguf", "m.fp32.gguf"], None, ["m.fp32.gguf"]),
        (["m-F16.gguf", "mmproj-m-F16.gguf", "m.imatrix-F16.gguf"], None, ["m-F16.gguf"]),
        (["F16/m.gguf", "m-Q8_0.gguf"], None, ["F16/m.gguf"]),
        (
            ["m-f16-00002-of-00002.gguf", "m-f16-00001-of-00002.gguf"],
            None,
            ["m-f16-00001-of-00002.gguf", "m-f16-00002-of-00002.gguf"],
        ),
        (["m-F16.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        (["BF16-tuned-m-Q4_K_M.gguf", "m-bf16.gguf"], None, ["m-bf16.gguf"]),
        (["m.f16.q6_k.gguf", "Q8_0-from-f16.gguf", "m-f32.gguf"], None, ["m-f32.gguf"]),
        (["f16-imatrix-IQ3_XS.gguf", "qwq-32b-f16.gguf"], None, ["qwq-32b-f16.gguf"]),
    ],
)
def test_choose(names: list[str], wanted: str | None, expected: list[str]) -> None:
    assert list(sources.choose("o/r", names, wanted)) == expected


@pytest.mark.parametrize(
    ("names", "wanted", "message", "hint"),
    [
        (["a-F16.gguf", "b-F16.gguf"], None, "o/r has 2 F16 files", "hf:o/r:a-F16.gguf"),
        (["a-Q4_0.gguf", "a-Q8_0.gguf"], None, "no file called F16, BF16 or F32", "a-Q4_0.gguf, a-Q8_0.gguf"),
        (["README.md"], None, "o/r has neither a GGUF file nor a checkpoint", "Look for"),
        (["a-F16.gguf"], "b.gguf", "o/r has no GGUF file b.gguf", "a-F16.gguf"),
        (["a-F16.gguf"], "README.md", "o/r has no GGUF file README.md", "a-F16.gguf"),
        (["BF16-tuned-a-Q4_K_M.gguf"], None, "no file called F16, BF16 or F32", "BF16-tuned-a-Q4_K_M.gguf"),
        (["a-mxfp4.gguf"], None, "no file called F16, BF16 or F32", "hf:o/r:a-mxfp4.gguf"),
        (
            ["a-F16-00001-of-00003.gguf", "a-F16-00003-of-00003.gguf"],
            None,
            "o/r has 2 of the 3 parts of a-F16",
            "another",
        ),
        (["a-F16-00002-of-00002.gguf"], "a-F16-00002-of-00002.gguf", "o/r has 1 of the 2 parts of a-F16", "another"),
    ],
)
def test_choose_says_what_there_is(names: list[str], wanted: str | None, message: str, hint: str) -> None:
    with pytest.raises(LabError) as caught:
        sources.choose("o/r", names, wanted)
    assert message in caught.value.message and hint in caught.value.hint


# -- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    model = Repo({"README.md": b"# tiny", "tiny-F16.gguf": F16, "tiny-Q4_1.gguf": Q4_1, "sub/tiny-bf16.gguf": BF16})
    with hub_for_this_test(Hub(models={"lab/tiny": model}), tmp_path / "hf", monkeypatch) as running:
        yield running


def refused(spec: str, digests: DigestCache) -> LabError:
    with pytest.raises(LabError) as caught:
        sources.resolve_model(spec, LAB_DATA, digests)
    assert "\n" not in caught.value.message + caught.value.hint and caught.value.hint
    assert TOKEN not in caught.value.message + caught.value.hint
    return caught.value


def test_hub_model_is_downloaded_once(server: Hub, tmp_path: Path, digests: DigestCache) -> None:
    told: list[tuple[str, int, int]] = []
    watching = Dialogue(progress=lambda *news: told.append(news))
    model = sources.resolve_model("hf:lab/tiny", LAB_DATA, digests, dialogue=watching)
    assert (model.name, model.origin, model.baseline, model.notices) == ("tiny", "hub", "F16", ())
    assert model.sha256 == hashlib.sha256(F16).hexdigest() and Path(model.path).read_bytes() == F16
    assert f"/snapshots/{COMMIT}/" in Path(model.path).as_posix() and Path(model.path).is_relative_to(tmp_path / "hf")
    assert told[-1] == ("tiny-F16.gguf", len(F16), len(F16))
    assert server.asked("GET /cdn/") == 1
    again = sources.resolve_model("hf:lab/tiny", LAB_DATA, digests)
    assert again == model and server.asked("GET /cdn/") == 1


def test_hub_file_and_revision_as_named(server: Hub, digests: DigestCache) -> None:
    server.models["lab/tiny"].revisions = ("main", "v1.0")
    model = sources.resolve_model("hf:lab/tiny@v1.0:sub/tiny-bf16.gguf", LAB_DATA, digests)
    assert (model.baseline, Path(model.path).name) == ("BF16", "tiny-bf16.gguf")
    assert server.asked("/revision/v1.0$") == 1
    assert sources.resolve_model(f"hf:lab/tiny@{COMMIT}", LAB_DATA, digests).baseline == "F16"


def test_hub_split_model(server: Hub, digests: DigestCache) -> None:
    files = {f"big-F16-0000{n + 1}-of-00002.gguf": tiny_gguf(1, n, (n, 2)) for n in range(2)}
    server.models["lab/big"] = Repo(files)
    model = sources.resolve_model("hf:lab/big", LAB_DATA, digests)
    assert (model.name, model.size_bytes) == ("big", sum(map(len, files.values())))


def test_hub_small_file_without_sha256_is_checked_by_its_blob_id(server: Hub, digests: DigestCache) -> None:
    server.models["lab/tiny"].files["few.gguf"] = b"GGUF" + bytes(90)
    assert "version 0" in refused("hf:lab/tiny:few.gguf", digests).message  # downloaded, and found to be no model
    server.models["lab/small"] = Repo({"few.gguf": b"GGUF" + bytes(91)}, claims={"few.gguf": "0" * 40})
    assert "not the file the Hub describes" in refused("hf:lab/small:few.gguf", digests).message


def test_hub_wrong_content_is_refused(server: Hub, digests: DigestCache) -> None:
    server.models["lab/tiny"].claims["tiny-F16.gguf"] = "ab" * 32
    error = refused("hf:lab/tiny", digests)
    assert "not the file the Hub describes" in error.message and not isinstance(error, hub.HubUnavailableError)


def test_hub_damaged_cache_heals(server: Hub, digests: DigestCache) -> None:
    model = sources.resolve_model("hf:lab/tiny", LAB_DATA, digests)
    blob = Path(model.path).resolve()
    blob.write_bytes(F16[:-1] + b"\xff")
    assert sources.resolve_model("hf:lab/tiny", LAB_DATA, digests).sha256 == model.sha256
    assert blob.read_bytes() == F16


def test_hub_token_goes_to_the_hub_only(server: Hub, digests: DigestCache, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = TOKEN
    server.models["lab/tiny"].gated = True
    assert "lab/tiny is gated" in refused("hf:lab/tiny", digests).message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert sources.resolve_model("hf:lab/tiny", LAB_DATA, digests).baseline == "F16"
    assert {authorization for _, path, authorization in server.requests if path.startswith("/cdn/")} == {""}
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    assert "HF_TOKEN" in refused("hf:lab/other", digests).hint


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("hf:lab/none", "The Hub has no lab/none, or it is private", "spelling"),
        ("hf:lab/tiny@v9", "lab/tiny has no revision 'v9'", "branches"),
        ("hf:lab/tiny:none.gguf", "lab/tiny has no GGUF file none.gguf", "tiny-F16.gguf"),
        ("hf:lab/t--y", "is no repository name", "hf:owner/name"),
    ],
)
def test_hub_says_what_is_missing(server: Hub, digests: DigestCache, spec: str, message: str, hint: str) -> None:
    error = refused(spec, digests)
    assert message in error.message and hint in error.hint


@pytest.mark.parametrize(
    ("status", "message"), [(403, "refuses access"), (429, "slow down"), (500, "error 500"), (503, "error 503")]
)
def test_hub_error_status(server: Hub, digests: DigestCache, status: int, message: str) -> None:
    server.fail = status
    began = time.monotonic()
    error = refused("hf:lab/tiny", digests)
    assert message in error.message and isinstance(error, hub.HubUnavailableError)
    assert time.monotonic() - began < 5


def test_hub_sign_in_page_instead_of_an_answer(server: Hub, digests: DigestCache) -> None:
    for page in ("<html>Welcome to the hotel</html>", "[1, 2]", '{"id": 3}', '{"id": "a", "sha": "main"}'):
        server.page = page
        assert isinstance(refused("hf:lab/tiny", digests), hub.HubUnavailableError)


def test_hub_silent_server_is_given_up(server: Hub, digests: DigestCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_TIMEOUT_S", 0.3)
    server.delay_s = 1.0
    assert "did not answer in time" in refused("hf:lab/tiny", digests).message


def test_hub_file_names_that_leave_the_folder_are_refused(server: Hub, digests: DigestCache) -> None:
    for name in ("../../evil-F16.gguf", "/evil-F16.gguf", "a/../../evil-F16.gguf", "..\\evil-F16.gguf"):
        server.models["lab/evil"] = Repo({name: F16})
        assert "is refused" in refused("hf:lab/evil", digests).message


def test_hub_full_disk_is_said_before_the_download(
    server: Hub, digests: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(LAB_DATA)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    error = refused("hf:lab/tiny", digests)
    assert "Not enough disk space for tiny-F16.gguf" in error.message and "HF_HOME" in error.hint
    assert server.asked("GET /cdn/") == 0


def test_hub_cache_serves_without_a_network(server: Hub, digests: DigestCache, monkeypatch: pytest.MonkeyPatch) -> None:
    online = sources.resolve_model("hf:lab/tiny", LAB_DATA, digests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = sources.resolve_model("hf:lab/tiny", LAB_DATA, digests)
    assert (offline.path, offline.sha256) == (online.path, online.sha256)
    assert "HF_HUB_OFFLINE is set" in offline.notices[0] and "cache" in offline.notices[0]
    assert "HF_HUB_OFFLINE is set" in refused("hf:lab/tiny:tiny-Q4_1.gguf", digests).message
    assert "HF_HUB_OFFLINE is set" in refused("hf:lab/tiny@v9", digests).message
    Path(online.path).resolve().write_bytes(F16[:-1] + b"\xff")
    assert "is damaged" in refused("hf:lab/tiny", digests).message


def test_hub_refused_connection_costs_no_time(
    tmp_path: Path, digests: DigestCache, monkeypatch: pytest.MonkeyPatch, server: Hub
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://user:{TOKEN}@127.0.0.1:{port}")
        began = time.monotonic()
        error = refused("hf:lab/tiny", digests)
    assert f"Cannot reach the Hugging Face Hub at http://127.0.0.1:{port}" in error.message
    assert time.monotonic() - began < 4


def test_hub_in_a_fresh_process_writes_nothing_to_the_terminal(server: Hub, tmp_path: Path) -> None:
    """As a user starts it: the client reads HF_ENDPOINT and HF_HOME at import, and must keep its bars to itself."""
    server.models["lab/tiny"].gated = True
    server.token = TOKEN
    code = (
        "import json, sys; from pathlib import Path; from labctl.lab.sources import models;"
        "from labctl.records.digests import DigestCache;"
        "model = models.resolve_model('hf:lab/tiny', Path('.'), DigestCache(Path(sys.argv[1])));"
        "print(json.dumps([model.sha256, 'huggingface_hub' in sys.modules]))"
    )
    environment = {**os.environ, "HF_TOKEN": TOKEN, "PYTHONPATH": str(LAB_DATA.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d.json")],
        env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [hashlib.sha256(F16).hexdigest(), True]
    assert done.stderr == ""


def test_importing_sources_loads_nothing_heavy() -> None:
    code = (
        "import sys; import labctl.lab.sources.models, labctl.lab.sources.texts;"
        "print(sorted({'huggingface_hub', 'numpy', 'gguf', 'psutil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=LAB_DATA.parent)
    assert done.stdout.strip() == "[]"
