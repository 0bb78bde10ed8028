"""A second engine, small and useless: it shows what one needs, and that nothing above engines/ has to change for it.

Its models are files of any bytes that end in .fake. No test about a number uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labctl.engines.base import Contents, Engine, Format
from labctl.engines.model import Continuation, Recipe, Request
from labctl.executors.base import Report
from labctl.records.files import Making, ModelShape, TensorFallback, TensorTypeShare

SHAPE = ModelShape(
    architecture="fake",
    n_layer=1,
    n_embd=8,
    n_head=1,
    n_head_kv=1,
    d_head_k=8,
    d_head_v=8,
    n_vocab=256,
    n_ctx_train=4096,
)


class Bytes(Format):
    """A byte a weight."""

    bits = 8.0


class Fake(Engine):
    """It can make files and continue texts, and nothing else."""

    name = "fake"
    title = "Fake"
    can = frozenset({"text"})
    suffix = ".fake"
    formats: Mapping[str, Format] = {
        name: Bytes(name=name, tensor_type="byte", uses_imatrix=False) for name in ("HALF", "EIGHTH")
    }
    usual_formats = ("HALF", "EIGHTH")

    def identity(self, outputs: Path, n_threads: int, *, keep: bool = True) -> dict[str, str]:
        return {"fake": "1"}

    def try_out(self, model_path: str, n_threads: int) -> dict[str, str]:
        return {"fake": "1"}

    def inspect(self, path: Path) -> Contents:
        size = path.stat().st_size
        share = TensorTypeShare(tensor_type="byte", n_tensors=1, n_params=size, size_bytes=size)
        return Contents(
            files=(path,),
            size_bytes=size,
            tensors=(),
            types=(share,),
            shape=SHAPE,
            label="WHOLE",
            quantized="",
            n_trained=4096,
            n_positions=None,
            n_expert=0,
            n_expert_used=0,
            n_ff=0,
            n_merges=0,
            kin={},
            making=Making(),
        )

    def start(self, report: Report) -> Any:
        return FakeProgram()


class FakeProgram:
    def planned(self, source: Path, recipe: Recipe) -> int:
        return source.stat().st_size // {"HALF": 2, "EIGHTH": 8}[recipe.format]

    def quantize(
        self, source: Path, target: Path, recipe: Recipe, on_tensor: Callable[[int, int], None]
    ) -> tuple[TensorFallback, ...]:
        target.write_bytes(source.read_bytes()[: self.planned(source, recipe)])
        on_tensor(1, 1)
        return ()

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[FakeProgram]:
        yield self

    @contextlib.contextmanager
    def writer(self, **_: int) -> Iterator[FakeProgram]:
        yield self

    def continued(self, requests: Sequence[Request], n_side: int, on_tokens: object) -> list[Continuation]:
        return [Continuation(n_prompt_tokens=1, ids=[32, 46], pieces=[b" ", b"."]) for _ in requests]


ENGINE = Fake()
