"""What the work of a step may ask of a model that an engine has opened in its child process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from labctl.records.files import TensorFallback

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


class Reader(Protocol):
    """Reads chunks of a text, all of one length, one at a time."""

    def logits(self, tokens: IntArray) -> Iterator[tuple[int, FloatArray]]:
        """Read a chunk from an empty memory; logits of its second half, piece by piece.

        Args:
            tokens: (n_ctx,) of the chunk; the first is replaced where every text begins with a token of its own.
        Yields: the place in the chunk of the piece's first token, and (n, n_vocab) float32 logits of its tokens, valid
            until the next piece.
        Raises:
            LabError: it cannot be computed.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt to continue.

    Attributes:
        n_tokens: most new tokens.
        temperature: 0 for the most likely token each time; top_p and seed then play no part.
        enough: asked with the bytes so far whether to stop.
        special: control tokens written out in the prompt are read as such; one that begins a text stands there once.
    """

    prompt: str
    n_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    enough: Callable[[bytes], bool] | None = None
    special: bool = False


@dataclass(slots=True, kw_only=True)
class Continuation:
    """What a request gave: new token ids and the bytes of each; an end-of-text token is not among them."""

    n_prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The new tokens as text, invalid UTF-8 replaced."""
        return b"".join(self.pieces).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """How a model wants a chat written: a Jinja template, and the tokens that begin and end a text, as text."""

    source: str
    bos: str
    eos: str


class Writer(Protocol):
    """Continues prompts."""

    def continued(
        self, requests: Sequence[Request], n_side: int, on_tokens: Callable[[int], None]
    ) -> list[Continuation]:
        """Continue every prompt.

        Args:
            n_side: most of them side by side.
            on_tokens: told after each step how many of the tokens asked for are there, or no longer needed.
        Raises:
            LabError: a prompt is empty or does not fit.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """What an engine says that it has taken of memory, in bytes; `model` by the name of the buffer."""

    model: Mapping[str, int]
    kv: int
    compute: int
    output: int


class Model(Protocol):
    """A model opened with its weights.

    Attributes:
        bos: the token that every text begins with; None if there is none.
    """

    @property
    def n_vocab(self) -> int: ...
    @property
    def n_params(self) -> int: ...
    @property
    def bos(self) -> int | None: ...

    def chat_template(self) -> ChatTemplate | None:
        """The model's own template; None without one."""

    def n_tokens(self, text: str, *, special: bool) -> int:
        """How many tokens a request's prompt takes."""

    def reader(self, *, n_ctx: int, n_threads: int, n_ubatch: int, n_outputs: int) -> Reader:
        """Memory to read chunks of n_ctx tokens in.

        Args:
            n_ubatch, n_outputs: tokens computed at once in a chunk's first half, and in its second half.
        """

    def writer(self, *, n_ctx: int, n_threads: int, n_side: int) -> AbstractContextManager[Writer]:
        """Memory to continue prompts in.

        Args:
            n_ctx: tokens of one cache that texts side by side share; none may need more.
            n_side: most texts side by side.
        """

    def prompt_test(self, tokens: IntArray, n_threads: int) -> AbstractContextManager[Callable[[], float]]:
        """A test of reading a prompt: each call reads it into an empty memory and returns the seconds of that."""

    def generation_test(
        self, tokens: Sequence[int], n_threads: int
    ) -> AbstractContextManager[Callable[[], Iterator[float]]]:
        """A test of single tokens one after the other, none of them sampled.

        Each call begins with an empty memory, computes a token at each `next` and gives the seconds it took.
        """

    def batch_test(
        self, prompts: IntArray, tokens: IntArray, n_threads: int
    ) -> AbstractContextManager[Callable[[float], tuple[float, float]]]:
        """A test of several texts side by side: first all their prompts, then one token of each at a time.

        Each call returns the seconds for all prompts and for all tokens. After the moment given (time.perf_counter),
        the tokens that were computed, for half a second at least, stand for all.

        Args:
            prompts: (n_seq, n_prompt).
            tokens: (n_gen, n_seq).
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a file is quantized.

    Attributes:
        allow_requantize: take a source that is quantized already.
        imatrix: file of the importance matrix, if one is used.
    """

    format: str
    n_threads: int
    allow_requantize: bool = False
    imatrix: Path | None = None


class Program(Protocol):
    """An engine loaded into this process."""

    def planned(self, source: Path, recipe: Recipe) -> int:
        """Tensor bytes of the file that would be made; nothing is written.

        Raises:
            LabError: the engine refuses to make it; the message holds its reason.
        """

    def quantize(
        self, source: Path, target: Path, recipe: Recipe, on_tensor: Callable[[int, int], None]
    ) -> tuple[TensorFallback, ...]:
        """Write a quantized file, which may be cut off if this fails.

        Args:
            on_tensor: told the number of each tensor, and how many there are.
        Returns: the tensors that could not get their format's type.
        Raises:
            LabError: the engine refuses, or the disk is full.
        """

    def tokens(self, path: Path, text: bytes) -> IntArray:
        """Token ids of a text by a model's vocabulary, (n_tokens,) int32, without loading its weights.

        Args:
            text: UTF-8; control tokens written out in it stay plain text.
        """

    def open(self, path: Path) -> AbstractContextManager[Model]:
        """Open a model.

        Raises:
            LabError: the engine refuses the file; the message holds its reason.
        """

    def filled(
        self, path: Path, *, mmap: bool, n_ctx: int, n_threads: int, n_prompt: int, n_gen: int
    ) -> AbstractContextManager[Buffers]:
        """A model that has read a prompt and generated, still in memory.

        Args:
            mmap: map the file, or read it into memory.
            n_ctx: tokens that the cache can hold.
        """
