"""A checkpoint of Hugging Face is taken when it is whole, and told what is missing when it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.command import Cli
from kit.made_checkpoints import (
    ASKS,
    CONFIG,
    LORA,
    checkpoint,
    llama_shapes,
    pytorch_file,
    safetensors,
    said_of,
    sharded,
    write,
)

from labctl.lab.sources.checkpoint import read_checkpoint

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
