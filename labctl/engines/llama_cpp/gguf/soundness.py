"""Does a header describe a language model that llama.cpp can load: its keys, its vocabulary and its tensors agree.

llama.cpp stops its process on some of these faults and names none of them by file and key. What only it can know is
left to it: the source is opened once in a child before anything is measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from labctl.engines.llama_cpp.gguf.header import model_shape
from labctl.engines.llama_cpp.gguf.reader import AGAIN, FLOAT32, INT32, STRING, GgufHeader, shown
from labctl.errors import LabError
from labctl.records.files import ModelShape

_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_MOST_LAYERS = 512  # llama.cpp src/llama-hparams.h, LLAMA_MAX_LAYERS
_MOST_HEADS = _MOST_HEAD_SIZE = 1 << 16

# Architectures whose attention and feed-forward matrices have the plain shapes below. Source: llama.cpp src/models/.
_PLAIN = frozenset({"llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "granite", "smollm3", "stablelm"})


def check_model(header: GgufHeader, name: str) -> ModelShape:
    """Check that a header holds all that llama.cpp needs, and that no part contradicts another.

    Args:
        name: the file's, for messages.
    Returns: the model's sizes.
    Raises:
        LabError: it does not; the message names the first fault.
    Source: llama.cpp src/llama-model.cpp, load_hparams and load_tensors; src/llama-vocab.cpp, load.
    """
    try:
        shape = model_shape(header)
    except LabError as error:
        raise LabError(f"{name}: {error.message}", error.hint) from error
    if not header.tensors:
        raise LabError(f"{name} holds no weights, only a header.", "Give a GGUF file with the model's tensors in it.")
    for faults in (_sizes(shape), _vocabulary(header), _layers(header, shape), _shapes(header, shape)):
        for fault in faults:
            raise LabError(f"{name} is damaged: {fault}.", AGAIN)
    return shape


def _sizes(shape: ModelShape) -> Iterator[str]:
    if shape.n_layer > _MOST_LAYERS:
        yield f"it claims {shape.n_layer:,} layers, more than the {_MOST_LAYERS} that are possible"
    if max(shape.n_head, shape.n_head_kv) > _MOST_HEADS or max(shape.d_head_k, shape.d_head_v) > _MOST_HEAD_SIZE:
        yield (
            f"it claims {shape.n_head:,} heads ({shape.n_head_kv:,} for keys and values) of {shape.d_head_k:,} and"
            f" {shape.d_head_v:,} values"
        )


def _vocabulary(header: GgufHeader) -> Iterator[str]:
    model = header.metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model in ("", "none", "no_vocab"):
        yield f"it names no tokenizer (tokenizer.ggml.model is {'missing' if model is None else shown(model)})"
    n_tokens = header.array_lengths.get("tokenizer.ggml.tokens", 0)
    for key, kinds, n_least in (
        ("tokens", (STRING,), 1),
        ("merges", (STRING,), 0),
        ("scores", (INT32, FLOAT32), n_tokens),
        ("token_type", (INT32,), n_tokens),
    ):
        name = f"tokenizer.ggml.{key}"
        if name in header.metadata or header.array_types.get(name, kinds[0]) not in kinds:
            yield f"{name} is not a list of {'texts' if kinds == (STRING,) else 'numbers of the right type'}"
        elif (name in header.array_lengths or key == "tokens") and header.array_lengths.get(name, 0) < n_least:
            yield f"{name} has {header.array_lengths.get(name, 0):,} entries for {n_tokens:,} tokens"


def _layers(header: GgufHeader, shape: ModelShape) -> Iterator[str]:
    found = {int(match[1]) for tensor in header.tensors if (match := _LAYER.match(tensor.name))}
    if not found and any(tensor.name.startswith(("enc.blk.", "dec.blk.")) for tensor in header.tensors):
        return  # an encoder and a decoder: two counts, which llama.cpp checks
    extra = header.metadata.get(f"{shape.architecture}.nextn_predict_layers", 0)
    n_needed = shape.n_layer - (extra if isinstance(extra, int) else 0)  # those may be left out of a file
    missing = next((layer for layer in range(n_needed) if layer not in found), None)
    if missing is not None:
        yield f"its header claims {shape.n_layer} layers, and layer {missing} has no tensors"
    if found and max(found) >= shape.n_layer:
        yield f"its header claims {shape.n_layer} layers, and there are tensors of layer {max(found)}"


def _shapes(header: GgufHeader, shape: ModelShape) -> Iterator[str]:
    tensors = {tensor.name: tensor.shape for tensor in header.tensors}
    if "token_embd.weight" not in tensors:
        yield "the tensor 'token_embd.weight' is missing"
    expected: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (shape.n_embd, shape.n_vocab),
        "output.weight": (shape.n_embd, shape.n_vocab),
        "output_norm.weight": (shape.n_embd,),
    }
    heads = (header.metadata.get(f"{shape.architecture}.attention.{key}") for key in ("head_count", "head_count_kv"))
    alike = all(head is None or isinstance(head, int) for head in heads)
    if alike and shape.n_head and (shape.n_head_kv > shape.n_head or shape.n_head % max(1, shape.n_head_kv)):
        yield f"its {shape.n_head} heads cannot share {shape.n_head_kv} heads of keys and values"
    if alike and shape.n_head and shape.architecture in _PLAIN:
        for layer in range(shape.n_layer):
            expected |= _plain_shapes(header, shape, f"blk.{layer}.")
    for name, wanted in expected.items():
        found = tensors.get(name, wanted)
        if found != wanted:
            yield (
                f"its header and its tensors disagree: {name!r} has the shape {_times(found)}, and the header asks for"
                f" {_times(wanted)}"
            )


def _plain_shapes(header: GgufHeader, shape: ModelShape, prefix: str) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's matrices, row length first."""
    expected: dict[str, tuple[int, ...]] = {
        f"{prefix}attn_norm.weight": (shape.n_embd,),
        f"{prefix}attn_q.weight": (shape.n_embd, shape.d_head_k * shape.n_head),
        f"{prefix}attn_k.weight": (shape.n_embd, shape.d_head_k * shape.n_head_kv),
        f"{prefix}attn_v.weight": (shape.n_embd, shape.d_head_v * shape.n_head_kv),
        f"{prefix}attn_output.weight": (shape.d_head_v * shape.n_head, shape.n_embd),
    }
    n_ff = header.metadata.get(f"{shape.architecture}.feed_forward_length")
    if isinstance(n_ff, int):
        expected |= {f"{prefix}ffn_{part}.weight": (shape.n_embd, n_ff) for part in ("gate", "up")}
        expected[f"{prefix}ffn_down.weight"] = (n_ff, shape.n_embd)
    return expected


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in shape)
