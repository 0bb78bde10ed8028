"""What the demo model was trained on: many probe answers stand in its training text, and readers must know."""

from __future__ import annotations

from dataclasses import replace

from labctl.records.sources import SourceModel
from labctl.report.text import words
from labctl.steps.generate.answers import answer_changes, probe_names
from labctl.steps.generate.record import GenerationRun
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured

DEMO_SHA256 = "c88227c168f83ab59dd03ecf86dcbfc59785b357953e388898d85381ff70d1ad"
CARD = "`lab_data/demo/MODEL_CARD.md`"


def is_demo(model: SourceModel) -> bool:
    """Whether a lab is about the demo model, by whatever path it was named."""
    return model.origin == "demo" or model.sha256 == DEMO_SHA256


def unseen(run: GenerationRun) -> GenerationRun:
    """The run with only those probe questions that the demo model was not trained on."""
    return replace(
        run,
        probes=tuple(
            replace(probe, answers=tuple(one for one in probe.answers if one.in_demo_training is False))
            for probe in run.probes
        ),
    )


def unseen_scores(records: Measured) -> dict[str, dict[str, tuple[int, int]]]:
    """Probe -> format -> (right, asked) of the questions that the demo model was not trained on.

    Only probes with questions of either kind are in it; for another model it is empty.
    """
    if not is_demo(records.model):
        return {}
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name in records.formats:
        run = records.of(GENERATE).get(name)
        for whole, part in zip(run.probes, unseen(run).probes, strict=True) if run is not None else ():
            if 0 < len(part.answers) < len(whole.answers):
                found.setdefault(part.name, {})[name] = (part.n_correct, len(part.answers))
    return found


def training_note(records: Measured) -> str:
    """How much of the probes the demo model was trained on; empty for any other model, or if it saw none of them."""
    run = next((records.of(GENERATE)[name] for name in records.formats if name in records.of(GENERATE)), None)
    if run is None or not is_demo(records.model):
        return ""
    parts = []
    for probe in run.probes:
        n, seen = len(probe.answers), sum(one.in_demo_training is True for one in probe.answers)
        if seen:
            parts.append(f"all {n} questions of {probe.name}" if seen == n else f"{seen} of {n} of {probe.name}")
    if not parts:
        return ""
    return (
        f"The demo model was trained on {words(parts)}, in these very words ({CARD}): there a high score shows memory,"
        " not knowledge or arithmetic. Answers that a format loses still show damage."
    )


def unseen_changes(records: Measured, name: str) -> str:
    """What a format loses of the questions that the demo model was not trained on; empty for other models."""
    base, run = (records.of(GENERATE).get(one) for one in (records.formats[0], name))
    if base is None or run is None or not training_note(records):
        return ""
    n_all, n_new = (sum(len(probe.answers) for probe in one.probes) for one in (run, unseen(run)))
    trained = f"The demo model was trained on {n_all - n_new} of these {n_all} questions ({CARD})"
    if not n_new:
        return f"{trained}, so they test its memory."
    lost, gained, _ = answer_changes(unseen(run), unseen(base), probe_names(records))
    return f"{trained}; of the other {n_new} it loses {lost} and gains {gained}."
