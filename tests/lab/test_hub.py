"""Models from the Hub, by its real client against a server here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.hub_server import COMMIT, Hub, Repo, hub_for_this_test
from kit.tiny_gguf import BF16, F16, Q4_1, tiny_gguf

from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import hub
from labctl.lab.sources import models as sources
from labctl.records.digests import DigestCache

LAB_DATA = Path(__file__).resolve().parents[2] / "lab_data"
TOKEN = "hf_secretsecretsecret"


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
    assert "Not enough disk for tiny-F16.gguf" in error.message and "HF_HOME" in error.hint
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
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
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
