"""Folders that people give as models: whole checkpoints go to the converter, all others are called by their name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_checkpoints import CONFIG, checkpoint, llama_shapes, pytorch_file, safetensors, sharded, write
from small_gguf import Small

from labctl.errors import LabError
from labctl.lab.sources.checkpoint import read_checkpoint
from labctl.lab.sources.folders import require_checkpoint
from labctl.lab.sources.kinds import other_format

LORA = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "owner/base-1B"})
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 1234\n"
ASKS = "Converting a checkpoint needs PyTorch"
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_layer": 2,
    "num_hidden_layers": None,
    "tie_word_embeddings": None,
}
VISION = {
    "architectures": ["XForConditionalGeneration"],
    "model_type": "x",
    "num_hidden_layers": None,
    "tie_word_embeddings": None,
}


def said_of(cli: Cli, folder: Path, name: str = "m") -> str:
    """What `labctl prepare` says of a model, as one line; it must be refused, or go no further than the question."""
    (folder / "text.txt").write_text("Some words to measure on.\n")
    done = cli("prepare", "--model", name, "--text", "text.txt", "--lab-data", "data", cwd=folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert not (folder / "data").exists()
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(lines) == 2 and lines[1] != "hint: ", done.stderr
    return " ".join(done.stderr.split())


# -- whole ones -------------------------------------------------------------------------------------------------------


def gpt2(folder: Path) -> None:
    layers = {f"transformer.h.{layer}.mlp.c_fc.weight": (8, 8) for layer in range(2)}
    checkpoint(
        folder,
        {"transformer.wte.weight": (16, 8), **layers},
        GPT2,
        tokenizer__model=None,
        vocab__json="{}",
        merges__txt="a b\n",
    )


def training(folder: Path) -> None:
    checkpoint(
        folder,
        optimizer__pt=b"x",
        scheduler__pt=b"x",
        rng_state__pth=b"x",
        trainer_state__json="{}",
        training_args__bin=b"x",
        adapter_config__json=LORA,
    )


def snapshot(folder: Path) -> None:
    place = folder.parent / "models--owner--model"
    checkpoint(place / "blobs")
    (place / "snapshots" / "abc").mkdir(parents=True)
    for path in (place / "blobs").iterdir():
        (place / "snapshots" / "abc" / path.name).symlink_to(path)
    folder.symlink_to(place / "snapshots" / "abc")


def pytorch(folder: Path, names: Any, **config: Any) -> None:
    checkpoint(folder, config=config, model__safetensors=None)
    pytorch_file(folder / "pytorch_model.bin", names)


WHOLE: dict[str, Callable[[Path], Any]] = {
    "one file": checkpoint,
    "parts with an index": lambda folder: sharded(folder, (1, 2, 3), index=True),
    "parts without an index": lambda folder: sharded(folder, (1, 2, 3), index=False),
    "tied, and said so": lambda folder: checkpoint(folder, llama_shapes(head=""), {"tie_word_embeddings": True}),
    "tied by its kind": gpt2,
    "tied in its own settings, untied outside": lambda folder: checkpoint(
        folder,
        llama_shapes(head="", prefix="language_model.model."),
        {**VISION, "tie_word_embeddings": False, "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 3}},
    ),
    "untied, the head of a model in a model": lambda folder: checkpoint(
        folder,
        llama_shapes(head="language_model.lm_head.weight", prefix="language_model.model."),
        {**VISION, "text_config": {"model_type": "llama", "num_hidden_layers": 3}},
    ),
    "a head by another name that llama.cpp knows": lambda folder: checkpoint(
        folder, llama_shapes(head="embed_out.weight"), {"model_type": "gpt_neox"}
    ),
    "a training checkpoint, an old adapter beside": training,
    "a snapshot of the Hub's cache": snapshot,
    "PyTorch's own file": lambda folder: pytorch(folder, llama_shapes()),
    "an older save beside its index": lambda folder: write(
        sharded(folder, (1, 2, 3), index=True) / "model.safetensors", safetensors(llama_shapes())
    ),
    "a vision tower with fewer layers": lambda folder: checkpoint(
        folder, {**llama_shapes(), "vision_tower.layers.0.w": (8,)}, {"vision_config": {"num_hidden_layers": 1}}
    ),
    "settings with CRLF": lambda folder: checkpoint(
        folder, config__json=json.dumps(CONFIG, indent=1).replace("\n", "\r\n")
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_checkpoint_gets_as_far_as_the_converter(cli: Cli, tmp_path: Path, case: str) -> None:
    WHOLE[case](tmp_path / "m")
    assert ASKS in said_of(cli, tmp_path)


# -- not whole --------------------------------------------------------------------------------------------------------


def index_of_another_save(folder: Path) -> None:
    sharded(folder, (1, 2, 3), index=True)
    write(folder / "model-00002-of-00003.safetensors", safetensors({"model.layers.9.x.weight": (8,)}))


INCOMPLETE: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "last part, no index": (
        lambda folder: sharded(folder, (1, 2), index=False),
        "1 of 3 weight files are missing in m, the first of them model-00003-of-00003.safetensors",
        "again",
    ),
    "middle part, no index": (lambda folder: sharded(folder, (1, 3), index=False), "model-00002-of-00003", "again"),
    "first two of five, no index": (
        lambda folder: sharded(folder, (3, 4, 5), count=5, index=False),
        "2 of 5 weight files are missing",
        "again",
    ),
    "a part named by the index": (lambda folder: sharded(folder, (1, 2), index=True), "1 of 3 weight files", "again"),
    "an old index": (
        lambda folder: checkpoint(
            folder, model__safetensors__index__json='{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'
        ),
        "1 of 1 weight files are missing",
        "move model.safetensors.index.json away",
    ),
    "an index of another save": (
        index_of_another_save,
        "model-00002-of-00003.safetensors is of another save than its index: model.safetensors.index.json places",
        "again",
    ),
    "a part of PyTorch's own": (
        lambda folder: pytorch_file(
            checkpoint(folder, model__safetensors=None) / "pytorch_model-00002-of-00002.bin", ["lm_head.weight"]
        ),
        "the first of them pytorch_model-00001-of-00002.bin",
        "again",
    ),
    "untied without a head": (
        lambda folder: checkpoint(folder, llama_shapes(head="")),
        "no lm_head.weight is there",
        "tie_word_embeddings",
    ),
    "untied by its kind, without a head": (
        lambda folder: checkpoint(folder, llama_shapes(head=""), {"tie_word_embeddings": None}),
        "in models of the kind llama the output head is not tied",
        "tie_word_embeddings",
    ),
    "a model in a model without its head": (
        lambda folder: checkpoint(
            folder,
            llama_shapes(head="", prefix="language_model.model."),
            {**VISION, "text_config": {"model_type": "x", "num_hidden_layers": 3, "tie_word_embeddings": False}},
        ),
        "no lm_head.weight is there",
        "tie_word_embeddings",
    ),
    "PyTorch's own file without a head": (
        lambda folder: pytorch(folder, llama_shapes(head="")),
        "no lm_head.weight is there",
        "again",
    ),
    "a renamed head": (
        lambda folder: checkpoint(folder, llama_shapes(head="decoder_head.weight")),
        "decoder_head.weight has its shape: was it renamed?",
        "again",
    ),
    "a layer without tensors": (
        lambda folder: checkpoint(folder, llama_shapes(layers=(0, 2))),
        "config.json counts 3 layers, and there are no tensors for 1 of them, the first of them layer 1",
        "again",
    ),
    "layers of a model in a model": (
        lambda folder: checkpoint(
            folder, llama_shapes(prefix="language_model.model."), {**VISION, "text_config": {"num_hidden_layers": 5}}
        ),
        "counts 5 layers, and there are no tensors for 2 of them",
        "again",
    ),
    "weights twice": (
        lambda folder: write(
            sharded(folder, (1, 2, 3), index=False) / "model.safetensors", safetensors(llama_shapes())
        ),
        "holds its weights more than once",
        "Move the files",
    ),
    "two precisions": (
        lambda folder: write(checkpoint(folder) / "model.fp16.safetensors", safetensors(llama_shapes(), "F16")),
        "more than once: model.fp16.safetensors, model.safetensors",
        "Move the files",
    ),
    "only a header": (lambda folder: checkpoint(folder, {}), "is only a header", "again"),
    "cut short": (
        lambda folder: checkpoint(folder, model__safetensors=safetensors(llama_shapes())[:-5]),
        "model.safetensors is cut short: 5 bytes missing",
        "again",
    ),
    "PyTorch's own file cut short": (
        lambda folder: checkpoint(folder, model__safetensors=None, pytorch_model__bin=b"PK\x03\x04" + bytes(500)),
        "pytorch_model.bin is cut short or damaged",
        "again",
    ),
    "NaN in BF16": (
        lambda folder: checkpoint(
            folder, model__safetensors=safetensors(llama_shapes(), values={"lm_head.weight": b"\xc0\x7f"})
        ),
        "NaN in lm_head.weight",
        "earlier checkpoint",
    ),
    "NaN in F32": (
        lambda folder: checkpoint(
            folder, model__safetensors=safetensors(llama_shapes(), "F32", {"model.norm.weight": b"\1\0\x80\xff"})
        ),
        "NaN in model.norm.weight",
        "earlier checkpoint",
    ),
    "infinity in F16": (
        lambda folder: checkpoint(
            folder, model__safetensors=safetensors(llama_shapes(), "F16", {"model.norm.weight": b"\0\0\0\x7c"})
        ),
        "infinity in model.norm.weight",
        "earlier checkpoint",
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_a_checkpoint_that_is_not_whole_is_told_before_the_converter(cli: Cli, tmp_path: Path, case: str) -> None:
    make, said, hint = INCOMPLETE[case]
    make(tmp_path / "m")
    shown = said_of(cli, tmp_path)
    assert said in shown.split("hint:")[0] and hint in shown.split("hint:")[1], shown


def test_a_head_that_config_json_denies_is_told(tmp_path: Path) -> None:
    """Two programs may take two heads: the embeddings, as config.json says, or the weights' own."""
    alike = checkpoint(tmp_path / "alike", config={"tie_word_embeddings": True})
    assert read_checkpoint(alike).notice == ""
    other = safetensors(llama_shapes(), values={"lm_head.weight": b"\1\2"})
    checkpoint(tmp_path / "other", config={"tie_word_embeddings": True}, model__safetensors=other)
    assert "a head of their own that differs (lm_head.weight)" in read_checkpoint(tmp_path / "other").notice
    checkpoint(tmp_path / "untied", model__safetensors=other)
    assert read_checkpoint(tmp_path / "untied").notice == ""


# -- other things -----------------------------------------------------------------------------------------------------


def folder_of(**files: bytes | str) -> Callable[[Path], None]:
    """A folder of files; two underscores stand for a dot, one capital S for a slash."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for name, content in files.items():
            write(folder / name.replace("__", ".").replace("S", "/"), content)

    return make


def cache(folder: Path) -> None:
    place = folder / "models--owner--model"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "snapshots" / "old").mkdir()
    write(place / "refs" / "main", "abc")


def cleared_snapshot(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").symlink_to(folder / "gone")


def broken_link(folder: Path) -> None:
    checkpoint(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0123")


BNB = {**llama_shapes(), "model.layers.0.mlp.down_proj.SCB:F32": (8,)}
GPTQ = {**llama_shapes(), "model.layers.0.mlp.x.qweight:I32": (8,), "model.layers.0.mlp.x.g_idx:I32": (8,)}
MLX = {**llama_shapes(), "model.layers.0.mlp.x.weight:U32": (8,), "model.layers.0.mlp.x.scales": (8,)}
GGUF = Small().bytes()
OTHERS: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "LoRA": (
        folder_of(adapter_config__json=LORA, adapter_model__safetensors=b"x", tokenizer__json="{}"),
        "m",
        "m holds an adapter (PEFT, LoRA) of owner/base-1B",
        "hf:owner/base-1B",
    ),
    "LoRA with a config": (
        lambda folder: checkpoint(
            folder, model__safetensors=None, adapter_config__json=LORA, adapter_model__safetensors=b"x"
        ),
        "m",
        "an adapter (PEFT, LoRA) of owner/base-1B",
        "Merge it",
    ),
    "LoRA in PyTorch's form, settings with a mark": (
        folder_of(adapter_config__json=b"\xef\xbb\xbf" + LORA.encode(), adapter_model__bin=b"x"),
        "m",
        "of owner/base-1B",
        "Merge it",
    ),
    "LoRA of MLX": (
        folder_of(adapter_config__json='{"model": "mlx/base"}', adapters__safetensors=b"x"),
        "m",
        "of mlx/base",
        "Merge",
    ),
    "LoRA saved as a model": (
        lambda folder: checkpoint(folder, {"model.layers.0.q_proj.lora_A.weight": (8, 8)}),
        "m",
        "an adapter",
        "Merge",
    ),
    "LoRA one folder deeper": (
        folder_of(checkpoint_9Sadapter_config__json=LORA),
        "m",
        "m/checkpoint_9 holds an adapter",
        "Merge",
    ),
    "GGUF repository": (
        folder_of(config__json="{}", a_Q4_0__gguf=GGUF, z_F16__gguf=GGUF, y_bf16__gguf=GGUF),
        "m",
        "m is a folder with GGUF files",
        "m/z_F16.gguf (3 GGUF files: z_F16.gguf, y_bf16.gguf, a_Q4_0.gguf)",
    ),
    "GGUF files one folder deeper": (folder_of(BF16Sx__gguf=GGUF), "m", "with GGUF files", "m/BF16/x.gguf"),
    "GGUF under another name": (folder_of(blobsSsha256=GGUF), "m", "under another name", "m/blobs/sha256"),
    "the Hub's cache": (cache, "m/models--owner--model", "the Hub's cache of owner/model", "snapshots/abc"),
    "its snapshots": (cache, "m/models--owner--model/snapshots", "the Hub's cache of owner/model", "hf:owner/model"),
    "the whole cache": (cache, "m", "the Hub's cache, with 1 model in it", "hf:owner/model"),
    "a cleared snapshot": (cleared_snapshot, "m", "links to files that are gone: config.json", "again"),
    "a lost blob": (broken_link, "m", "links to files that are gone: model.safetensors", "again"),
    "LFS pointers": (
        lambda folder: checkpoint(folder, model__safetensors=POINTER),
        "m",
        "in place of model.safetensors",
        "lfs pull",
    ),
    "LFS pointers for the tokenizer": (
        lambda folder: checkpoint(folder, tokenizer__model=POINTER),
        "m",
        "in place of tokenizer.model",
        "lfs pull",
    ),
    "an empty folder": (folder_of(), "m", "m is a folder without a model: it is empty", "checkpoint folder"),
    "a folder of something else": (folder_of(README__md="x"), "m", "it holds README.md", "checkpoint folder"),
    "a model one folder deeper": (
        lambda folder: checkpoint(folder / "out"),
        "m",
        "a model one folder deeper",
        "Name that folder: m/out",
    ),
    "a model two folders deeper": (
        lambda folder: checkpoint(folder / "a" / "b"),
        "m",
        "a model some folders deeper",
        "Name that folder: m/a/b",
    ),
    "a folder of hidden files": (folder_of(__x="x"), "m", "no file that could be one is in it", "checkpoint folder"),
    "a training run's output": (
        lambda folder: (checkpoint(folder / "checkpoint-90"), checkpoint(folder / "checkpoint-1000")),
        "m",
        "one folder deeper",
        "m/checkpoint-1000 (2 folders hold models",
    ),
    "an unfinished download": (
        folder_of(config__json="{}", model__safetensors__crdownload=b"x"),
        "m",
        "download of m is not finished: it holds model.safetensors.crdownload",
        "Finish",
    ),
    "an unfinished download by the Hub's client": (
        folder_of(config__json="{}", __cacheShuggingfaceSdownloadSx__incomplete=b"x"),
        "m",
        "is not finished",
        "Finish",
    ),
    "diffusers": (folder_of(model_index__json="{}", unetSmodel__safetensors=b"x"), "m", "a diffusers pipeline", "only"),
    "Meta's files": (folder_of(params__json="{}", consolidated__00__pth=b"x"), "m", "(.pth)", "-hf"),
    "Mistral's files": (folder_of(params__json="{}", consolidated__safetensors=b"x"), "m", "Mistral's own", "transf"),
    "TensorFlow": (folder_of(config__json="{}", tf_model__h5=b"x"), "m", "a model for TensorFlow", "transformers"),
    "Flax": (folder_of(config__json="{}", flax_model__msgpack=b"x"), "m", "a model for Flax", "transformers"),
    "ONNX": (folder_of(config__json="{}", onnxSmodel__onnx=b"x"), "m", "ONNX format, in the folder onnx", "transf"),
    "CoreML": (folder_of(**{"x__mlpackageSData": b"x"}), "m", "CoreML", "transformers"),
    "MLX of old": (folder_of(config__json="{}", weights__npz=b"x"), "m", "MLX", "transformers"),
    "OpenVINO": (folder_of(openvino_model__xml="<x/>", openvino_model__bin=b"x"), "m", "OpenVINO", "transformers"),
    "a .pt file": (folder_of(step_9__pt=b"x"), "m", "training state in PyTorch's own form", "save_pretrained"),
    "DeepSpeed": (folder_of(zero_to_fp32__py="", latest="x"), "m", "DeepSpeed", "zero_to_fp32.py"),
    "FSDP": (
        lambda folder: write(folder / "__0_0.distcp", b"x"),
        "m",
        "the parts of a distributed training run (FSDP)",
        "merge-weights",
    ),
    "optimizer only": (folder_of(optimizer__pt=b"x", trainer_state__json="{}"), "m", "without the model's weights", ""),
    "weights by another name": (
        lambda folder: checkpoint(folder, model__safetensors=None, finetune__safetensors=b"x"),
        "m",
        "does not read: finetune.safetensors",
        "rename",
    ),
    "quantized weights by another name": (
        lambda folder: checkpoint(
            folder,
            None,
            None,
            model__safetensors=None,
            **{"gptq_model-4bit__safetensors": safetensors(GPTQ), "quantize_config__json": "{}"},
        ),
        "m",
        "already quantized (gptq), in a way that llama.cpp's converter cannot unpack: gptq_model-4bit.safetensors",
        "unquantized",
    ),
    "an image model in one file": (
        lambda folder: write(folder / "sd.safetensors", safetensors({"model.diffusion_model.in.weight": (8,)})),
        "m",
        "an image model (sd.safetensors)",
        "language models only",
    ),
    "no weights": (lambda folder: checkpoint(folder, model__safetensors=None), "m", "holds no weights", "again"),
    "no settings": (lambda folder: checkpoint(folder, config__json=None), "m", "holds no config.json", "again"),
    "no tokenizer": (lambda folder: checkpoint(folder, tokenizer__model=None), "m", "holds no tokenizer", "tokenizer"),
    "half a tokenizer": (
        lambda folder: checkpoint(folder, tokenizer__model=None, vocab__json="{}"),
        "m",
        "without merges.txt",
        "tokenizer",
    ),
    "a tokenizer in code": (
        lambda folder: checkpoint(folder, tokenizer__model=None, qwen__tiktoken=b"x"),
        "m",
        "program code",
        "GGUF",
    ),
    "an empty tokenizer": (lambda folder: checkpoint(folder, tokenizer__model=b""), "m", "is empty", "again"),
    "an encoder": (
        lambda folder: checkpoint(folder, config={"architectures": ["BertForMaskedLM"]}),
        "m",
        "a BertFor",
        "",
    ),
    "a classifier": (
        lambda folder: checkpoint(folder, config={"architectures": ["Qwen2ForSequenceClassification"]}),
        "m",
        "does not write text",
        "decoder-only",
    ),
    "encoder and decoder": (
        lambda folder: checkpoint(folder, config={"architectures": ["XForGeneration"], "is_encoder_decoder": True}),
        "m",
        "does not write text",
        "decoder-only",
    ),
    "settings with a mark": (
        lambda folder: checkpoint(folder, config__json=b"\xef\xbb\xbf" + json.dumps(CONFIG).encode()),
        "m",
        "m/config.json begins with a byte order mark",
        "sed -i",
    ),
    "tokenizer settings with a mark": (
        lambda folder: checkpoint(folder, tokenizer_config__json=b"\xef\xbb\xbf{}"),
        "m",
        "tokenizer_config.json begins with a byte order mark",
        "sed -i",
    ),
    "settings in UTF-16": (
        lambda folder: checkpoint(folder, config__json=json.dumps(CONFIG).encode("utf-16")),
        "m",
        "m/config.json is in UTF-16",
        "iconv -f UTF-16",
    ),
    "settings with a comment": (
        lambda folder: checkpoint(folder, config__json='{\n "a": 1, // why\n "b": 2}'),
        "m",
        "is not JSON, as line 2, column 10 shows (JSON has no comments)",
        "Correct",
    ),
    "settings with a comma too many": (
        lambda folder: checkpoint(folder, config__json='{\n "a": 1,\n}'),
        "m",
        "is not JSON, as line",
        "Correct",
    ),
    "a file of a checkpoint": (checkpoint, "m/model.safetensors", "is one file of a checkpoint", "Name its folder"),
    "its settings": (checkpoint, "m/config.json", "is one file of a checkpoint", "Name its folder"),
    "a file of PyTorch's own": (folder_of(x__pt=b"x"), "m/x.pt", "training state in PyTorch's", "save_pretrained"),
    "an ONNX file": (folder_of(x__onnx=b"x"), "m/x.onnx", "m/x.onnx is a model in the ONNX format", "transformers"),
    "an archive": (folder_of(model__zip=b"PK\3\4"), "m/model.zip", "is an archive", "Unpack"),
    "a packed GGUF file": (folder_of(x__gguf__gz=b"\x1f\x8b"), "m/x.gguf.gz", "is an archive", "Unpack"),
    "an adapter's file": (
        folder_of(adapter_config__json=LORA, adapter_model__safetensors=b"x"),
        "m/adapter_model.safetensors",
        "of owner/base-1B",
        "Merge",
    ),
    "a pointer": (folder_of(x__gguf=POINTER), "m/x.gguf", "is a Git LFS pointer", "git lfs pull"),
    "half a GGUF file": (folder_of(x__gguf__part=b"x"), "m/x.gguf.part", "is not finished", "Finish"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_checkpoint_is_called_by_its_name(cli: Cli, tmp_path: Path, case: str) -> None:
    make, name, said, hint = OTHERS[case]
    make(tmp_path / "m")
    shown = said_of(cli, tmp_path, name)
    assert said in shown.split("hint:")[0] and hint in shown.split("hint:")[1] and ASKS not in shown, shown


# -- quantized checkpoints --------------------------------------------------------------------------------------------

QUANTIZED: dict[str, tuple[Any, dict[str, Any], str, bool]] = {
    "bitsandbytes, said": (
        None,
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "bitsandbytes 4-bit",
        False,
    ),
    "bitsandbytes, by its tensors": (BNB, {}, "bitsandbytes 8-bit", False),
    "bitsandbytes of 4 bits, by its tensors": (
        {**llama_shapes(), "model.layers.0.x.weight.absmax:F32": (8,)},
        {},
        "bitsandbytes 4-bit",
        False,
    ),
    "gptq, said": (GPTQ, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq", True),
    "gptq, by its tensors": (GPTQ, {}, "gptq", False),
    "awq": (None, {"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq", False),
    "fp8, said": (None, {"quantization_config": {"quant_method": "fp8"}}, "fp8", True),
    "fp8, by its types": ({**llama_shapes(), "model.layers.0.x.weight:F8_E4M3": (8,)}, {}, "fp8", False),
    "compressed-tensors": (
        None,
        {"compression_config": {"quant_method": "compressed-tensors"}},
        "compressed-tensors",
        False,
    ),
    "in a model in a model": (None, {"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8", True),
    "MLX, said": (MLX, {"quantization": {"group_size": 64, "bits": 4}}, "MLX", False),
    "MLX, by its tensors": (MLX, {}, "MLX", False),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_quantized_weights_are_named_with_what_can_be_done(cli: Cli, tmp_path: Path, case: str) -> None:
    shapes, config, method, unpackable = QUANTIZED[case]
    checkpoint(tmp_path / "m", shapes, config)
    shown = said_of(cli, tmp_path)
    assert f"m is already quantized ({method})" in shown and ASKS not in shown, shown
    assert ("--allow-quantized-source" in shown) == unpackable
    assert ("converter cannot unpack" in shown) != unpackable


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read(cli: Cli, tmp_path: Path) -> None:
    checkpoint(tmp_path / "m").chmod(0)
    assert "Cannot look into m: permission denied" in said_of(cli, tmp_path)


# -- anything at all --------------------------------------------------------------------------------------------------

PIECES: dict[str, list[bytes]] = {
    "config.json": [
        json.dumps(CONFIG).encode(),
        b"",
        b"{}",
        b"[1]",
        b'{"architectures": [3], "text_config": []}',
        b"\xff\xfe{",
    ],
    "model.safetensors": [safetensors(llama_shapes()), b"", POINTER.encode(), safetensors({})],
    "model-00001-of-00002.safetensors": [safetensors(llama_shapes(head="")), b"x" * 20],
    "model.safetensors.index.json": [
        b"{}",
        b'{"weight_map": {"a": "../../x", "b": "model.safetensors"}}',
        b'{"weight_map": 3}',
    ],
    "pytorch_model.bin": [b"PK\x03\x04", b"\x80\x02}", b""],
    "tokenizer.model": [b"pieces", b""],
    "tokenizer.json": [b"{}", b"\xef\xbb\xbf{}"],
    "vocab.json": [b"{}"],
    "adapter_config.json": [LORA.encode(), b"[", b"[3]"],
    "x.gguf": [GGUF, b""],
    "sub/config.json": [b"{}"],
    "sub/model.safetensors": [b"x"],
    ".hidden": [b""],
    "a.onnx": [b"x"],
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_folder_is_a_checkpoint_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "m"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in data.draw(st.sets(st.sampled_from(sorted(PIECES)), max_size=8)):
        write(folder / name, data.draw(st.sampled_from(PIECES[name])))
    try:
        require_checkpoint(folder, "m")
        found = read_checkpoint(folder)
    except LabError as error:
        assert error.message and error.hint and "\n" not in error.message + error.hint
    else:
        assert found.architecture and found.weight_bytes and all(path.is_file() for path in found.files)
        assert (folder / "config.json") in found.files and all(path.parent == folder for path in found.files)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mlc-chat-config.json", "MLC"),
        ("params_shard_12.bin", "MLC"),
        ("rank0.engine", "TensorRT"),
        ("model.pte", "ExecuTorch"),
        ("m.nemo", "NeMo"),
        ("m.tflite", "LiteRT"),
        ("gemma.task", "LiteRT"),
        ("ggml-model-q4_0.bin", "old GGML format"),
        ("m.llamafile", "llamafile"),
        ("model.bin", "another program"),
        ("saved_model.pb", "TensorFlow"),
        ("model.mlmodel", "CoreML"),
        ("weights.00.npz", "MLX"),
        ("model.ckpt", "training state"),
        ("consolidated.00.pth", "PyTorch's own form"),
        ("pytorch_lora_weights.safetensors", "LoRA adapter of an image model"),
        ("mp_rank_00_model_states.pt", "DeepSpeed"),
    ],
)
def test_other_formats_are_told_by_a_files_name(name: str, said: str) -> None:
    found = other_format(["README.md", "config.json", name])
    assert found is not None and said in found[0] and found[1].endswith(".") | found[1].startswith("Put them together")
    assert other_format(["README.md", "config.json", "notes.txt", "a.gguf"]) is None
