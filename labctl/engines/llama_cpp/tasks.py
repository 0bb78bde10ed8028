"""What llama.cpp itself can be asked: which build it is, and whether a file can be measured."""

from __future__ import annotations

from labctl.executors.base import ModelSize, Task


class EngineTask(Task, frozen=True, kw_only=True):
    """Say which llama.cpp this is; with a model, also check that it computes on this CPU."""

    name = "engine"
    work = "labctl.engines.llama_cpp.trial:identify"

    def work_bytes(self, size: ModelSize) -> int:
        return 12 * size.largest_tensor  # a tensor as it was read, as float32, and quantized


class LoadTask(Task, frozen=True, kw_only=True):
    """Look whether a file can be measured: its weights are numbers, llama.cpp takes it, a few tokens come out."""

    name = "load"
    work = "labctl.engines.llama_cpp.trial:load"
