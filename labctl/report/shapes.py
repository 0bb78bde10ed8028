"""Shapes of well-known models, for the memory of a model that is not at hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from labctl.engines.base import Engine, Frame, Matrix, Role
from labctl.errors import LabError


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownShape:
    """Sizes of one model, from its config.json on the Hugging Face Hub.

    Attributes:
        n_ff: width of the feed-forward layers.
        tied: the table of token embeddings also serves as the output matrix.
        qkv_bias: the attention's projections carry biases.
        qk_norm: each head's queries and keys are normalised.
    """

    name: str
    source: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    d_head: int
    n_vocab: int
    n_ctx_train: int
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def n_params(self) -> int:
        """Weights, counted from the shape: embeddings, attention, gated feed-forward, norms."""
        q, kv = self.n_head * self.d_head, self.n_head_kv * self.d_head
        attention = self.n_embd * (2 * q + 2 * kv) + (q + 2 * kv if self.qkv_bias else 0)
        layer = attention + 3 * self.n_embd * self.n_ff + 2 * self.n_embd + (2 * self.d_head if self.qk_norm else 0)
        tables = self.n_vocab * self.n_embd * (1 if self.tied else 2)
        return tables + self.n_layer * layer + self.n_embd

    def matrices(self) -> Iterator[Matrix]:
        """Every matrix of the model; what is left of n_params are vectors (norms and biases)."""
        q, kv = self.n_head * self.d_head, self.n_head_kv * self.d_head
        yield Matrix(role="token_embd", layer=0, row_length=self.n_embd, n_rows=self.n_vocab)
        if not self.tied:
            yield Matrix(role="output", layer=0, row_length=self.n_embd, n_rows=self.n_vocab)
        sizes: tuple[tuple[Role, int, int], ...] = (
            ("attn_q", self.n_embd, q),
            ("attn_k", self.n_embd, kv),
            ("attn_v", self.n_embd, kv),
            ("attn_output", q, self.n_embd),
            ("ffn_gate", self.n_embd, self.n_ff),
            ("ffn_up", self.n_embd, self.n_ff),
            ("ffn_down", self.n_ff, self.n_embd),
        )
        for layer in range(self.n_layer):
            for role, row_length, n_rows in sizes:
                yield Matrix(role=role, layer=layer, row_length=row_length, n_rows=n_rows)

    def token_bytes(self, engine: Engine, format_: str, *, has_imatrix: bool = False) -> dict[str, float]:
        """Bytes of matrices that a file of this format would read for one generated token, by type."""
        read = [one for one in self.matrices() if self.tied or one.role != "token_embd"]
        found = engine.planned_types(format_, read, self._frame(), has_imatrix=has_imatrix)
        return {name: float(engine.type_bytes(name, n_params)) for name, n_params in found.items()}

    def _frame(self) -> Frame:
        return Frame(
            n_layer=self.n_layer,
            n_gqa=self.n_head // self.n_head_kv,
            tied=self.tied,
            is_70b=self.n_layer == 80 and self.n_head != self.n_head_kv,
        )

    def weights_by_type(self, engine: Engine, format_: str, *, has_imatrix: bool = False) -> dict[str, int]:
        """Number of weights that a file of this format would hold in each type, most weights first."""
        found = engine.planned_types(format_, self.matrices(), self._frame(), has_imatrix=has_imatrix)
        found["f32"] = found.get("f32", 0) + self.n_params - sum(found.values())
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def tensor_bytes(self, engine: Engine, format_: str, *, has_imatrix: bool = False) -> int:
        """Bytes of all tensors in a file of this format."""
        found = self.weights_by_type(engine, format_, has_imatrix=has_imatrix)
        return sum(engine.type_bytes(name, n_params) for name, n_params in found.items())

    def kv_bytes(self, n_ctx: int, bytes_per_value: int = 2) -> int:
        """Size of the key and value cache for n_ctx tokens (f16 unless told)."""
        return 2 * self.n_layer * n_ctx * self.n_head_kv * self.d_head * bytes_per_value

    def work_bytes(self, n_ubatch: int = 512) -> int:
        """Work buffers of one batch, at most: float32 logits, a hidden state and the feed-forward's two for each token.

        llama.cpp reports 70.5 MiB for Llama-2-7B, whose logits and hidden state alone make 70.5 MiB.
        """
        return 4 * n_ubatch * (self.n_vocab + self.n_embd + 2 * self.n_ff)


def _shape(
    name: str, source: str, sizes: tuple[int, ...], *, tied: bool = False, qkv_bias: bool = False, qk_norm: bool = False
) -> KnownShape:
    n_layer, n_embd, n_ff, n_head, n_head_kv, d_head, n_vocab, n_ctx_train = sizes
    return KnownShape(
        name=name,
        source=source,
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=n_ff,
        n_head=n_head,
        n_head_kv=n_head_kv,
        d_head=d_head,
        n_vocab=n_vocab,
        n_ctx_train=n_ctx_train,
        tied=tied,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
    )


def _qwen3(size: str, sizes: tuple[int, ...], *, tied: bool = False) -> KnownShape:
    return _shape(f"Qwen3-{size}", f"Qwen/Qwen3-{size}{_LITGPT}", (*sizes, 128, 151936, 40960), tied=tied, qk_norm=True)


_LITGPT = " (as litgpt lists it)"


# Sizes: layers, embedding, feed-forward, heads, key-value heads, head size, vocabulary, context trained for.
SHAPES = (
    _shape("SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M", (30, 576, 1536, 9, 3, 64, 49152, 8192), tied=True),
    _shape("SmolLM2-360M", f"HuggingFaceTB/SmolLM2-360M{_LITGPT}", (32, 960, 2560, 15, 5, 64, 49152, 8192), tied=True),
    _shape("Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", (24, 896, 4864, 14, 2, 64, 151936, 32768), tied=True, qkv_bias=True),
    _qwen3("0.6B", (28, 1024, 3072, 16, 8), tied=True),
    _shape("TinyLlama-1.1B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", (22, 2048, 5632, 32, 4, 64, 32000, 2048)),
    _shape("Llama-3.2-1B", "meta-llama/Llama-3.2-1B", (16, 2048, 8192, 32, 8, 64, 128256, 131072), tied=True),
    _shape("Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B", (28, 1536, 8960, 12, 2, 128, 151936, 131072), tied=True, qkv_bias=True),
    _shape(
        "SmolLM2-1.7B", f"HuggingFaceTB/SmolLM2-1.7B{_LITGPT}", (24, 2048, 8192, 32, 32, 64, 49152, 8192), tied=True
    ),
    _qwen3("1.7B", (28, 2048, 6144, 16, 8), tied=True),
    _shape("Llama-3.2-3B", "meta-llama/Llama-3.2-3B", (28, 3072, 8192, 24, 8, 128, 128256, 131072), tied=True),
    _qwen3("4B", (36, 2560, 9728, 32, 8), tied=True),
    _shape("Llama-2-7B", "meta-llama/Llama-2-7b-hf", (32, 4096, 11008, 32, 32, 128, 32000, 4096)),
    _shape("Mistral-7B", "mistralai/Mistral-7B-v0.1", (32, 4096, 14336, 32, 8, 128, 32000, 32768)),
    _shape("Qwen2.5-7B", "Qwen/Qwen2.5-7B", (28, 3584, 18944, 28, 4, 128, 152064, 131072), qkv_bias=True),
    _shape("Llama-3.1-8B", "meta-llama/Llama-3.1-8B", (32, 4096, 14336, 32, 8, 128, 128256, 131072)),
    _qwen3("8B", (36, 4096, 12288, 32, 8)),
    _shape("Llama-2-13B", "meta-llama/Llama-2-13b-hf", (40, 5120, 13824, 40, 40, 128, 32000, 4096)),
    _shape("Qwen2.5-14B", "Qwen/Qwen2.5-14B", (48, 5120, 13824, 40, 8, 128, 152064, 131072), qkv_bias=True),
    _qwen3("14B", (40, 5120, 17408, 40, 8)),
    _shape("Qwen2.5-32B", "Qwen/Qwen2.5-32B", (64, 5120, 27648, 40, 8, 128, 152064, 131072), qkv_bias=True),
    _qwen3("32B", (64, 5120, 25600, 64, 8)),
    _shape("Llama-2-70B", "meta-llama/Llama-2-70b-hf", (80, 8192, 28672, 64, 8, 128, 32000, 4096)),
)

_CLOSE = 1.2
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([bm])")


def _named(text: str) -> list[KnownShape]:
    """Shapes whose own name says that number of weights."""
    match = _NUMBER.fullmatch(text.strip().lower())
    return [] if match is None else [one for one in SHAPES if one.name.lower().endswith(f"-{match[1]}{match[2]}")]


def taken_words(text: str) -> str:
    """Which model a number of weights is taken for; empty where a name was given."""
    if _NUMBER.fullmatch(text.strip().lower()) is None:
        return ""
    return f"{text} is taken as {find_shape(text)[0].name}."


def find_shape(text: str) -> tuple[KnownShape, int]:
    """The shape for a number of weights or a name, and the number of weights to count with.

    A number takes the shape whose own name says it, or else the one closest in weights.

    Args:
        text: "7B", "1.5b", "360M", or a name of SHAPES.
    Raises:
        LabError: neither, several models of that size, or no shape within 20 % of that number.
    """
    wanted = text.strip().lower()
    for shape in SHAPES:
        if wanted == shape.name.lower():
            return shape, shape.n_params
    known = ", ".join(shape.name for shape in SHAPES)
    match = _NUMBER.fullmatch(wanted)
    if match is None:
        raise LabError(
            f"--params {text}: neither a number of weights nor a known model.", f"Write 7B, or one of {known}."
        )
    named = _named(text)
    if len(named) > 1:
        *names, last = (one.name for one in named)
        raise LabError(f"--params {text} could be {', '.join(names)} or {last}.", f"Name one: --params {last}")
    if named:
        return named[0], named[0].n_params
    n_params = round(float(match[1]) * {"b": 1e9, "m": 1e6}[match[2]])
    close = [one for one in SHAPES if n_params / _CLOSE <= one.n_params <= n_params * _CLOSE]
    if not close:
        raise LabError(f"No known shape has about {text} weights.", f"Known: {known}.")
    return min(close, key=lambda one: abs(one.n_params - n_params)), n_params
