"""Checkpoints to GGUF: what is checked before, what comes out, what is said when it fails."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from kit import made_checkpoints
from kit.extras import extra, skip_without

from labctl.engines.llama_cpp.engine import ENGINE
from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import checkpoint, convert, converter
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache

TESTS = Path(__file__).resolve().parents[1]
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}


def safetensors(dtype: str = "BF16", n_bytes: int = 64) -> bytes:
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "w": {"dtype": dtype, "shape": [n_bytes], "data_offsets": [0, n_bytes]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(n_bytes)


def folder_with(folder: Path, **files: bytes | None) -> Path:
    """A small checkpoint; a value of None leaves a file out. Underscores stand for dots in names."""
    folder.mkdir(exist_ok=True)
    whole = {
        "config_json": json.dumps(CONFIG).encode(),
        "model_safetensors": safetensors(),
        "tokenizer_model": b"pieces",
    }
    for name, content in {**whole, **files}.items():
        if content is not None:
            (folder / name.replace("_", ".")).write_bytes(content)
    return folder


# -- before -----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_described(tmp_path: Path) -> None:
    found = checkpoint.read_checkpoint(folder_with(tmp_path / "m"))
    assert (found.architecture, found.dtypes, found.quantization) == ("LlamaForCausalLM", frozenset({"BF16"}), "")
    assert sorted(path.name for path in found.files) == ["config.json", "model.safetensors", "tokenizer.model"]
    assert found.weight_bytes == found.f16_bytes == len(safetensors())
    single = checkpoint.read_checkpoint(folder_with(tmp_path / "s", model_safetensors=safetensors("F32", 128)))
    assert single.f16_bytes == single.weight_bytes // 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config_json": None}, "holds no config.json"),
        ({"config_json": b"{not json"}, "config.json is damaged"),
        ({"config_json": b"[1]"}, "config.json is damaged"),
        ({"config_json": b"{}"}, "names no architecture"),
        ({"model_safetensors": None}, "holds no weights"),
        ({"tokenizer_model": None}, "holds no tokenizer"),
        ({"model_safetensors": safetensors()[:-3]}, "model.safetensors is cut short: 3 bytes missing"),
        ({"model_safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "is no safetensors file"),
        ({"model_safetensors": struct.pack("<Q", 9) + b"not json!"}, "is damaged"),
        ({"model_safetensors": struct.pack("<Q", 1 << 60)}, "is no safetensors file"),
        (
            {"model_safetensors_index_json": b'{"weight_map": {"a": "model.safetensors", "b": "x.safetensors"}}'},
            "1 of 2 weight files are missing in .*, the first of them x.safetensors",
        ),
    ],
)
def test_what_is_wrong_with_a_checkpoint(tmp_path: Path, files: dict[str, bytes | None], message: str) -> None:
    folder_with(tmp_path / "m", **files)
    with pytest.raises(LabError, match=message) as caught:
        checkpoint.read_checkpoint(tmp_path / "m")
    assert caught.value.hint


def test_only_what_conversion_needs_is_fetched_and_no_programs() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    side = ["config.json", "merges.txt", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model"]
    others = ["README.md", "modeling_x.py", "pytorch_model.bin", "consolidated.safetensors", "sub/model.safetensors"]
    assert checkpoint.wanted_files([*shards, *side, *others]) == [*shards, *side]
    assert checkpoint.wanted_files(["model.safetensors", "consolidated.safetensors", "config.json"]) == [
        "model.safetensors",
        "config.json",
    ]
    assert checkpoint.wanted_files(["pytorch_model.bin", "config.json", "run.py"]) == [
        "pytorch_model.bin",
        "config.json",
    ]
    assert checkpoint.wanted_files(["config.json", "README.md"]) == []


def test_a_quantized_checkpoint_is_refused(tmp_path: Path, digests: DigestCache) -> None:
    config = {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    folder_with(tmp_path / "m", config_json=json.dumps(config).encode())
    with pytest.raises(LabError, match=r"m is already quantized \(gptq\)") as caught:
        resolve_model(str(tmp_path / "m"), tmp_path / "data", digests)
    assert "--allow-quantized-source" in caught.value.hint


# -- the converter ----------------------------------------------------------------------------------------------------


def checkout(folder: Path, script: str) -> Path:
    """A llama.cpp folder with a converter of the test's."""
    (folder / "requirements").mkdir(parents=True)
    (folder / converter.SCRIPT).write_text(script)
    (folder / converter.REQUIREMENTS).write_text(
        "-r ./more.txt\n--extra-index-url https://example.org/cpu\ntorch==2.11.0\n"
    )
    (folder / "requirements" / "more.txt").write_text("numpy~=2.2 # why\n\ngguf>=0.1.0\nprotobuf>=4\n")
    return folder


def test_requirements_follow_the_files(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "cpp", "")
    assert converter.read_requirements(folder / converter.REQUIREMENTS) == (
        ["numpy~=2.2", "protobuf>=4", "torch==2.11.0"],
        ["https://example.org/cpu"],
    )


def test_setting_up_is_asked_first(tmp_path: Path, digests: DigestCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABCTL_CONVERT_PYTHON", raising=False)
    folder_with(tmp_path / "m")
    folder = checkout(tmp_path / "cpp", "")
    with pytest.raises(LabError, match=r"needs PyTorch .* GB to download .* minutes") as caught:
        resolve_model(str(tmp_path / "m"), tmp_path / "data", digests, llama_cpp=str(folder))
    assert "--yes" in caught.value.hint
    assert not (tmp_path / "data").exists()


def test_a_folder_without_converter(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no convert_hf_to_gguf.py in"):
        converter.find_converter(tmp_path, str(tmp_path / "nothing"))


def test_a_python_without_torch_is_named(tmp_path: Path, digests: DigestCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_CONVERT_PYTHON", str(tmp_path / "nowhere"))
    folder_with(tmp_path / "m")
    folder = checkout(tmp_path / "cpp", "")
    with pytest.raises(LabError, match=r"LABCTL_CONVERT_PYTHON=.* cannot be run"):
        resolve_model(str(tmp_path / "m"), tmp_path / "data", digests, llama_cpp=str(folder))


def ready(folder: Path, home: Path) -> converter.Converter:
    """A converter that runs in this Python: its script needs no torch here."""
    (home / "env.json").parent.mkdir(parents=True, exist_ok=True)
    (home / "env.json").write_text("{}")
    return converter.Converter(
        folder=folder, python=Path(sys.executable), home=home, origin="a test", key="k", version="", own_python=True
    )


def test_a_failing_converter_is_one_line_and_leaves_nothing(tmp_path: Path, digests: DigestCache) -> None:
    script = (
        "import sys; print('INFO:hf-to-gguf:x'); sys.exit('ERROR:hf-to-gguf:Model XyzForCausalLM is not supported')"
    )
    folder = checkout(tmp_path / "cpp", script)
    found = checkpoint.read_checkpoint(folder_with(tmp_path / "m"))
    data = tmp_path / "data"
    with pytest.raises(LabError) as caught:
        convert.convert(found, "m", ready(folder, data / ".convert"), data, digests, Dialogue())
    assert caught.value.message == (
        "m cannot be converted: llama.cpp's converter does not know the architecture XyzForCausalLM."
    )
    assert not list(data.glob("converted/**/*.gguf*"))


def gguf_with(path: Path, values: np.ndarray) -> None:
    """A whole GGUF file of one F16 matrix."""
    writer = GGUFWriter(path, "llama")
    for key, value in (
        ("block_count", 1),
        ("embedding_length", 32),
        ("attention.head_count", 1),
        ("context_length", 8),
    ):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", ["a"])
    writer.add_tensor("norm", np.full(4, 1e6, dtype=np.float32))
    writer.add_tensor("w", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("worst", "names"), [(65504.0, ()), (-65504.0, ()), (np.inf, ("w",)), (np.nan, ("w",))])
def test_overflow_is_found(tmp_path: Path, worst: float, names: tuple[str, ...]) -> None:
    values = np.zeros((3, 32), dtype=np.float16)
    values[2, 31] = worst
    gguf_with(tmp_path / "m.gguf", values)
    assert tuple(ENGINE.f16_faults(tmp_path / "m.gguf")) == names


def test_bf16_is_the_baseline_where_f16_overflows(tmp_path: Path, digests: DigestCache) -> None:
    values = np.zeros((3, 32), dtype=np.float16)
    gguf_with(tmp_path / "fits.gguf", values)
    values[0, 0] = np.inf
    gguf_with(tmp_path / "f16.gguf", values)
    script = (
        "import shutil, sys\na = sys.argv\nout, kind = a[a.index('--outfile') + 1], a[a.index('--outtype') + 1]\n"
        f"shutil.copy({str(tmp_path)!r} + ('/f16.gguf' if kind == 'f16' else '/fits.gguf'), out)\n"
    )
    folder = checkout(tmp_path / "cpp", script)
    data = tmp_path / "data"
    told: list[str] = []
    found = checkpoint.read_checkpoint(folder_with(tmp_path / "m"))
    arguments = (found, "m", ready(folder, data / ".convert"), data, digests, Dialogue(say=told.append))
    made = convert.convert(*arguments)
    assert (made.outtype, made.made, made.path.name) == ("bf16", True, "m-bf16.gguf")
    assert "so the baseline is BF16" in made.notices[0] and "w holds weights beyond F16's 65,504" in told[1]
    assert [path.name for path in made.path.parent.iterdir()] == ["m-bf16.gguf"]
    again = convert.convert(*arguments)
    assert (again.path, again.made, again.notices) == (made.path, False, made.notices)
    (tmp_path / "m" / "tokenizer.model").write_bytes(b"other pieces")
    assert convert.convert(*arguments).path != made.path


def test_nan_that_only_the_converter_could_read_is_told_as_nan(tmp_path: Path, digests: DigestCache) -> None:
    values = np.zeros((3, 32), dtype=np.float16)
    values[1, 1], values[2, 2] = np.inf, np.nan
    gguf_with(tmp_path / "nan.gguf", values)
    script = (
        f"import shutil, sys\nshutil.copy({str(tmp_path / 'nan.gguf')!r}, sys.argv[sys.argv.index('--outfile') + 1])\n"
    )
    folder, data = checkout(tmp_path / "cpp", script), tmp_path / "data"
    made_checkpoints.checkpoint(tmp_path / "m", model__safetensors=None)
    made_checkpoints.pytorch_file(tmp_path / "m" / "pytorch_model.bin", made_checkpoints.llama_shapes())
    found = checkpoint.read_checkpoint(tmp_path / "m")
    with pytest.raises(LabError, match="m holds weights that are not numbers: NaN in w,"):
        convert.convert(found, "m", ready(folder, data / ".convert"), data, digests, Dialogue())
    assert not list(data.glob("converted/**/*.gguf*"))


@pytest.mark.parametrize(
    ("log", "status", "message"),
    [
        ("ERROR:hf-to-gguf:Model FooForCausalLM is not supported", 1, "does not know the architecture FooForCausalLM"),
        ("NotImplementedError: BPE pre-tokenizer was not recognized - update", 1, "does not know this tokenizer"),
        ("FileNotFoundError: File not found: /home/x/m/tokenizer.model", 1, "the file tokenizer.model is missing"),
        ("ValueError: Can not map tensor 'model.layers.0.lora_A.weight'", 1, "the tensor model.layers.0.lora_A.weight"),
        ("ModuleNotFoundError: No module named 'tiktoken'", 1, "lacks the Python package tiktoken"),
        ("OSError: [Errno 28] No space left on device", 1, "the disk is full"),
        ("Traceback:\n  File x\nKeyError: 'rope'\n", 1, "KeyError: 'rope'"),
        ("Loading", -9, "killed, most likely because memory ran out"),
        ("", 3, "ended with status 3"),
    ],
)
def test_logs_become_one_line(log: str, status: int, message: str) -> None:
    said, hint = convert.explain(log, status)
    assert message in said and "\n" not in said and hint


@pytest.mark.parametrize(
    "log", ["ValueError: Can not map tensor 'x.weight_scale'", "AssertionError", "KeyError: 'x.g_idx'"]
)
def test_a_form_of_quantization_that_cannot_be_unpacked_is_told_as_that(log: str) -> None:
    assert "cannot unpack this form of weights quantized by fp8" in convert.explain(log, 1, "fp8")[0]
    assert "unpack" not in convert.explain(log, 1)[0]
    assert "disk is full" in convert.explain("OSError: [Errno 28] No space left on device", 1, "fp8")[0]


# -- with the real converter ------------------------------------------------------------------------------------------

LOGITS = """
import sys, numpy as np
from pathlib import Path
from labctl.engines.llama_cpp.binding import Context, Llama, Model
tokens = np.load(sys.argv[2])
with Model(Llama(), Path(sys.argv[1])) as model, Context(model, n_ctx=64, n_threads=2) as context:
    context.prompt(tokens, all_logits=True)
    context.synchronize()
    np.save(sys.argv[3], np.array(context.logits(len(tokens))))
"""


@pytest.fixture
def torch_python(monkeypatch: pytest.MonkeyPatch) -> str:
    """An interpreter with torch, transformers and sentencepiece."""
    named = extra("LABCTL_CONVERT_PYTHON", "convert/bin/python") or sys.executable
    code = "import torch, transformers, sentencepiece, safetensors, google.protobuf"
    if subprocess.run([named, "-c", code], capture_output=True, check=False).returncode:
        skip_without("a Python with torch, transformers and sentencepiece")
    monkeypatch.setenv("LABCTL_CONVERT_PYTHON", named)
    return named


def make_tiny(python: str, shape: str, folder: Path, dtype: str) -> None:
    command = [python, str(TESTS / "kit" / "tiny_checkpoints.py"), shape, str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.convert
@pytest.mark.parametrize(("shape", "dtype"), [("llama", "bf16"), ("qwen2", "f32"), ("mistral", "f16")])
def test_logits_are_those_of_transformers(
    shape: str, dtype: str, tmp_path: Path, digests: DigestCache, torch_python: str, llama_cpp: str
) -> None:
    make_tiny(torch_python, shape, tmp_path / shape, dtype)
    model = resolve_model(str(tmp_path / shape), tmp_path / "data", digests, llama_cpp=llama_cpp)
    assert (model.name, model.origin, model.baseline, model.notices) == (shape, "checkpoint", "F16", ())
    arguments = [model.path, str(tmp_path / shape / "tokens.npy"), str(tmp_path / "got.npy")]
    subprocess.run([sys.executable, "-c", LOGITS, *arguments], check=True, capture_output=True)
    got, expected = np.load(tmp_path / "got.npy"), np.load(tmp_path / shape / "logits.npy")
    assert got.shape == expected.shape == (48, 320)
    spread = float(expected.max() - expected.min())
    assert spread > 1
    assert float(np.abs(got - expected).max()) < 1e-2 * spread


@pytest.mark.convert
def test_weights_beyond_f16_stay_bf16(tmp_path: Path, digests: DigestCache, torch_python: str, llama_cpp: str) -> None:
    make_tiny(torch_python, "llama", tmp_path / "m", "bf16-large")
    model = resolve_model(str(tmp_path / "m"), tmp_path / "data", digests, llama_cpp=llama_cpp)
    assert model.baseline == "BF16" and "so the baseline is BF16" in model.notices[0]


@pytest.mark.convert
def test_what_the_real_converter_refuses(
    tmp_path: Path, digests: DigestCache, torch_python: str, llama_cpp: str
) -> None:
    make_tiny(torch_python, "llama", tmp_path / "m", "bf16")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "architectures": ["NobodyForCausalLM"]}))
    with pytest.raises(LabError, match=r"m cannot be converted: .* does not know the architecture NobodyForCausalLM"):
        resolve_model(str(tmp_path / "m"), tmp_path / "data", digests, llama_cpp=llama_cpp)
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2MoeForCausalLM"]}))
    with pytest.raises(LabError, match="m cannot be converted"):
        resolve_model(str(tmp_path / "m"), tmp_path / "data", digests, llama_cpp=llama_cpp)
