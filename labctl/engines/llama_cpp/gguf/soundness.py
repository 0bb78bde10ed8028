"""Can a file be a lab's source, by its header: a causal decoder, whose keys, vocabulary and tensors agree.

llama.cpp stops its process on some of these faults and names none of them by file and key. What only it can know is
left to it: the source is opened once in a child before anything is measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from labctl.engines.llama_cpp.gguf.header import model_shape, read_model
from labctl.engines.llama_cpp.gguf.reader import AGAIN, FLOAT32, INT32, STRING, GgufHeader, shown
from labctl.engines.llama_cpp.warned import MISSING_PRE
from labctl.errors import LabError
from labctl.records.files import ModelShape

_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_MOST_LAYERS = 512  # llama.cpp src/llama-hparams.h, LLAMA_MAX_LAYERS
_MOST_HEADS = _MOST_HEAD_SIZE = 1 << 16

# Architectures whose attention and feed-forward matrices have the plain shapes below. Source: llama.cpp src/models/.
_PLAIN = frozenset({"llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "granite", "smollm3", "stablelm"})


def check_source(path: Path, *, allow_missing_pre: bool = False) -> tuple[str, ...]:
    """Check that a file can be a lab's source; see labctl.engines.base.Engine."""
    header, _ = read_model(path)
    require_causal(header, path.name)
    check_model(header, path.name)
    return vocabulary_notices(header, path.name, allow_missing_pre)


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
    layers = {int(match[1]) for tensor in header.tensors if (match := _LAYER.match(tensor.name))}
    if not layers and any(tensor.name.startswith(("enc.blk.", "dec.blk.")) for tensor in header.tensors):
        return  # an encoder and a decoder: two counts, which llama.cpp checks
    extra = header.metadata.get(f"{shape.architecture}.nextn_predict_layers", 0)
    n_needed = shape.n_layer - (extra if isinstance(extra, int) else 0)  # those may be left out of a file
    missing = next((layer for layer in range(n_needed) if layer not in layers), None)
    if missing is not None:
        yield f"its header claims {shape.n_layer} layers, and layer {missing} has no tensors"
    if layers and max(layers) >= shape.n_layer:
        yield f"its header claims {shape.n_layer} layers, and there are tensors of layer {max(layers)}"


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
        there = tensors.get(name, wanted)
        if there != wanted:
            yield (
                f"its header and its tensors disagree: {name!r} has the shape {_times(there)}, and the header asks for"
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


# -- does it predict each next token? ----------------------------------------------------------------------------------

INSTEAD = "Give a model that writes text token by token (a causal decoder), such as Llama, Qwen or Gemma."

_ENCODER = "an encoder: it reads a text and predicts no next token"
_DIFFUSION = "a diffusion model: it fills in many tokens at once instead of predicting the next one"
_DRAFT = "a helper that drafts tokens for another model and cannot run without it"
_SOUND = "a part of a speech model: it makes sound, not text"

# Architectures that llama.cpp loads and that are no causal decoders, whatever their header says further.
# Source: llama.cpp src/llama-model.cpp, create_memory and llama_model_has_encoder; src/llama-arch.cpp,
# llm_arch_is_diffusion.
_OTHERS = {
    **dict.fromkeys(
        (
            "bert",
            "modern-bert",
            "nomic-bert",
            "nomic-bert-moe",
            "neo-bert",
            "jina-bert-v2",
            "jina-bert-v3",
            "eurobert",
            "t5encoder",
            "gemma-embedding",
            "llama-embed",
        ),
        _ENCODER,
    ),
    "t5": "an encoder with a decoder: its decoder needs an input text of its own, which a running text does not give",
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), _DIFFUSION),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), _DRAFT),
    **dict.fromkeys(("wavtokenizer-dec", "qwen3tts", "pockettts"), _SOUND),
}

# Source: llama.cpp include/llama.h, enum llama_pooling_type.
_POOLING = {
    **dict.fromkeys(
        (1, 2, 3), "an embedding model: it turns a text into one vector and was not made to predict tokens"
    ),
    4: "a reranker: it scores how well a text answers a question and was not made to predict tokens",
}
_BOTH_WAYS = "not a causal model: each token sees those behind it, so there is no next token to predict"


def why_not_causal(header: GgufHeader) -> str:
    """What kind of model it is, if it is no causal decoder by its header; else empty.

    Source: llama.cpp src/llama-arch.cpp (LLM_KV_ATTENTION_CAUSAL, LLM_KV_POOLING_TYPE).
    """
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        return ""
    if architecture in _OTHERS:
        return _OTHERS[architecture]
    pooling = header.metadata.get(f"{architecture}.pooling_type", 0)
    if isinstance(pooling, int) and pooling in _POOLING:
        return _POOLING[pooling]
    return _BOTH_WAYS if header.metadata.get(f"{architecture}.attention.causal") is False else ""


def require_causal(header: GgufHeader, name: str) -> None:
    """Refuse what is no causal decoder.

    Args:
        name: the file's, for the message.
    Raises:
        LabError: it is another kind of model.
    """
    if why := why_not_causal(header):
        raise other_kind(name, f"{header.metadata['general.architecture']}, {why}")


def other_kind(name: str, what: str) -> LabError:
    return LabError(f"{name} is {what}. There is nothing here that a lab could measure.", INSTEAD, for_all=True)


# -- how does it read text? --------------------------------------------------------------------------------------------

ADDS_END = (
    "The header asks for an end-of-text token behind every text (tokenizer.ggml.add_eos_token). Texts and prompts are"
    " read without it here, as if the key were false: llama.cpp's own tools stop at such a file."
)

# Tokenizers of the kind BPE, which need a pre-tokenizer; gemma4 brings its own. Source: llama.cpp src/llama-vocab.cpp.
_NEEDS_PRE = ("gpt2", "hybriddna", "whitespace")
_ADDS_END = ("t5",)  # unless the header says otherwise


def lacks_pre_tokenizer(header: GgufHeader) -> bool:
    """Whether the header leaves open how text is split into words before tokens are made of it."""
    metadata = header.metadata
    return metadata.get("tokenizer.ggml.model") in _NEEDS_PRE and not metadata.get("tokenizer.ggml.pre")


def adds_end(header: GgufHeader) -> bool:
    """Whether llama.cpp would put an end-of-text token behind every text."""
    by_kind = header.metadata.get("tokenizer.ggml.model") in _ADDS_END
    return header.metadata.get("tokenizer.ggml.add_eos_token", by_kind) is True


def vocabulary_notices(header: GgufHeader, name: str, allow_missing_pre: bool) -> tuple[str, ...]:
    """What must be said about how this model reads text.

    Args:
        name: the file's, for messages.
        allow_missing_pre: take a file that does not name its pre-tokenizer.
    Raises:
        LabError: it does not, and that is not allowed: its perplexities would be wrong, and which format loses least.
    """
    notices = []
    if lacks_pre_tokenizer(header):
        if not allow_missing_pre:
            raise LabError(
                f"{name} does not say how its text is split into words (tokenizer.ggml.pre is missing, as in files of"
                " before May 2024): llama.cpp would guess, and every figure could be wrong.",
                f"Convert the model again, or add the key: gguf-new-metadata --pre-tokenizer NAME {name} NEW.gguf (NAME"
                " as in other files of the model: llama-bpe, qwen2, gpt-2, ...). --allow-missing-pre-tokenizer measures"
                " it as it is.",
            )
        notices.append(MISSING_PRE)
    if adds_end(header):
        notices.append(ADDS_END)
    return tuple(notices)
