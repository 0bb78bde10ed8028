"""What a run would do: the steps whose record is missing or no longer true, with bytes and a rough time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.engines.llama_cpp.footprint import limit_bytes
from labctl.errors import LabError
from labctl.executors.child import run_task
from labctl.lab.lab import Lab
from labctl.pipeline import preflight
from labctl.steps.base import Step
from labctl.steps.divergence.step import spool_bytes, stale_divergence
from labctl.steps.generate.step import generate_step
from labctl.steps.memory.step import memory_step
from labctl.steps.perplexity.record import COMMON_CHUNKS
from labctl.steps.perplexity.step import perplexity_step
from labctl.steps.quantize.step import quantize_step, quantize_task
from labctl.steps.speed import rounds

STEPS = ("quantize", "perplexity", "divergence", "generate", "memory", "bench")
"""Every step in the order it runs; speed last, when nothing else is due any more."""

ALL = "all formats"
"""Stands for the format in the plan of a step that takes all of them together."""

STEP: dict[str, Callable[[str], Step]] = {
    "quantize": quantize_step,
    "perplexity": perplexity_step,
    "generate": generate_step,
    "memory": memory_step,
}
"""Steps that stand alone for each format; divergence and bench take all formats together."""

_COSTS = {"quantize": 4_000, "generate": 14_000, "memory": 2_000}  # in prompt tokens, roughly

_KL_CHUNKS = 32
_KL_SHARE = 0.15  # of computing a chunk: what comparing it takes while perplexity computes it anyway
_FURTHER_CHUNKS = 8  # a format whose verdict needs more than the common chunks is rare


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A step that a run would make anew."""

    step: str
    label: str
    write_bytes: int
    estimate_s: float


def stale(lab: Lab, names: Iterable[str], force: Sequence[str]) -> list[Step]:
    """Steps whose record is missing or no longer true, bench left aside."""
    every = [STEP[name](label) for name in STEPS if name in names and name in STEP for label in lab.labels]
    return [step for step in every if step.name in force or not is_fresh(lab, step)]


def is_fresh(lab: Lab, step: Step) -> bool:
    try:
        return step.fresh(lab) is not None
    except LabError:  # the file that the step measures is not there yet
        return False


def cost(lab: Lab, name: str) -> float:
    """A step's size in prompt tokens, for the progress display and the time estimate."""
    if name not in ("perplexity", "divergence"):
        return _COSTS[name]
    n_text = lab.text.size_bytes / 4 / lab.config.ctx
    if name == "divergence":
        alone = lab.folder.record_path("perplexity", lab.model.baseline).exists()
        n_chunks = min(n_text, lab.config.kl_chunks or _KL_CHUNKS)
        return lab.config.ctx * n_chunks * (1.0 if alone else _KL_SHARE)
    n_first = COMMON_CHUNKS + _FURTHER_CHUNKS if lab.config.is_auto else lab.config.n_chunks
    return lab.config.ctx * (n_text if n_first is None else min(n_first, n_text))


def prompt_rate(lab: Lab) -> float:
    """Prompt tokens a second of the baseline: as probed on this machine, else by arithmetic."""
    from labctl.engines.llama_cpp.gguf.header import read_model

    header, _ = read_model(Path(lab.model.path))
    return preflight.tokens_per_s(lab, sum(tensor.n_params for tensor in header.tensors))


def plan(lab: Lab, names: Sequence[str] = STEPS, *, force: Sequence[str] = ()) -> list[Planned]:
    """What a run would do, with the bytes it would write (from llama.cpp's dry run) and a rough time."""
    from labctl.engines.llama_cpp.gguf.header import model_shape, read_model

    header, _ = read_model(Path(lab.model.path))
    tokens_per_s = prompt_rate(lab)
    planned: list[Planned] = []
    for step in stale(lab, names, force):
        n_bytes = 0
        if step.name == "quantize" and step.label != lab.model.baseline:
            n_bytes = _dry_run(lab, step.label)
        elif step.name == "perplexity":
            n_bytes = lab.text.size_bytes  # about 8 bytes for every second token of four letters
        planned.append(
            Planned(
                step=step.name,
                label=step.label,
                write_bytes=n_bytes,
                estimate_s=0.5 + cost(lab, step.name) / tokens_per_s,
            )
        )
    if "divergence" in names and (compared := _to_compare(lab, "divergence" in force)):
        n_bytes = spool_bytes(lab, model_shape(header).n_vocab)
        seconds = 0.5 + cost(lab, "divergence") * (1 + len(compared)) / tokens_per_s
        planned.append(Planned(step="divergence", label=ALL, write_bytes=n_bytes, estimate_s=seconds))
    if "bench" in names and ("bench" in force or not rounds.complete(lab)):
        seconds = rounds.estimate_s(lab, tokens_per_s)
        planned += [Planned(step="bench", label=label, write_bytes=0, estimate_s=seconds) for label in lab.labels]
    return sorted(planned, key=lambda one: STEPS.index(one.step))


def _to_compare(lab: Lab, force: bool) -> list[str]:
    """Formats whose divergence a run would measure; those without a file yet are among them."""
    there = rounds.labels_with_file(lab)
    missing = [label for label in lab.labels if label not in there and label != lab.model.baseline]
    stale_now = stale_divergence(lab, force) if lab.model.baseline in there else lab.labels[1:]
    return [label for label in lab.labels if label in stale_now or label in missing]


def _dry_run(lab: Lab, label: str) -> int:
    """Bytes of a format's tensors, by llama.cpp's dry run; its log goes with it."""
    task = quantize_task(lab, label, provenance=lab.provenance("quantize", "", {}, {}), dry_run=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return run_task(
            task,
            int,
            log_path=Path(folder) / "dry-run.log",
            hang_s=lab.config.hang_s,
            limit_bytes=limit_bytes(task, lab.config.memory_limit_bytes),
        )
