"""llama.cpp tried out in a child: which build it is, whether it computes here, whether a file can be measured."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from labctl.engines.llama_cpp.binding import Context, Llama, Model
from labctl.engines.llama_cpp.formats import FORMATS
from labctl.engines.llama_cpp.gguf.kind import other_kind
from labctl.engines.llama_cpp.gguf.weights import require_finite
from labctl.engines.llama_cpp.quantizer import quantize_file
from labctl.engines.llama_cpp.tasks import EngineTask, LoadTask
from labctl.errors import LabError
from labctl.executors.base import Report, log_line


def identify(task: EngineTask, report: Report) -> dict[str, str]:
    """Version and CPU features; with a model, quantize it and read a few tokens to see that the build computes."""
    llama = Llama(log_line=log_line, warnings=report.warnings)
    if task.model_path:
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "engine.gguf"
            for name in ("Q8_0", "Q4_K_M"):
                quantize_file(llama, Path(task.model_path), small, FORMATS[name].ftype, n_threads=task.n_threads)
                with Model(llama, small) as model, Context(model, n_ctx=64, n_threads=task.n_threads) as context:
                    context.prompt([token % model.n_vocab for token in range(64)])
                    context.synchronize()
    return {"llama_cpp": llama.version(), "system_info": llama.system_info()}


def load(task: LoadTask, report: Report) -> bool:
    """Look whether a file can be measured.

    Raises:
        LabError: it cannot; the message says why.
    """
    llama = Llama(log_line=log_line, warnings=report.warnings)

    path = Path(task.model_path)
    require_finite(path)
    with contextlib.ExitStack() as opened:
        model = opened.enter_context(Model(llama, path))
        context = opened.enter_context(Context(model, n_ctx=64, n_threads=task.n_threads)) if model.is_decoder else None
        if context is None or not context.is_causal:
            raise other_kind(path.name, "no causal decoder: by llama.cpp, it predicts no next token from those before")
        context.prompt([token % model.n_vocab for token in range(min(32, model.n_ctx_train))])
        context.synchronize()
        if not np.isfinite(context.logits(1)).all():
            raise LabError(
                f"{path.name} computes no probabilities (NaN): its weights overflow.",
                "Download or make the file again from the original.",
            )
    return True
