"""A model's shape from its config.json, for models that labctl does not know by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from labctl.errors import LabError
from labctl.records.encodings import read_settings
from labctl.report.shapes import KnownShape

_MAX_BYTES = 1 << 20
_Size = Annotated[int, Meta(ge=1, le=1 << 24)]

# Decoders of one kind: embeddings, attention of grouped heads, a gated feed-forward, norms.
_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3"})


class _Config(msgspec.Struct):
    """What of a config.json counts. Source: transformers, configuration_llama.py and its like."""

    model_type: str
    hidden_size: _Size
    num_hidden_layers: Annotated[int, Meta(ge=1, le=10_000)]
    intermediate_size: _Size
    num_attention_heads: Annotated[int, Meta(ge=1, le=10_000)]
    vocab_size: _Size
    max_position_embeddings: Annotated[int, Meta(ge=1, le=1 << 30)]
    num_key_value_heads: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    head_dim: Annotated[int, Meta(ge=1, le=1 << 16)] | None = None
    tie_word_embeddings: bool | None = None


def read_shape(path: Path) -> KnownShape:
    """The shape that a config.json describes.

    Raises:
        LabError: it cannot be read, or describes another kind of model.
    """
    hint = f"Taken are config.json files of {', '.join(sorted(_TYPES))} models, as the Hub has them."
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large for one")
        kind = msgspec.json.decode(text := read_settings(path).encode(), type=dict[str, object]).get("model_type")
        if str(kind) not in _TYPES:
            raise ValueError(f"its model_type is {str(kind)[:40]!r}")
        config = msgspec.json.decode(text, type=_Config)
    except OSError as error:
        raise LabError(f"Cannot read {path}: {(error.strerror or 'unreadable').lower()}.", "Check the path.") from error
    except (ValueError, RecursionError) as error:  # msgspec's, too
        said = " ".join(str(error).replace("`", "").split()) or "it is nested without end"
        raise LabError(f"{path} is no config.json that can be counted with: {said}.", hint) from error
    heads = config.num_attention_heads
    # Source: transformers, the defaults of these classes: only Qwen3's heads are not hidden_size over heads.
    d_head = config.head_dim or (128 if config.model_type == "qwen3" else config.hidden_size // heads)
    return KnownShape(
        name=path.absolute().parent.name or config.model_type,
        source=str(path),
        n_layer=config.num_hidden_layers,
        n_embd=config.hidden_size,
        n_ff=config.intermediate_size,
        n_head=heads,
        n_head_kv=min(heads, config.num_key_value_heads or heads),
        d_head=max(1, d_head),
        n_vocab=config.vocab_size,
        n_ctx_train=config.max_position_embeddings,
        tied=config.model_type == "smollm3" if config.tie_word_embeddings is None else config.tie_word_embeddings,
        qkv_bias=config.model_type == "qwen2",
        qk_norm=config.model_type == "qwen3",
    )
