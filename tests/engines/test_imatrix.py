"""Importance matrices: reading them, refusing the wrong ones, quantizing with one, computing one."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from kit.lab_factory import provenance

from labctl.engines.llama_cpp.engine import ENGINE
from labctl.engines.llama_cpp.formats import FORMATS
from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.imatrix import ensure_imatrix, find_imatrix, read_imatrix
from labctl.errors import LabError
from labctl.lab.sources.models import resolve_model
from labctl.lab.values import load_config
from labctl.records.digests import DigestCache
from labctl.records.files import GgufFile
from labctl.records.sources import SourceModel, TextSource
from labctl.steps.quantize import keep
from labctl.steps.quantize.record import QuantizeTask

LAB_DATA = Path(__file__).resolve().parents[2] / "lab_data"


@pytest.fixture
def model(digests: DigestCache) -> SourceModel:
    return resolve_model("demo", LAB_DATA, digests)


def write_imatrix(
    path: Path, sums: dict[str, np.ndarray], counts: dict[str, np.ndarray], dataset: str = "calm.txt"
) -> None:
    """An importance matrix as llama-imatrix writes it."""
    writer = GGUFWriter(path, "")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", 5)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values.astype(np.float32))
        if name in counts:
            writer.add_tensor(f"{name}.counts", counts[name].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def synthetic(model_path: Path, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Made-up sums and counts for every block weight of a model; a few columns count a thousand times the others."""
    generator = np.random.default_rng(seed)
    header, _ = read_model(model_path)
    names = {one.name: one.shape[0] for one in header.tensors if len(one.shape) == 2 and one.name.startswith("blk.")}
    sums = {name: 10 ** generator.uniform(-1, 2, (1, columns)) for name, columns in names.items()}
    return sums, {name: np.full((1, 1), 40.0) for name in names}


def test_values_are_sums_over_counts_and_unreached_experts_count_alike(tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    sums = {"a": np.array([[2.0, 4.0, 8.0]]), "b": np.array([[3.0, 6.0], [5.0, 7.0]])}
    write_imatrix(path, sums, {"a": np.array([[2.0]]), "b": np.array([[3.0], [0.0]])}, "notes/calm.txt")
    data = read_imatrix(path)
    assert {name: values.tolist() for name, values in data.entries.items()} == {
        "a": [1.0, 2.0, 4.0],
        "b": [1.0, 2.0, 1.0, 1.0],
    }
    assert (data.datasets, data.n_chunks) == (("notes/calm.txt",), 5)
    assert data.metadata("i.gguf") == (
        ("quantize.imatrix.file", "i.gguf"),
        ("quantize.imatrix.dataset", "notes/calm.txt"),
        ("quantize.imatrix.entries_count", 2),
        ("quantize.imatrix.chunks_count", 5),
    )


@pytest.mark.parametrize(
    ("sums", "counts", "message"),
    [
        ({"a": np.ones((1, 4))}, {}, "a has sums but no counts"),
        ({"a": np.ones((1, 5))}, {"a": np.ones((2, 1))}, "do not fit together"),
        ({"a": np.full((1, 4), np.inf)}, {"a": np.ones((1, 1))}, "not finite"),
        ({"a": np.full((1, 4), np.nan)}, {"a": np.ones((1, 1))}, "not finite"),
    ],
)
def test_damaged_matrices_are_refused(
    tmp_path: Path, sums: dict[str, np.ndarray], counts: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "i.gguf"
    write_imatrix(path, sums, counts)
    with pytest.raises(LabError, match=message):
        read_imatrix(path)


def test_other_files_are_refused(tmp_path: Path, demo_model: Path) -> None:
    (tmp_path / "old.dat").write_bytes(b"\x02\0\0\0\x05\0\0\0names and numbers")
    with pytest.raises(LabError, match="not a GGUF importance matrix") as caught:
        read_imatrix(tmp_path / "old.dat")
    assert "--in-file" in caught.value.hint
    with pytest.raises(LabError, match="is a GGUF file, but not an importance matrix"):
        read_imatrix(demo_model)


def test_a_matrix_of_another_model_is_refused(tmp_path: Path, model: SourceModel, digests: DigestCache) -> None:
    path = tmp_path / "i.gguf"
    one = {"blk.0.attn_q.weight": np.ones((1, 1))}
    for sums, message in (
        ({"blk.0.attn_q.weight": np.ones((1, 576))}, "has 576 columns in it, 512 in"),
        ({"other.weight": np.ones((1, 512))}, "names no weight of"),
    ):
        write_imatrix(path, sums, dict.fromkeys(sums, one["blk.0.attn_q.weight"]))
        with pytest.raises(LabError, match=message) as caught:
            find_imatrix(str(path), model, None, LAB_DATA, tmp_path, digests)
        assert "--imatrix auto" in caught.value.hint


def test_a_matrix_computed_on_the_test_text_is_said(
    tmp_path: Path, model: SourceModel, digests: DigestCache, demo_text: TextSource
) -> None:
    path = tmp_path / "i.gguf"
    sums, counts = synthetic(Path(model.path))
    for dataset, n_notices in (("C:\\texts\\demo_text.txt", 1), ("other.txt", 0)):
        write_imatrix(path, sums, counts, dataset)
        found = find_imatrix(str(path), model, demo_text, LAB_DATA, tmp_path, digests)
        assert found is not None and len(found.notices) == n_notices
    assert found is not None and found.shown == "i.gguf (computed on other.txt)"


def test_none_and_missing(tmp_path: Path, model: SourceModel, digests: DigestCache) -> None:
    assert find_imatrix(None, model, None, LAB_DATA, tmp_path, digests) is None
    with pytest.raises(LabError, match=r"No such importance matrix: nowhere.gguf"):
        find_imatrix("nowhere.gguf", model, None, LAB_DATA, tmp_path, digests)


# -- quantizing with one ----------------------------------------------------------------------------------------------


def quantize(child: Callable[..., Any], source: Path, target: Path, name: str, imatrix: Path | None) -> GgufFile:
    task = QuantizeTask(
        model_path=str(source),
        format=name,
        n_threads=2,
        target_path=str(target.with_name("scratch")),
        imatrix_path=str(imatrix or ""),
    )
    return keep.make(ENGINE, child, task, target, provenance("quantize"), imatrix=imatrix.name if imatrix else "")


def tensor_data(path: Path) -> bytes:
    header, _ = read_model(path)
    return path.read_bytes()[header.data_offset :]


@pytest.mark.slow
def test_the_matrix_changes_what_is_stored(tmp_path: Path, child: Callable[..., Any], demo_model: Path) -> None:
    path = tmp_path / "i.gguf"
    write_imatrix(path, *synthetic(demo_model))
    plain = quantize(child, demo_model, tmp_path / "plain.gguf", "Q2_K", None)
    first = quantize(child, demo_model, tmp_path / "first.gguf", "Q2_K", path)
    again = quantize(child, demo_model, tmp_path / "again.gguf", "Q2_K", path)
    assert (plain.imatrix, first.imatrix) == ("", "i.gguf")
    assert plain.types == first.types and first.sha256 == again.sha256
    assert tensor_data(tmp_path / "plain.gguf") != tensor_data(tmp_path / "first.gguf")
    write_imatrix(path, *synthetic(demo_model, seed=1))
    quantize(child, demo_model, tmp_path / "other.gguf", "Q2_K", path)
    assert tensor_data(tmp_path / "first.gguf") != tensor_data(tmp_path / "other.gguf")
    metadata = read_model(tmp_path / "first.gguf")[0].metadata
    assert metadata["quantize.imatrix.file"] == "i.gguf" and metadata["quantize.imatrix.chunks_count"] == 5


@pytest.mark.slow
def test_formats_that_need_a_matrix(tmp_path: Path, child: Callable[..., Any], demo_model: Path) -> None:
    path = tmp_path / "i.gguf"
    write_imatrix(path, *synthetic(demo_model))
    made = quantize(child, demo_model, tmp_path / "m.gguf", "IQ2_XXS", path)
    assert {share.tensor_type for share in made.types} >= {"iq2_xxs"} and made.bpw < 4
    with pytest.raises(LabError, match=r"imatrix|importance matrix"):
        quantize(child, demo_model, tmp_path / "n.gguf", "IQ2_XXS", None)
    assert not (tmp_path / "n.gguf").exists()


def test_settings_refuse_formats_that_need_a_matrix_without_one(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"IQ3_XXS, IQ2_XXS cannot be made without an importance matrix") as caught:
        load_config({"formats": ("Q4_K_M", "IQ2_XXS", "IQ3_XXS")}, tmp_path, environ={})
    assert "--imatrix auto" in caught.value.hint
    config = load_config({"formats": ("IQ2_XXS",), "imatrix": "auto"}, tmp_path, environ={})
    assert config.formats == ("IQ2_XXS",)


@pytest.mark.parametrize("name", ["Q8_0", "TQ1_0", "MXFP4_MOE"])
def test_formats_that_say_so_ignore_the_matrix(
    name: str, tmp_path: Path, child: Callable[..., Any], demo_model: Path
) -> None:
    assert not FORMATS[name].uses_imatrix
    path = tmp_path / "i.gguf"
    sums, counts = synthetic(demo_model)
    write_imatrix(path, sums, counts)
    quantize(child, demo_model, tmp_path / "plain.gguf", name, None)
    quantize(child, demo_model, tmp_path / "with.gguf", name, path)
    assert tensor_data(tmp_path / "plain.gguf") == tensor_data(tmp_path / "with.gguf")


# -- computing one ----------------------------------------------------------------------------------------------------


def fake_tool(path: Path, body: str) -> None:
    """A stand-in for llama-imatrix, which is not part of llama-cpp-python."""
    path.write_text(f"#!{sys.executable}\nimport shutil, sys\nout = sys.argv[sys.argv.index('-o') + 1]\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.skipif(os.name == "nt", reason="a script cannot stand in for a program there")
def test_auto_computes_once_on_another_text(
    tmp_path: Path, model: SourceModel, digests: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready.gguf"
    write_imatrix(ready, *synthetic(Path(model.path)))
    fake_tool(tmp_path / "tool", f"shutil.copy({str(ready)!r}, out); print('done')")
    monkeypatch.setenv("LABCTL_LLAMA_IMATRIX", str(tmp_path / "tool"))
    found = find_imatrix("auto", model, None, LAB_DATA, tmp_path / "out", digests)
    assert found is not None and not found.path.exists()
    assert "computed on demo_text.txt by llama-imatrix" in found.shown
    log = tmp_path / "logs" / "imatrix.log"
    path = ensure_imatrix(found, model, 2, log)
    assert path.read_bytes() == ready.read_bytes() and log.read_text() == "done\n"
    fake_tool(tmp_path / "tool", "sys.exit(9)")
    assert ensure_imatrix(found, model, 2, log) == path


@pytest.mark.skipif(os.name == "nt", reason="a script cannot stand in for a program there")
def test_auto_fails_in_one_line(
    tmp_path: Path, model: SourceModel, digests: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_imatrix("auto", model, None, LAB_DATA, tmp_path / "out", digests)
    assert found is not None
    log = tmp_path / "imatrix.log"
    monkeypatch.setenv("LABCTL_LLAMA_IMATRIX", str(tmp_path / "tool"))
    with pytest.raises(LabError, match="cannot be run"):
        ensure_imatrix(found, model, 2, log)
    fake_tool(tmp_path / "tool", "print('main: you need at least 1024 tokens.'); print('bye'); sys.exit(1)")
    with pytest.raises(LabError, match=r"llama-imatrix failed \(status 1\): you need at least 1024 tokens\."):
        ensure_imatrix(found, model, 2, log)
    fake_tool(tmp_path / "tool", "open(out, 'wb').write(b'nonsense')")
    with pytest.raises(LabError, match="not a GGUF importance matrix"):
        ensure_imatrix(found, model, 2, log)
    assert not any((tmp_path / "out").iterdir())
    monkeypatch.delenv("LABCTL_LLAMA_IMATRIX")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(LabError, match="not on the PATH"):
        ensure_imatrix(found, model, 2, log)


def test_auto_never_reads_the_test_text(
    tmp_path: Path, model: SourceModel, digests: DigestCache, demo_text: TextSource
) -> None:
    with pytest.raises(LabError, match=r"demo_text.txt is the text that perplexity is measured on") as caught:
        find_imatrix("auto", model, demo_text, LAB_DATA, tmp_path, digests)
    assert "auto:FILE" in caught.value.hint
    other = tmp_path / "other.txt"
    other.write_text("Something else to read. " * 9)
    found = find_imatrix(f"auto:{other}", model, demo_text, LAB_DATA, tmp_path, digests)
    assert found is not None and found.calibration == other
