"""Which model a spec means: the demo, paths, and files of a repository."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.command import Cli
from kit.tiny_gguf import BF16, F16, F32, Q4_1, tiny_gguf

from labctl.errors import LabError
from labctl.lab.sources import models as sources
from labctl.lab.sources.folders import model_name_of
from labctl.lab.sources.remote import model_name
from labctl.records import places
from labctl.records.digests import DigestCache

LAB_DATA = Path(__file__).resolve().parents[2] / "lab_data"
TOKEN = "hf_secretsecretsecret"


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
