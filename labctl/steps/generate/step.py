"""Generate step: sample outputs and answers to probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labctl.executors.child import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.records.disk import write_text
from labctl.records.store import write_record
from labctl.steps.base import Step, stored
from labctl.steps.files import need_file
from labctl.steps.generate.record import GenerateTask, GenerationRun, prompt_file

_SIDE_BY_SIDE = 16  # questions of a probe, where a cache of 512 tokens has room for them


PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "To solve this math problem, first we need to",
    "In the field of artificial intelligence,",
    "Step-by-step reasoning: If x = 5 and y = 3, then x + y =",
)
"""The course's five prompts, in the worksheet's order."""


def _generate_settings(lab: Lab) -> dict[str, Any]:
    config = lab.config
    return {
        "prompts": list(PROMPTS),
        "n_tokens": lab.reach.new_tokens(config.new_tokens),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
        "n_ctx": max(config.ctx, 512),
        "questions_side_by_side": _SIDE_BY_SIDE,
        "probe_items": config.n_probe_items(lab.is_demo),
    }


def _probe_digests(lab: Lab) -> dict[str, str]:
    return {name: lab.digests.sha256(path) for name, path in lab.probes.items()}


def _generate_key(lab: Lab, label: str) -> str:
    return key_of(
        "generate", lab, file=need_file(lab, label).sha256, machine=lab.machine.machine_id, n_threads=lab.n_threads,
        probes=_probe_digests(lab), **_generate_settings(lab),
    )  # fmt: skip


def prompt_path(lab: Lab, label: str, number: int, decoding: str) -> Path:
    """outputs/<model>/<format>/prompt_<n>.txt, and prompt_<n>_greedy.txt beside it."""
    return lab.folder.root / prompt_file(label, number, decoding)


def _fresh_generation(lab: Lab, label: str) -> GenerationRun | None:
    record = stored(lab, "generate", label, GenerationRun, _generate_key(lab, label))
    if record is None:
        return None
    paths = [prompt_path(lab, label, one.prompt_number, one.decoding) for one in record.generations]
    return record if all(path.is_file() for path in paths) else None


def _make_generation(lab: Lab, label: str, on_progress: OnProgress | None) -> GenerationRun:
    settings = _generate_settings(lab)
    task = GenerateTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        n_ctx=settings["n_ctx"],
        n_side=settings["questions_side_by_side"],
        prompts=tuple(settings["prompts"]),
        n_tokens=settings["n_tokens"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        seed=settings["seed"],
        probes={name: str(path) for name, path in lab.probes.items()},
        probe_items=settings["probe_items"],
        provenance=lab.provenance(
            "generate",
            _generate_key(lab, label),
            {"model": need_file(lab, label).sha256, **_probe_digests(lab)},
            {**settings, "n_threads": lab.n_threads},
        ),
    )
    record = lab.run(task, GenerationRun, "generate", label, on_progress)
    for one in record.generations:
        write_text(prompt_path(lab, label, one.prompt_number, one.decoding), one.prompt + one.text + "\n")
    write_record(lab.folder.record_path("generate", label), record)
    return record


def generate_step(label: str) -> Step:
    return Step(
        "generate", label, lambda lab: _fresh_generation(lab, label), lambda lab, on: _make_generation(lab, label, on)
    )
