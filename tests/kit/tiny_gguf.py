"""Whole GGUF files of one or two tensors, for tests that only read them."""

from __future__ import annotations

import struct


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tiny_gguf(
    kind: int = 1, mark: int = 0, split: tuple[int, int] | None = None, name: str = "llama", made_as: int | None = None
) -> bytes:
    """A whole GGUF file of 256 x 4 weights, of ggml type `kind`; `mark` makes files differ."""
    sizes = {0: 4096, 1: 2048, 30: 2048, 3: 640, 8: 1088, 12: 576}
    keys = [text("general.architecture") + struct.pack("<I", 8) + text(name)]
    for key, value in (
        ("block_count", 1),
        ("embedding_length", 256),
        ("attention.head_count", 4),
        ("context_length", 64),
    ):
        keys.append(text(f"{name}.{key}") + struct.pack("<II", 4, value))
    if made_as is not None:
        keys.append(text("general.file_type") + struct.pack("<II", 4, made_as))
    keys.append(text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("llama"))
    keys.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 4) + b"".join(map(text, "abcd")))
    if split:
        keys += [
            text("split.no") + struct.pack("<IH", 2, split[0]),
            text("split.count") + struct.pack("<IH", 2, split[1]),
        ]
    names = ("token_embd.weight", "blk.0.w") if split is None else (("token_embd.weight", "blk.0.w")[split[0]],)
    tensors = [text(one) + struct.pack("<IQQIQ", 2, 256, 4, kind, n * sizes[kind]) for n, one in enumerate(names)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % 32) + bytes([mark]) * sizes[kind] * len(tensors)


F16, BF16, F32, Q4_1 = tiny_gguf(1), tiny_gguf(30), tiny_gguf(0), tiny_gguf(3)
