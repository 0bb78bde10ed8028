"""Addresses of the Hub's pages given as models: understood, or refused in words; and what a repository must hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.command import Cli
from kit.hub_server import COMMIT, Hub, Repo, hub_for_this_test
from kit.made_checkpoints import CONFIG, llama_shapes, safetensors
from kit.tiny_gguf import BF16, F16, Q4_1

from labctl.errors import LabError
from labctl.lab.sources.hubspec import is_address, read_spec
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache

CHECKPOINT = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": safetensors(llama_shapes()),
    "tokenizer.model": b"pieces",
}
LORA = json.dumps({"base_model_name_or_path": "owner/base"}).encode()


# -- what an address means --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("https://huggingface.co/owner/repo", "hf:owner/repo"),
        ("https://huggingface.co/owner/repo/", "hf:owner/repo"),
        ("http://www.huggingface.co/owner/repo?library=gguf#files", "hf:owner/repo"),
        ("huggingface.co/owner/repo", "hf:owner/repo"),
        ("HuggingFace.co/owner/repo", "hf:owner/repo"),
        ("hf.co/owner/repo", "hf:owner/repo"),
        ("https://hf.co/owner/repo/tree/main", "hf:owner/repo"),
        ("https://huggingface.co/owner/repo/tree/v1.0/", "hf:owner/repo@v1.0"),
        ("https://huggingface.co/owner/repo/tree/main/BF16", "hf:owner/repo:BF16/"),
        ("https://huggingface.co/owner/repo/tree/v1/a/b/", "hf:owner/repo@v1:a/b/"),
        ("https://huggingface.co/owner/repo/tree/refs%2Fpr%2F3", "hf:owner/repo@refs/pr/3"),
        ("https://huggingface.co/owner/repo/tree/refs/pr/3/sub", "hf:owner/repo@refs/pr/3:sub/"),
        ("https://huggingface.co/owner/repo/blob/main/m-F16.gguf", "hf:owner/repo:m-F16.gguf"),
        ("https://huggingface.co/owner/repo/resolve/main/m-F16.gguf?download=true", "hf:owner/repo:m-F16.gguf"),
        ("https://huggingface.co/owner/repo/raw/v2/sub/m%20x.gguf", "hf:owner/repo@v2:sub/m x.gguf"),
        (f"https://huggingface.co/owner/repo/commit/{COMMIT}", f"hf:owner/repo@{COMMIT}"),
        ("https://huggingface.co/owner/repo/commits/main", "hf:owner/repo"),
        ("https://huggingface.co/owner/repo/discussions/5", "hf:owner/repo"),
        ("https://huggingface.co/api/models/owner/repo", "hf:owner/repo"),
        ("https://huggingface.co/owner/repo.git", "hf:owner/repo"),
        ("git@hf.co:owner/repo", "hf:owner/repo"),
        ("git@huggingface.co:owner/repo.git", "hf:owner/repo"),
        ("https://name:secret@huggingface.co/owner/repo", "hf:owner/repo"),
        ("hf:https://huggingface.co/owner/repo/tree/main", "hf:owner/repo"),
        ("hf.co/owner/repo:Q8_0", "hf:owner/repo:Q8_0"),
        ("hf://owner/repo", "hf:owner/repo"),
        ("hf://owner/repo@v1/sub/m.gguf", "hf:owner/repo@v1:sub/m.gguf"),
        ("hf://models/owner/repo", "hf:owner/repo"),
        ("hf:owner/repo/", "hf:owner/repo"),
        ("hf:owner/repo@main", "hf:owner/repo"),
        ("hf:owner/repo@v1:m.gguf", "hf:owner/repo@v1:m.gguf"),
        (" https://huggingface.co/owner/repo ", "hf:owner/repo"),
    ],
)
def test_an_address_is_understood(address: str, meant: str) -> None:
    assert is_address(address.strip()) and str(read_spec(address)) == meant
    assert read_spec(meant) == read_spec(address)


@pytest.mark.parametrize(
    ("address", "said", "hint"),
    [
        (
            "https://huggingface.co/datasets/owner/data",
            "datasets/owner/data on the Hub is a dataset, not a model",
            "hf:",
        ),
        ("hf.co/spaces/owner/demo/tree/main", "spaces/owner/demo on the Hub is a space, not a model", "hf:owner/repo"),
        ("hf://datasets/owner/data/x.parquet", "is a dataset", "hf:owner/repo"),
        ("https://huggingface.co/owner", "huggingface.co/owner is not the page of a model", "copy its address"),
        ("https://huggingface.co/", "huggingface.co is not the page of a model", "copy its address"),
        ("https://huggingface.co/models?search=x", "is not the page of a model", "copy its address"),
        ("https://huggingface.co/docs/hub/gguf", "is not the page of a model", "copy its address"),
        ("https://huggingface.co/collections/owner/x", "is not the page of a model", "copy its address"),
        ("https://huggingface.co/owner/repo/blob/main/../../x", "is refused", "inside"),
        ("https://huggingface.co/owner/repo/blob/main/..%2F..%2Fx", "is refused", "inside"),
        ("https://example.org/m.gguf", "and not from example.org", "give its path"),
        ("https://user:secret@example.org/m.gguf", "and not from example.org", "give its path"),
        ("s3://bucket/m.gguf", "and not from bucket", "give its path"),
        ("file:///home/x/m.gguf", "named by its path", "/home/x/m.gguf"),
        ("https://huggingface.co/.../repo", "Cannot read", "hf:owner/repo"),
        ("hf:onlyname", "Cannot read", "hf:owner/repo"),
    ],
)
def test_what_is_no_model_of_the_hub_is_said(cli: Cli, tmp_path: Path, address: str, said: str, hint: str) -> None:
    done = cli("prepare", "--model", address, "--text", "demo", cwd=tmp_path)
    shown = " ".join(done.stderr.split())
    assert done.returncode == 1 and said in shown.split("hint:")[0] and hint in shown.split("hint:")[1], shown
    assert "secret" not in shown and "Traceback" not in shown


# -- with a Hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    split = {f"m-00002-of-00003.{ending}": b"x" for ending in ("safetensors",)}
    models = {
        "lab/tiny": Repo(
            {"README.md": b"#", "tiny-F16.gguf": F16, "tiny-Q4_1.gguf": Q4_1, "BF16/tiny.gguf": BF16},
            revisions=("main", "v1", "refs/pr/3"),
        ),
        "lab/ck": Repo(
            {**CHECKPOINT, "ck-F16.gguf": F16, **{f"sub/{name}": data for name, data in CHECKPOINT.items()}}
        ),
        "lab/lora": Repo({"adapter_config.json": LORA, "adapter_model.safetensors": b"x", "tokenizer.json": b"{}"}),
        "lab/onnx": Repo({"config.json": b"{}", "model.onnx": b"x"}),
        "lab/diffusers": Repo({"model_index.json": b"{}", "unet/model.safetensors": b"x"}),
        "lab/parts": Repo({**CHECKPOINT, "model-00002-of-00003.safetensors": b"x", **split}),
        "lab/bare": Repo({"model.safetensors": CHECKPOINT["model.safetensors"]}),
        "lab/bert": Repo({**CHECKPOINT, "config.json": b'{"architectures": ["BertForMaskedLM"]}'}),
        "lab/awq": Repo(
            {
                **CHECKPOINT,
                "config.json": json.dumps({**CONFIG, "quantization_config": {"quant_method": "awq"}}).encode(),
            }
        ),
        "lab/fp8": Repo(
            {
                **CHECKPOINT,
                "config.json": json.dumps({**CONFIG, "quantization_config": {"quant_method": "fp8"}}).encode(),
            }
        ),
    }
    with hub_for_this_test(Hub(models=models), tmp_path / "hf", monkeypatch) as running:
        yield running


@pytest.mark.parametrize(
    ("page", "baseline", "spec"),
    [
        ("lab/tiny", "F16", "hf:lab/tiny"),
        ("lab/tiny/", "F16", "hf:lab/tiny"),
        ("lab/tiny/tree/main", "F16", "hf:lab/tiny"),
        ("lab/tiny/tree/v1", "F16", "hf:lab/tiny@v1"),
        ("lab/tiny/tree/main/BF16", "BF16", "hf:lab/tiny:BF16/"),
        ("lab/tiny/blob/main/BF16/tiny.gguf", "BF16", "hf:lab/tiny:BF16/tiny.gguf"),
        ("lab/tiny/resolve/v1/tiny-F16.gguf?download=true", "F16", "hf:lab/tiny@v1:tiny-F16.gguf"),
        ("lab/tiny:f16", "F16", "hf:lab/tiny:f16"),
    ],
)
def test_a_page_of_the_hub_is_a_model(
    cli: Cli, server: Hub, tmp_path: Path, page: str, baseline: str, spec: str
) -> None:
    """The server of the test plays the Hub, so its address is the Hub's: HF_ENDPOINT names it."""
    done = cli(
        "prepare",
        "--model",
        f"{server.url}/{page}",
        "--text",
        "demo",
        "--json",
        cwd=tmp_path,
        env={"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")},
    )
    assert done.returncode == 0, done.stderr
    model = json.loads(done.stdout)["model"]
    assert (model["baseline"], model["spec"], model["origin"]) == (baseline, spec, "hub")


def test_the_copy_in_the_cache_serves_an_address_too(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = DigestCache(tmp_path / "d.json")
    for spec in ("hf.co/lab/tiny/tree/main/BF16", "hf.co/lab/tiny:F16", "hf:lab/tiny:tiny-F16.gguf"):
        online = resolve_model(spec, tmp_path, digests)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        offline = resolve_model(spec, tmp_path, digests)
        monkeypatch.delenv("HF_HUB_OFFLINE")
        assert (offline.path, offline.spec) == (online.path, online.spec) and "cache" in offline.notices[0]


@pytest.mark.parametrize("page", ["blob/main/model.safetensors", "blob/main/config.json", "tree/main/sub"])
def test_the_page_of_a_checkpoints_file_means_the_checkpoint(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setenv("LABCTL_CONVERT_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(LabError, match="cannot be run"):  # as far as the converter
        resolve_model(
            f"https://huggingface.co/lab/ck/{page}",
            tmp_path,
            DigestCache(tmp_path / "d.json"),
            llama_cpp=str(_checkout(tmp_path)),
        )
    folder = "/sub" if "sub" in page else ""
    got = sorted(path.relative_to(tmp_path / "hf" / "hub").as_posix() for path in tmp_path.rglob("snapshots/**/*.*"))
    assert [name.split(COMMIT)[1] for name in got] == [f"{folder}/{name}" for name in sorted(CHECKPOINT)]


def _checkout(folder: Path) -> Path:
    (folder / "cpp").mkdir()
    (folder / "cpp" / "convert_hf_to_gguf.py").write_text("")
    return folder / "cpp"


@pytest.mark.parametrize(
    ("spec", "said", "hint", "fetched"),
    [
        ("hf:lab/lora", "lab/lora holds an adapter (PEFT, LoRA) of owner/base", "hf:owner/base", "adapter_config.json"),
        ("hf:lab/onnx", "lab/onnx holds a model in the ONNX format", "transformers", ""),
        ("hf:lab/diffusers", "lab/diffusers holds a diffusers pipeline", "language models only", ""),
        ("hf:lab/parts", "2 of 3 weight files are missing in lab/parts", "not whole", ""),
        ("hf:lab/bare", "lab/bare has weights, but no config.json", "not whole", ""),
        ("hf:lab/bert", "is a BertForMaskedLM, which does not write text", "decoder-only", "config.json"),
        ("hf:lab/awq", "lab/awq is already quantized (awq), in a way that", "unquantized", "config.json"),
        ("hf:lab/fp8", "lab/fp8 is already quantized (fp8)", "--allow-quantized-source", "config.json"),
        ("hf:lab/tiny:Q9", "lab/tiny has no GGUF file Q9", "tiny-F16.gguf", ""),
        ("hf:lab/tiny:none/", "lab/tiny has no folder none/", "lab/tiny", ""),
    ],
)
def test_a_repository_without_a_model_is_told_before_its_weights_are_fetched(
    server: Hub, tmp_path: Path, spec: str, said: str, hint: str, fetched: str
) -> None:
    with pytest.raises(LabError) as caught:
        resolve_model(spec, tmp_path / "data", DigestCache(tmp_path / "d.json"))
    assert said in caught.value.message and hint in caught.value.hint, caught.value.message
    assert {path.name for path in (tmp_path / "hf").rglob("snapshots/*/*")} == ({fetched} if fetched else set())
