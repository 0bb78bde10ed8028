"""Quantized files are llama-quantize's, whole or not there, and described as they are."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from kit.lab_factory import provenance

from labctl.engines.llama_cpp.engine import ENGINE
from labctl.engines.llama_cpp.formats import LAB_FORMATS
from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.quantizer import read_fallbacks, read_progress
from labctl.errors import LabError
from labctl.executors.base import Progress
from labctl.records.digests import file_sha256
from labctl.records.files import GgufFile
from labctl.steps.quantize import keep, work
from labctl.steps.quantize.audit import audit
from labctl.steps.quantize.record import Made, QuantizeTask

# -- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", LAB_FORMATS)
def test_a_file_is_llama_quantizes_to_the_byte(label: str, quantized: Any, reference: dict[str, Any]) -> None:
    record, expected = quantized.records[label], reference["formats"][label]
    path = quantized.paths[label]
    assert record.size_bytes == path.stat().st_size == expected["bytes"]
    assert record.sha256 == file_sha256(path) == expected["sha256"]


@pytest.mark.parametrize("label", LAB_FORMATS)
def test_the_audit_says_what_is_in_the_file(label: str, quantized: Any, reference: dict[str, Any]) -> None:
    import gguf

    record = quantized.records[label]
    expected = reference["formats"][label]
    assert f"{record.bpw:.2f}" == f"{expected['bpw']:.2f}"
    assert {one.tensor_type: one.n_tensors for one in record.types} == {**expected["types_2d"], "f32": 13}
    assert record.fallbacks == ()
    assert record.quantize_s is not None
    assert record.quantize_s > 0
    theirs = gguf.GGUFReader(quantized.paths[label])
    assert record.n_tensors == len(theirs.tensors) == 56
    assert record.tensor_bytes == sum(int(tensor.n_bytes) for tensor in theirs.tensors)
    assert record.n_params == sum(int(tensor.n_elements) for tensor in theirs.tensors) == 15_211_008
    assert (record.shape.n_layer, record.shape.n_embd, record.shape.n_vocab) == (6, 512, 8192)


def test_the_baseline_audit_reads_the_source(demo_model: Path, reference: dict[str, Any]) -> None:
    record = audit(ENGINE, demo_model, "F16", provenance("quantize"))
    assert record.sha256 == reference["formats"]["F16"]["sha256"]
    assert record.main_type == "f16"
    assert record.quantize_s is None
    assert f"{record.bpw:.2f}" == "16.01"


@pytest.mark.parametrize("label", LAB_FORMATS)
def test_the_dry_run_announces_the_exact_bytes_and_writes_nothing(
    label: str, child: Callable[..., Any], demo_model: Path, quantized: Any, tmp_path: Path
) -> None:
    task = quantize_task(demo_model, tmp_path / "x.gguf", label, dry_run=True)
    assert child(task, Made).tensor_bytes == quantized.records[label].tensor_bytes
    assert list(tmp_path.iterdir()) == []


def quantize_task(source: Path, target: Path, label: str, **options: Any) -> QuantizeTask:
    """Its file is made in a folder beside the target, so that nothing else is left there."""
    scratch = target.parent / "scratch" / target.name
    return QuantizeTask(model_path=str(source), format=label, n_threads=1, target_path=str(scratch), **options)


def make(child: Callable[..., Any], source: Path, target: Path, label: str, **options: Any) -> GgufFile:
    """Make a file in a real child."""
    return keep.make(ENGINE, child, quantize_task(source, target, label, **options), target, provenance("quantize"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_progress_goes_through_all_tensors(child: Callable[..., Any], demo_model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    make(functools.partial(child, on_progress=seen.append), demo_model, tmp_path / "x.gguf", "Q8_0")
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[-1].done, seen[-1].total) == (56, 56)


def test_a_format_that_llama_cpp_refuses_leaves_nothing(
    child: Callable[..., Any], demo_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match="quantize IQ2_XXS"):
        make(child, demo_model, tmp_path / "x.gguf", "IQ2_XXS")
    assert files(tmp_path) == []


def test_a_quantized_source_is_quantized_again_only_on_request(
    child: Callable[..., Any], quantized: Any, tmp_path: Path
) -> None:
    source = quantized.paths["Q8_0"]
    with pytest.raises(LabError):
        make(child, source, tmp_path / "x.gguf", "Q4_K_M")
    assert files(tmp_path) == []
    record = make(child, source, tmp_path / "x.gguf", "Q4_K_M", allow_requantize=True)
    assert record.tensor_bytes == quantized.records["Q4_K_M"].tensor_bytes


def test_unicode_and_spaces_in_paths(
    child: Callable[..., Any], demo_model: Path, quantized: Any, tmp_path: Path
) -> None:
    target = tmp_path / "Grüße aus 日本 'x'" / "a b.gguf"
    record = make(child, demo_model, target, "Q3_K_M")
    assert record.sha256 == quantized.records["Q3_K_M"].sha256


# -- llama.cpp's log --------------------------------------------------------------------------------------------------

_LINES = (
    "[   1/  56]                        token_embd.weight - [  512,  8192,     1,     1], type =    f16, "
    "converting to q6_K .. size =     8.00 MiB ->     3.28 MiB",
    "[  12/ 291] blk.0.attn_k.weight - [ 4096,  4096,     1,     1], type =    f16, size =   32.000 MiB (   q4_K)",
    "[   3/  56] output_norm.weight - [  512,     1,     1,     1], type =    f32, size =    0.002 MiB",
)


def test_progress_lines() -> None:
    assert [read_progress(line) for line in _LINES] == [(1, 56), (12, 291), (3, 56)]
    assert read_progress("llama_model_quantize_impl: model size  =    29.04 MiB") is None
    assert read_progress("") is None


def test_fallback_lines() -> None:
    # as llama.cpp writes it: src/llama-quant.cpp, tensor_type_fallback
    lines = [
        "tensor_type_fallback: warning: blk.0.ffn_down.weight                - ncols    576 not divisible by 256 "
        "(required for type    q4_K) -> falling back to    q5_0",
        "tensor_type_fallback: warning: blk.1.attn_v.weight                  - ncols    100 not divisible by 256 "
        "(required for type    q6_K) -> falling back to    q8_0 -> falling back to     f16",
        "a line about something else",
    ]
    first, second = read_fallbacks(lines)
    assert (first.tensor, first.row_length, first.wanted, first.got) == ("blk.0.ffn_down.weight", 576, "q4_K", "q5_0")
    assert (second.tensor, second.row_length, second.wanted) == ("blk.1.attn_v.weight", 100, "q6_K")


def test_a_real_fallback_is_seen(child: Callable[..., Any], demo_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "narrow-f16.gguf"
    narrow_model(demo_model, source)
    target = tmp_path / "out" / "narrow.gguf"
    record = make(child, source, target, "Q4_K_M")
    fallen = {one.tensor: one for one in record.fallbacks}
    assert set(fallen) == {"blk.0.ffn_down.weight"}
    assert (fallen["blk.0.ffn_down.weight"].row_length, fallen["blk.0.ffn_down.weight"].got) in {
        (96, "q5_0"),
        (96, "q8_0"),
    }
    header, _ = read_model(target)
    kinds = {tensor.name: tensor.tensor_type for tensor in header.tensors}
    assert kinds["blk.0.ffn_down.weight"] == fallen["blk.0.ffn_down.weight"].got


def narrow_model(demo_model: Path, path: Path) -> None:
    """A one-layer model like the demo one whose feed-forward rows are 96 long."""
    import gguf
    import numpy as np

    theirs = gguf.GGUFReader(demo_model)
    writer = gguf.GGUFWriter(path, "llama")
    for field in theirs.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        value = {"llama.block_count": 1, "llama.feed_forward_length": 96}.get(field.name, field.contents())
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, value)
        else:
            writer.add_key_value(field.name, value, kind)
    random = np.random.default_rng(1)
    for tensor in theirs.tensors:
        if tensor.name.startswith("blk.") and not tensor.name.startswith("blk.0."):
            continue
        data = np.array(tensor.data)
        if tensor.name.endswith(("ffn_gate.weight", "ffn_up.weight")):
            data = random.normal(size=(96, 512)).astype(np.float16)
        if tensor.name.endswith("ffn_down.weight"):
            data = random.normal(size=(512, 96)).astype(np.float16)
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# -- what is refused --------------------------------------------------------------------------------------------------


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def played(write: Callable[[Path], None]) -> Callable[..., Made]:
    """Plays a child that writes this file and says what a dry run of the demo model announced."""

    def run(task: QuantizeTask, kind: type[Made]) -> Made:
        write(Path(task.target_path))
        header, _ = read_model(Path(task.model_path))
        return Made(tensor_bytes=sum(tensor.size_bytes for tensor in header.tensors))

    return run


def test_input_and_output_may_not_be_one_file(demo_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(demo_model.read_bytes())
    links = {"itself": source, "dots": tmp_path / "x" / ".." / "source.gguf"}
    (tmp_path / "x").mkdir()
    links["symbolic"] = tmp_path / "symbolic.gguf"
    links["symbolic"].symlink_to(source)
    links["hard"] = tmp_path / "hard.gguf"
    links["hard"].hardlink_to(source)
    links["folder"] = tmp_path / "folder" / "source.gguf"
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    for target in links.values():
        with pytest.raises(LabError, match="quantize Q8_0: Input and output are the same file") as caught:
            make(played(lambda path: pytest.fail("it was begun")), source, target, "Q8_0")
        assert "--outputs" in caught.value.hint
    assert source.read_bytes() == demo_model.read_bytes()
    keep.refuse_same_file(source, tmp_path / "other.gguf")


class Silent:
    """A Report that nobody hears."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.stopped = False

    def __call__(self, done: int, total: int, note: str = "") -> None: ...

    def rows(self, to: str, number: int, values: bytes) -> None: ...


def test_a_disk_without_room_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a.fake", tmp_path / "x.fake"
    source.write_bytes(bytes(8_000_000))
    task = quantize_task(source, target, "EIGHTH", engine="kit.fake_engine:ENGINE")
    task = msgspec.structs.replace(task, target_path=str(target))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(LabError, match=r"Not enough disk.*2.00 MB free"):
        work.make(task, Silent())
    assert files(tmp_path) == ["a.fake"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    assert work.make(task, Silent()).tensor_bytes == target.stat().st_size == 1_000_000


@pytest.mark.parametrize("lost", [0, 1, 1000, 20_000_000])
def test_a_result_that_is_not_whole_gets_no_name(demo_model: Path, tmp_path: Path, lost: int) -> None:
    data = demo_model.read_bytes()
    run = played(lambda path: write(path, data[: len(data) - lost]))
    target = tmp_path / "x.gguf"
    target.write_bytes(b"earlier result")
    if lost:
        with pytest.raises(LabError, match="quantize Q8_0: "):
            make(run, demo_model, target, "Q8_0")
        assert target.read_bytes() == b"earlier result"
    else:
        assert make(run, demo_model, target, "Q8_0").sha256 == file_sha256(target) == file_sha256(demo_model)
    assert files(tmp_path) == ["x.gguf"]


def test_a_crash_while_quantizing_leaves_the_earlier_file(demo_model: Path, tmp_path: Path) -> None:
    def crash(path: Path) -> None:
        path.write_bytes(b"half")
        raise LabError("llama.cpp could not quantize.")

    target = tmp_path / "x.gguf"
    target.write_bytes(b"earlier result")
    with pytest.raises(LabError, match="could not quantize"):
        make(played(crash), demo_model, target, "Q8_0")
    assert target.read_bytes() == b"earlier result"
    assert files(tmp_path) == ["x.gguf"]
