"""Is a model a causal decoder: only such a model predicts each next token, which is all that a lab measures."""

from __future__ import annotations

from labctl.engines.llama_cpp.gguf.reader import GgufHeader
from labctl.errors import LabError

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
        ("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
         "t5encoder", "gemma-embedding", "llama-embed"),
        _ENCODER,
    ),
    "t5": "an encoder with a decoder: its decoder needs an input text of its own, which a running text does not give",
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), _DIFFUSION),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), _DRAFT),
    **dict.fromkeys(("wavtokenizer-dec", "qwen3tts", "pockettts"), _SOUND),
}  # fmt: skip

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
