"""Changes that make a small GGUF file bad."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from kit.small_gguf import N_EMBD, Small, Tensor


def key(**changed: Any) -> Callable[[Small], Small]:
    """Change keys, named with __ for a dot; None takes one away."""
    return lambda small: small.with_keys({name.replace("__", "."): value for name, value in changed.items()})


def tensor(name: str, **changed: Any) -> Callable[[Small], Small]:
    def change(small: Small) -> Small:
        for attribute, value in changed.items():
            setattr(small.tensors[name], attribute, value)
        return small

    return change


def without(name: str) -> Callable[[Small], Small]:
    def change(small: Small) -> Small:
        del small.tensors[name]
        return small

    return change


def set_to(**changed: Any) -> Callable[[Small], Small]:
    def change(small: Small) -> Small:
        for attribute, value in changed.items():
            setattr(small, attribute, value)
        return small

    return change


def extra(name: str, shape: tuple[int, ...] = (N_EMBD,), kind: int = 0, data: bytes = bytes(256)) -> Any:
    def change(small: Small) -> Small:
        small.tensors[name] = Tensor(shape, kind, data)
        return small

    return change


Q, NORM = "blk.0.attn_q.weight", "blk.1.attn_norm.weight"


def corrupted(whole: bytes, n_head: int, chance: random.Random) -> bytes:
    """A file with one to four faults, most of them in its header."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(min(n_head, len(data)) if chance.random() < 0.8 else len(data))
        match chance.randrange(7):
            case 0 | 1:
                data[at] = chance.randrange(256)
            case 2:
                data[at] ^= 1 << chance.randrange(8)
            case 3:
                data[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\0\0\0\x80", b"\xff\xff\xff\x7f"))
            case 4:
                data[at : at + 8] = struct.pack("<Q", chance.choice((0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)))
            case 5:
                del data[at : at + chance.choice((1, 4, 8, 64))]
            case _:
                data[at:at] = chance.randbytes(chance.choice((1, 4, 8)))
    return bytes(data)


def poisoned(name: str, at: int, value: bytes) -> Callable[[Small], Small]:
    def change(small: Small) -> Small:
        data = bytearray(small.tensors[name].data)
        data[at : at + len(value)] = value
        small.tensors[name].data = bytes(data)
        return small

    return change
