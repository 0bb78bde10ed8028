"""Memory step: peak memory of each format in a fresh process."""

from __future__ import annotations

from labctl.executors.base import OnProgress, Progress
from labctl.lab.lab import Lab, key_of
from labctl.lab.reach import N_PROMPT
from labctl.records.store import write_record
from labctl.records.units import size_text
from labctl.steps.base import Case, Step
from labctl.steps.files import need_file
from labctl.steps.memory.record import N_GEN, MemoryLoad, MemoryRun, MemoryTask, plain_load
from labctl.steps.rates import Rates


def _memory_key(lab: Lab, label: str) -> str:
    return key_of(
        "memory",
        lab,
        file=need_file(lab, label).sha256,
        machine=lab.machine.machine_id,
        n_ctx=lab.config.ctx,
        n_threads=lab.n_threads,
        n_prompt=N_PROMPT,
        n_gen=N_GEN,
    )


def _make_memory(lab: Lab, label: str, on_progress: OnProgress | None) -> MemoryRun:
    loads = []
    for number, mmap in enumerate((False, True)):
        task = MemoryTask(
            model_path=str(lab.gguf_path(label)), format=label, n_threads=lab.n_threads, n_ctx=lab.config.ctx, mmap=mmap
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
        provenance=lab.provenance("memory", _memory_key(lab, label), {"model": need_file(lab, label).sha256}, settings),
    )
    write_record(lab.folder.record_path("memory", label), record)
    return record


class Memory(Step[MemoryRun]):
    """Peak memory of each format in a fresh process."""

    name = "memory"
    record = MemoryRun
    asks = "memory"
    settings = ("ctx", "threads")
    figure = "peak"

    def key(self, lab: Lab, case: Case) -> str:
        return _memory_key(lab, case.format)

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        return 2 * rates.process_s(n_prompt=N_PROMPT, n_new=N_GEN)

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None) -> MemoryRun:
        return _make_memory(lab, case.format, on_progress)

    def outcome(self, record: MemoryRun) -> str:
        load = plain_load(record)
        return "" if load is None else size_text(load.peak_rss_bytes)


MEMORY = Memory()
