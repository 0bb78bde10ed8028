"""The generate task in a child: sample outputs and answers to probes."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from labctl import engines
from labctl.executors.base import Report
from labctl.steps.generate.own import write_own
from labctl.steps.generate.probes import evenly, read_probe
from labctl.steps.generate.record import GenerateTask, ProbeResult, Written
from labctl.steps.generate.writer import ANSWER_TOKENS, answer, write


def generate(task: GenerateTask, report: Report) -> Written:
    """Continue the prompts, sampled and greedily, and answer the probes."""
    program = engines.of_task(task).start(report)
    probes = {name: evenly(read_probe(Path(path)), task.probe_items) for name, path in task.probes.items()}
    n_prompts = 2 * len(task.prompts) * task.n_tokens  # tokens, as all counts here
    n_own = 2 * len(task.own) * task.n_tokens
    total = n_prompts + n_own + ANSWER_TOKENS * sum(len(questions) for questions in probes.values())
    begun = time.perf_counter()
    with program.open(Path(task.model_path)) as model:
        with model.writer(n_ctx=task.n_ctx, n_threads=task.n_threads, n_side=task.n_side) as writer:
            generations = write(writer, task, functools.partial(_tell, report, 0, total, "prompts"))
            written = time.perf_counter()
            results: list[ProbeResult] = []
            for name, questions in probes.items():
                before = n_prompts + ANSWER_TOKENS * sum(len(one.answers) for one in results)
                told = functools.partial(_tell, report, before, total, name)
                results.append(ProbeResult(name=name, answers=answer(writer, questions, task.n_side, told)))
            answered = time.perf_counter()
        # In a cache of their own: the course's texts do not depend on them.
        told = functools.partial(_tell, report, total - n_own, total, "own prompts")
        own, fault = write_own(model, task, told) if task.own else ((), "")
    return Written(
        generations=tuple(generations),
        probes=tuple(results),
        prompts_s=written - begun,
        probes_s=answered - written,
        own=own,
        template_fault=fault,
    )


def _tell(report: Report, before: int, total: int, note: str, done: int) -> None:
    report(before + done, total, note)
