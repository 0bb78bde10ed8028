"""Memory step: peak memory of each format in a fresh process."""

from __future__ import annotations

from labctl.engines.llama_cpp.gguf.lengths import N_PROMPT
from labctl.executors.base import Progress
from labctl.executors.child import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.records.store import write_record
from labctl.steps.base import Step, stored
from labctl.steps.files import need_file
from labctl.steps.memory.record import N_GEN, MemoryLoad, MemoryRun, MemoryTask


def _memory_key(lab: Lab, label: str) -> str:
    return key_of(
        "memory", lab, file=need_file(lab, label).sha256, machine=lab.machine.machine_id, n_ctx=lab.config.ctx,
        n_threads=lab.n_threads, n_prompt=N_PROMPT, n_gen=N_GEN,
    )  # fmt: skip


def _make_memory(lab: Lab, label: str, on_progress: OnProgress | None) -> MemoryRun:
    loads = []
    for number, mmap in enumerate((False, True)):
        task = MemoryTask(
            model_path=str(lab.gguf_path(label)),
            format=label,
            n_threads=lab.n_threads,
            n_ctx=lab.config.ctx,
            mmap=mmap,
        )
        loads.append(lab.run(task, MemoryLoad, "memory", label, None))
        if on_progress is not None:
            on_progress(Progress(done=number + 1, total=2))
    settings = {"n_ctx": lab.config.ctx, "n_threads": lab.n_threads, "n_prompt": N_PROMPT, "n_gen": N_GEN}
    record = MemoryRun(
        format=label,
        n_ctx=lab.config.ctx,
        n_threads=lab.n_threads,
        loads=tuple(loads),
        provenance=lab.provenance(
            "memory", _memory_key(lab, label), {"model": need_file(lab, label).sha256}, settings
        ),
    )  # fmt: skip
    write_record(lab.folder.record_path("memory", label), record)
    return record


def memory_step(label: str) -> Step:
    return Step(
        "memory",
        label,
        lambda lab: stored(lab, "memory", label, MemoryRun, _memory_key(lab, label)),
        lambda lab, on: _make_memory(lab, label, on),
    )
