"""Checkpoints on the Hub: what is fetched, what is asked first, what the cache gives without a network."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.hub_server import Hub, Repo, hub_for_this_test
from kit.tiny_gguf import F16, Q4_1

from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import converter, remote
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1000], "data_offsets": [0, 2000]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(2000)


FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": safetensors(),
    "tokenizer.model": b"pieces",
    "modeling_evil.py": b"boom(",
    "README.md": b"# ck",
    "onnx/model.safetensors": b"another form",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    models = {
        "lab/Ck-135M": Repo(FILES),
        "lab/both": Repo({**FILES, "both-Q4_1.gguf": Q4_1}),
        "lab/gguf-too": Repo({**FILES, "gguf-too-F16.gguf": F16}),
    }
    with hub_for_this_test(Hub(models=models), tmp_path / "hf", monkeypatch) as running:
        yield running


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that takes a ready file: the real one needs torch, and is tested in test_convert.py."""
    (tmp_path / "ready.gguf").write_bytes(F16)
    folder = tmp_path / "cpp"
    folder.mkdir()
    ready = str(tmp_path / "ready.gguf")
    (folder / converter.SCRIPT).write_text(
        f"import shutil, sys\nshutil.copy({ready!r}, sys.argv[sys.argv.index('--outfile') + 1])\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    (home / "env.json").write_text("{}")
    made = converter.Converter(
        folder=folder, python=Path(sys.executable), home=home, origin="a test", key="k", version="", own_python=True
    )
    monkeypatch.setattr(converter, "find_converter", lambda *_: made)


def test_a_checkpoint_is_fetched_and_converted(
    server: Hub, stand_in: None, tmp_path: Path, digests: DigestCache
) -> None:
    model = resolve_model("hf:lab/Ck-135M", tmp_path / "data", digests)
    assert (model.name, model.origin, model.baseline, model.notices) == ("Ck-135M", "hub", "F16", ())
    assert Path(model.path).read_bytes() == F16 and (tmp_path / "data") in Path(model.path).parents
    snapshots = sorted(path.name for path in (tmp_path / "hf").rglob("snapshots/*/*"))
    assert snapshots == ["config.json", "model.safetensors", "tokenizer.model"]
    server.fail = 503
    again = resolve_model("hf:lab/Ck-135M", tmp_path / "data", digests)
    assert again.sha256 == model.sha256 and "copy in the cache was used" in again.notices[0]


def test_a_checkpoint_beside_quantized_files_is_taken(
    server: Hub, stand_in: None, tmp_path: Path, digests: DigestCache
) -> None:
    assert resolve_model("hf:lab/both", tmp_path / "data", digests).baseline == "F16"


def test_an_unquantized_gguf_file_comes_first(server: Hub, tmp_path: Path, digests: DigestCache) -> None:
    model = resolve_model("hf:lab/gguf-too", tmp_path / "data", digests)
    assert model.name == "gguf-too" and not (tmp_path / "data").exists()
    assert server.asked("safetensors") == 0


def test_a_large_download_is_asked_first(
    server: Hub, stand_in: None, tmp_path: Path, digests: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LARGE_BYTES", 1500)
    with pytest.raises(LabError, match=r"lab/Ck-135M has 2\.12 kB to download, and about as much again") as caught:
        resolve_model("hf:lab/Ck-135M", tmp_path / "data", digests)
    assert caught.value.hint == "Add --yes to agree." and server.asked("resolve") == 0
    asked: list[str] = []
    resolve_model("hf:lab/Ck-135M", tmp_path / "data", digests, dialogue=Dialogue(ask=asked.append))
    resolve_model("hf:lab/Ck-135M", tmp_path / "data", digests)  # all is here now: nothing to ask
    assert len(asked) == 1


@pytest.mark.parametrize(
    "spec", ["hf:../x", "hf:a/..", "hf:./model.gguf", "hf:.a/b", "hf:-a/b", "hf:a/b%2f..", "hf:a\\b/c"]
)
def test_a_repository_whose_name_is_none_is_refused_before_anyone_is_asked(spec: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="Cannot read"):
        resolve_model(spec, tmp_path, DigestCache(tmp_path / "digests.json"))


@pytest.mark.parametrize("spec", ["./missing.gguf", "models/missing.gguf", "../folder"])
def test_a_missing_file_is_not_taken_for_a_repository(spec: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="No such model") as caught:
        resolve_model(spec, tmp_path, DigestCache(tmp_path / "digests.json"))
    assert "For the Hub write" not in caught.value.hint
