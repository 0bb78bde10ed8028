"""The student's own prompts on the worksheet: each as it was typed, and what every format wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from labctl.report.text import NOT_MEASURED, quote, table
from labctl.steps.generate.record import OwnText
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrompt:
    """A prompt, and the table of its texts."""

    number: int
    prompt: str
    table: str


def own_texts(records: Measured) -> Iterator[tuple[str, OwnText]]:
    """Format and text of every own prompt, in the worksheet's order."""
    for name in records.formats:
        for text in records.of(GENERATE)[name].own if name in records.of(GENERATE) else ():
            yield name, text


def own_prompts(records: Measured) -> list[OwnPrompt]:
    """Every prompt of the student's own, in its order."""
    prompts: dict[int, str] = {}
    texts: dict[tuple[str, int, str], str] = {}
    for name, text in own_texts(records):
        prompts.setdefault(text.prompt_number, text.prompt)
        texts[name, text.prompt_number, text.decoding] = quote(text.text)
    return [
        OwnPrompt(
            number=number,
            prompt=prompt,
            table=table(
                ("Format", "Sampled", "Greedy"),
                [
                    [name, *(texts.get((name, number, way), NOT_MEASURED) for way in ("sampled", "greedy"))]
                    for name in records.formats
                ],
                left=range(3),
            ),
        )
        for number, prompt in sorted(prompts.items())
    ]


def how_given(records: Measured) -> list[str]:
    """How the model was given these prompts, in sentences."""
    found = []
    runs = [run for run in records.of(GENERATE).values() if run.own]
    if any(text.chat for run in runs for text in run.own):
        found.append("The model's own chat template was used for these prompts.")
    for fault in dict.fromkeys(run.template_fault for run in runs if run.template_fault):
        found.append(f"The model's chat template could not be used: {fault}; these prompts were given as plain text.")
    plain = [run for run in runs if not run.template_fault and not all(text.chat for text in run.own)]
    if plain:
        found.append("The model has no chat template: these prompts were given as plain text.")
    if any(run.provenance.settings.get("system") for run in runs if run in plain or run.template_fault):
        found.append("The text of --system was left out, because plain text has no place for it.")
    for system in dict.fromkeys(run.provenance.settings.get("system") for run in runs):
        if system and any(text.chat for run in runs for text in run.own):
            found.append(f"The system message before them: {quote(str(system))}.")
    return found
