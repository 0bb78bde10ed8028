"""A whole language model of 100 kB, piece by piece, so that each piece can be spoilt: for tests of bad GGUF files."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
N_EMBD, N_HEAD, N_HEAD_KV, D_HEAD, N_FF, N_LAYER = 64, 4, 2, 16, 128, 2
LETTERS = ["\u2581", *"abcdefghijklmnopqrstuvwxyz.\n"]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
TEXT = "the cat sat on the mat and the dog ran to the old red barn by the sea.\n" * 12


def text(value: str | bytes) -> bytes:
    """A GGUF string."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def array(kind: int, count: int, payload: bytes) -> tuple[int, bytes]:
    """A GGUF array as a key's type and value."""
    return ARRAY, struct.pack("<IQ", kind, count) + payload


def texts(values: list[str]) -> tuple[int, bytes]:
    return array(STRING, len(values), b"".join(map(text, values)))


def u32(value: int) -> tuple[int, bytes]:
    return U32, struct.pack("<I", value)


def string(value: str | bytes) -> tuple[int, bytes]:
    return STRING, text(value)


def keys() -> dict[str, tuple[int, bytes]]:
    """All keys of the small model: name -> (type, value)."""
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(LETTERS)]
    return {
        "general.architecture": string("llama"),
        "general.name": string("Small"),
        "llama.block_count": u32(N_LAYER),
        "llama.context_length": u32(256),
        "llama.embedding_length": u32(N_EMBD),
        "llama.feed_forward_length": u32(N_FF),
        "llama.attention.head_count": u32(N_HEAD),
        "llama.attention.head_count_kv": u32(N_HEAD_KV),
        "llama.attention.layer_norm_rms_epsilon": (F32, struct.pack("<f", 1e-5)),
        "llama.rope.dimension_count": u32(D_HEAD),
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.tokens": texts(TOKENS),
        "tokenizer.ggml.scores": array(F32, len(TOKENS), struct.pack(f"<{len(TOKENS)}f", *[0.0] * len(TOKENS))),
        "tokenizer.ggml.token_type": array(I32, len(TOKENS), struct.pack(f"<{len(TOKENS)}i", *kinds)),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
        "tokenizer.ggml.add_bos_token": (BOOL, b"\1"),
    }


@dataclass
class Tensor:
    """A tensor as the file has it; `shape` with the row length first, `kind` 0 for F32 and 1 for F16."""

    shape: tuple[int, ...]
    kind: int
    data: bytes
    offset: int | None = None


def tensors() -> dict[str, Tensor]:
    """All tensors of the small model, filled by a seed."""
    rng = np.random.default_rng(11)

    def matrix(*shape: int) -> Tensor:
        values = rng.normal(0, 0.2, shape[::-1]).astype(np.float16)
        return Tensor(shape, 1, values.tobytes())

    def ones(length: int) -> Tensor:
        return Tensor((length,), 0, np.ones(length, np.float32).tobytes())

    found = {"token_embd.weight": matrix(N_EMBD, len(TOKENS)), "output_norm.weight": ones(N_EMBD)}
    for layer in range(N_LAYER):
        found |= {
            f"blk.{layer}.attn_norm.weight": ones(N_EMBD),
            f"blk.{layer}.attn_q.weight": matrix(N_EMBD, N_HEAD * D_HEAD),
            f"blk.{layer}.attn_k.weight": matrix(N_EMBD, N_HEAD_KV * D_HEAD),
            f"blk.{layer}.attn_v.weight": matrix(N_EMBD, N_HEAD_KV * D_HEAD),
            f"blk.{layer}.attn_output.weight": matrix(N_HEAD * D_HEAD, N_EMBD),
            f"blk.{layer}.ffn_norm.weight": ones(N_EMBD),
            f"blk.{layer}.ffn_gate.weight": matrix(N_EMBD, N_FF),
            f"blk.{layer}.ffn_up.weight": matrix(N_EMBD, N_FF),
            f"blk.{layer}.ffn_down.weight": matrix(N_FF, N_EMBD),
        }
    return found


@dataclass
class Small:
    """The small model, to be changed before it is written.

    Attributes:
        n_keys, n_tensors: what the header claims; None for the truth.
        raw_keys: bytes put behind the keys.
    """

    keys: dict[str, tuple[int, bytes]] = field(default_factory=keys)
    tensors: dict[str, Tensor] = field(default_factory=tensors)
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_tensors: int | None = None
    raw_keys: bytes = b""

    def with_keys(self, changed: Mapping[str, tuple[int, bytes] | None]) -> Small:
        """Change keys, or take away those that are None."""
        for name, value in changed.items():
            self.keys.pop(name, None)
            if value is not None:
                self.keys[name] = value
        return self

    def head(self) -> bytes:
        """Everything before the tensors' data, aligned."""
        parts = [text(name) + struct.pack("<I", kind) + payload for name, (kind, payload) in self.keys.items()]
        listed, at = [], 0
        for name, tensor in self.tensors.items():
            offset = at if tensor.offset is None else tensor.offset
            dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            listed.append(text(name) + dims + struct.pack("<IQ", tensor.kind, offset))
            at += -(-len(tensor.data) // 32) * 32
        n_keys = len(parts) if self.n_keys is None else self.n_keys
        n_tensors = len(listed) if self.n_tensors is None else self.n_tensors
        head = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys)
        head += b"".join(parts) + self.raw_keys + b"".join(listed)
        return head + bytes(-len(head) % 32)

    def bytes(self) -> bytes:
        """The file."""
        data = [tensor.data + bytes(-len(tensor.data) % 32) for tensor in self.tensors.values()]
        return self.head() + b"".join(data)


def split(small: Small, count: int) -> list[bytes]:
    """The model in parts, as llama-gguf-split makes them: all keys in the first, tensors in order over all of them."""
    names = list(small.tensors)
    edges = [len(names) * part // count for part in range(count + 1)]
    marks = {"split.count": (2, struct.pack("<H", count)), "split.tensors.count": (I32, struct.pack("<i", len(names)))}
    return [
        Small(
            keys={**(small.keys if part == 0 else {}), "split.no": (2, struct.pack("<H", part)), **marks},
            tensors={name: small.tensors[name] for name in names[edges[part] : edges[part + 1]]},
        ).bytes()
        for part in range(count)
    ]


def byte_letters() -> list[str]:
    """A letter for each byte, as byte-level BPE writes it. Source: openai/gpt-2 src/encoder.py, bytes_to_unicode."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def with_bpe(small: Small, pre: str | None = "gpt-2", end: str = "<|endoftext|>", end_kind: int = 3) -> Small:
    """The model with a byte-level BPE vocabulary of as many tokens.

    Args:
        pre: its pre-tokenizer; None to leave it out.
        end, end_kind: the end-of-text token, and its type: 3 is a control token.
    """
    tokens, merges = [*byte_letters(), end], []
    for word in ("the", "at", "an", "on", "in", "er", "ld", "og", "ed", "re", "by", "se", "to", "ra", "mat", "cat"):
        for stop in range(2, len(word) + 1):
            if word[:stop] not in tokens and len(tokens) < len(TOKENS):
                tokens.append(word[:stop])
                merges.append(f"{word[: stop - 1]} {word[stop - 1]}")
    tokens += [f"<unused{number}>" for number in range(len(TOKENS) - len(tokens))]
    kinds = [end_kind if token == end else 5 if token.startswith("<unused") else 1 for token in tokens]
    small.with_keys(
        {
            "tokenizer.ggml.model": string("gpt2"),
            "tokenizer.ggml.pre": None if pre is None else string(pre),
            "tokenizer.ggml.tokens": texts(tokens),
            "tokenizer.ggml.merges": texts(merges),
            "tokenizer.ggml.token_type": array(I32, len(tokens), struct.pack(f"<{len(tokens)}i", *kinds)),
            "tokenizer.ggml.scores": None,
            "tokenizer.ggml.bos_token_id": u32(256),
            "tokenizer.ggml.eos_token_id": u32(256),
            "tokenizer.ggml.add_bos_token": (BOOL, b"\0"),
        }
    )
    return small


def with_learned_positions(small: Small, architecture: str, n_positions: int) -> Small:
    """A model of GPT-2's kind, with a table of positions in place of computed ones."""
    rng = np.random.default_rng(5)

    def matrix(*shape: int) -> Tensor:
        return Tensor(shape, 1, rng.normal(0, 0.2, shape[::-1]).astype(np.float16).tobytes())

    def row(length: int, value: float = 0.0) -> Tensor:
        return Tensor((length,), 0, np.full(length, value, np.float32).tobytes())

    keys_ = {name: value for name, value in small.keys.items() if not name.startswith("llama.")}
    keys_ |= {
        "general.architecture": string(architecture),
        f"{architecture}.block_count": u32(N_LAYER),
        f"{architecture}.context_length": u32(n_positions),
        f"{architecture}.embedding_length": u32(N_EMBD),
        f"{architecture}.feed_forward_length": u32(N_FF),
        f"{architecture}.attention.head_count": u32(N_HEAD),
        f"{architecture}.attention.head_count_kv": u32(N_HEAD),
        f"{architecture}.attention.layer_norm_epsilon": (F32, struct.pack("<f", 1e-5)),
    }
    table = rng.normal(0, 0.2, (n_positions, N_EMBD))
    found = {
        "token_embd.weight": small.tensors["token_embd.weight"],
        "position_embd.weight": Tensor((N_EMBD, n_positions), 0, table.astype(np.float32).tobytes()),
        "output_norm.weight": row(N_EMBD, 1.0),
        "output_norm.bias": row(N_EMBD),
    }
    for layer in range(N_LAYER):
        for name, shape in (
            ("attn_qkv", (N_EMBD, 3 * N_EMBD)),
            ("attn_output", (N_EMBD, N_EMBD)),
            ("ffn_up", (N_EMBD, N_FF)),
            ("ffn_down", (N_FF, N_EMBD)),
        ):
            found |= {f"blk.{layer}.{name}.weight": matrix(*shape), f"blk.{layer}.{name}.bias": row(shape[1])}
        for name in ("attn_norm", "ffn_norm"):
            found |= {f"blk.{layer}.{name}.weight": row(N_EMBD, 1.0), f"blk.{layer}.{name}.bias": row(N_EMBD)}
    return Small(keys=keys_, tensors=found)
