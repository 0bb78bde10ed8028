"""llama.cpp in a child: a model opened for the work of a step.

A child loads only what its own work needs: all that it loads counts in the memory that is measured.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labctl.engines.llama_cpp.binding import Context, Llama, Model
from labctl.engines.model import Buffers, ChatTemplate, IntArray, Recipe
from labctl.errors import LabError
from labctl.executors.base import Report, log_line
from labctl.records.files import TensorFallback

if TYPE_CHECKING:
    from labctl.engines.llama_cpp.chunks import ChunkReader
    from labctl.engines.llama_cpp.writer import PromptWriter


class LlamaProgram:
    """See labctl.engines.model.Program; llama.cpp's warnings go to the report."""

    def __init__(self, report: Report) -> None:
        self._llama = Llama(log_line=log_line, warnings=report.warnings)

    def planned(self, source: Path, recipe: Recipe) -> int:
        from labctl.engines.llama_cpp import quantizer

        return quantizer.planned(self._llama, source, recipe)

    def quantize(
        self, source: Path, target: Path, recipe: Recipe, on_tensor: Callable[[int, int], None]
    ) -> tuple[TensorFallback, ...]:
        from labctl.engines.llama_cpp import quantizer

        return quantizer.quantize(self._llama, source, target, recipe, on_tensor)

    def tokens(self, path: Path, text: bytes) -> IntArray:
        with Model(self._llama, path, vocab_only=True) as model:
            return model.tokenize(text)

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[OpenModel]:
        with Model(self._llama, path) as model:
            yield OpenModel(model)

    @contextlib.contextmanager
    def filled(
        self, path: Path, *, mmap: bool, n_ctx: int, n_threads: int, n_prompt: int, n_gen: int
    ) -> Iterator[Buffers]:
        self._llama.clear_log()
        with (
            Model(self._llama, path, mmap=mmap) as model,
            Context(model, n_ctx=n_ctx, n_threads=n_threads, n_ubatch=512, n_batch=min(n_ctx, 2048)) as context,
        ):
            buffers = buffer_sizes(self._llama.lines)
            prompt = np.arange(min(n_prompt, n_ctx), dtype=np.int32) % model.n_vocab
            context.clear()
            context.prompt(prompt)
            context.synchronize()
            context.clear(data=False)
            for position in range(min(n_gen, n_ctx)):
                context.decode_one(int(prompt[position % len(prompt)]), position)
            yield buffers


class OpenModel:
    """See labctl.engines.model.Model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.n_vocab = model.n_vocab
        self.n_params = model.n_params
        self.bos = model.bos if model.adds_bos else None

    def chat_template(self) -> ChatTemplate | None:
        source = self._model.chat_template()
        if source is None:
            return None
        return ChatTemplate(source=source, bos=self._model.token_text(self._model.bos), eos=self._model.eos_text())

    def n_tokens(self, text: str, *, special: bool) -> int:
        return len(self._model.tokenize(text.encode(), special=special))

    def reader(self, *, n_ctx: int, n_threads: int, n_ubatch: int, n_outputs: int) -> ChunkReader:
        from labctl.engines.llama_cpp.chunks import ChunkReader

        return ChunkReader(self._model, n_ctx=n_ctx, n_threads=n_threads, n_ubatch=n_ubatch, n_outputs=n_outputs)

    def writer(self, *, n_ctx: int, n_threads: int, n_side: int) -> PromptWriter:
        from labctl.engines.llama_cpp.writer import PromptWriter

        return PromptWriter(self._model, n_ctx=n_ctx, n_threads=n_threads, n_side=n_side)

    def prompt_test(self, tokens: IntArray, n_threads: int) -> contextlib.AbstractContextManager[Callable[[], float]]:
        from labctl.engines.llama_cpp import timing

        return timing.prompt_test(self._model, tokens, n_threads)

    def generation_test(
        self, tokens: Sequence[int], n_threads: int
    ) -> contextlib.AbstractContextManager[Callable[[], Iterator[float]]]:
        from labctl.engines.llama_cpp import timing

        return timing.generation_test(self._model, tokens, n_threads)

    def batch_test(
        self, prompts: IntArray, tokens: IntArray, n_threads: int
    ) -> contextlib.AbstractContextManager[Callable[[float], tuple[float, float]]]:
        from labctl.engines.llama_cpp import timing

        return timing.batch_test(self._model, prompts, tokens, n_threads)


_BUFFER = re.compile(r":\s+(?P<name>\S+)\s+(?P<kind>model|KV|RS|compute|output) buffer size\s*=\s*(?P<mib>[\d.]+) MiB")


def buffer_sizes(lines: Sequence[str]) -> Buffers:
    """llama.cpp's buffers from its log.

    The log rounds to 0.01 MiB. A buffer reported again (a graph reserved anew) counts once, at its last size; but a
    model with sliding windows has two caches of one name, and recurrent layers a state (RS) beside the cache.

    Args:
        lines: of opening one model and one context.
    """
    sizes: dict[str, dict[str, int]] = {"model": {}, "compute": {}, "output": {}}
    kv = 0
    for match in filter(None, map(_BUFFER.search, lines)):
        n_bytes = round(float(match["mib"]) * 1024 * 1024)
        if match["kind"] in sizes:
            sizes[match["kind"]][match["name"]] = n_bytes
        else:
            kv += n_bytes
    compute, output = (sum(sizes[kind].values()) for kind in ("compute", "output"))
    return Buffers(model=sizes["model"], kv=kv, compute=compute, output=output)


def load(path: Path, n_threads: int, report: Report) -> None:
    """Look whether a file can be measured.

    Raises:
        LabError: it cannot; the message says why.
    """
    from labctl.engines.llama_cpp.gguf.soundness import other_kind
    from labctl.engines.llama_cpp.gguf.weights import require_finite

    llama = Llama(log_line=log_line, warnings=report.warnings)
    require_finite(path)
    with contextlib.ExitStack() as opened:
        model = opened.enter_context(Model(llama, path))
        context = opened.enter_context(Context(model, n_ctx=64, n_threads=n_threads)) if model.is_decoder else None
        if context is None or not context.is_causal:
            raise other_kind(path.name, "no causal decoder: by llama.cpp, it predicts no next token from those before")
        context.prompt([token % model.n_vocab for token in range(min(32, model.n_ctx_train))])
        context.synchronize()
        if not np.isfinite(context.logits(1)).all():
            raise LabError(
                f"{path.name} computes no probabilities (NaN): its weights overflow.",
                "Download or make the file again from the original.",
            )
