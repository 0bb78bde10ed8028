"""What llama.cpp itself can be asked: which build it is, and whether a file can be measured."""

from __future__ import annotations

from labctl.executors.base import Task


class EngineTask(Task, frozen=True, kw_only=True, tag="engine"):
    """Say which llama.cpp this is; with a model, also check that it computes on this CPU."""


class LoadTask(Task, frozen=True, kw_only=True, tag="load"):
    """Look whether a file can be measured: its weights are numbers, llama.cpp takes it, a few tokens come out."""
