"""What is no checkpoint of Hugging Face is called by its name, with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.command import Cli
from kit.made_checkpoints import ASKS, CONFIG, GPTQ, LORA, POINTER, checkpoint, safetensors, said_of, write
from kit.small_gguf import Small

from labctl.lab.sources.kinds import other_format

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
