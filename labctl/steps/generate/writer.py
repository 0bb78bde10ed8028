"""Sample outputs for the worksheet's prompts, and answers to probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from labctl.engines.model import Request, Writer
from labctl.steps.generate.probes import ProbeQuestion, has_answer, is_correct
from labctl.steps.generate.record import GenerateTask, Generation, ProbeAnswer

OnTokens = Callable[[int], None]

ANSWER_TOKENS = 16  # the longest probe answer has eight tokens; "15 + 8 = 23." has seven


def write(writer: Writer, task: GenerateTask, on_tokens: OnTokens) -> list[Generation]:
    """The worksheet's prompts, each continued by sampling and greedily; texts of a kind side by side, or alone."""
    kinds: tuple[tuple[Literal["sampled", "greedy"], float], ...] = (("sampled", task.temperature), ("greedy", 0.0))
    wanted = [
        (number, prompt, decoding, heat) for decoding, heat in kinds for number, prompt in enumerate(task.prompts, 1)
    ]
    requests = [
        Request(prompt=prompt, n_tokens=task.n_tokens, temperature=heat, top_p=task.top_p, seed=task.seed)
        for _, prompt, _, heat in wanted
    ]
    results = writer.continued(requests, task.n_side_texts, on_tokens)
    made = [
        Generation(
            prompt_number=number,
            prompt=prompt,
            decoding=decoding,
            tokens=tuple(result.ids),
            text=result.text,
            pieces=tuple(piece.decode("utf-8", "replace") for piece in result.pieces),
            n_prompt_tokens=result.n_prompt_tokens,
        )
        for (number, prompt, decoding, _), result in zip(wanted, results, strict=True)
    ]
    return sorted(made, key=lambda one: one.prompt_number)


def answer(
    writer: Writer, questions: Sequence[ProbeQuestion], n_side: int, on_tokens: OnTokens
) -> tuple[ProbeAnswer, ...]:
    """A probe's questions answered greedily, read no further than their answers need."""

    def enough(expected: str) -> Callable[[bytes], bool]:
        return lambda text: has_answer(text.decode("utf-8", "replace"), expected)

    requests = [Request(prompt=one.prompt, n_tokens=ANSWER_TOKENS, enough=enough(one.expected)) for one in questions]
    return tuple(
        ProbeAnswer(
            prompt=question.prompt,
            expected=question.expected,
            output=result.text,
            correct=is_correct(result.text, question.expected),
            in_demo_training=question.in_demo_training,
        )
        for question, result in zip(questions, writer.continued(requests, n_side, on_tokens), strict=True)
    )
