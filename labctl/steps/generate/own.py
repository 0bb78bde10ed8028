"""The student's own prompts: as a chat where the model has a template for one, else as plain text."""

from __future__ import annotations

from typing import Literal

from labctl.engines.model import ChatTemplate, Model, Request
from labctl.errors import LabError
from labctl.lab.prompts import OwnPrompt
from labctl.steps.generate.chat import UnusableTemplateError, rendered
from labctl.steps.generate.record import GenerateTask, OwnText
from labctl.steps.generate.writer import OnTokens


def write_own(model: Model, task: GenerateTask, on_tokens: OnTokens) -> tuple[tuple[OwnText, ...], str]:
    """Each prompt answered by sampling and greedily.

    Returns: the texts, and why the model's template could not be used; empty if it could, or there is none.
    Raises:
        LabError: a prompt is longer than the model takes.
    """
    template, fault = model.chat_template(), ""
    sent = [prompt.text for prompt in task.own]
    if template is not None:
        try:
            sent = written_out(template, task.own, task.system)
        except UnusableTemplateError as error:
            template, fault = None, str(error)
    numbers = range(len(task.prompts) + 1, len(task.prompts) + 1 + len(task.own))
    n_ctx = 0
    for number, text in zip(numbers, sent, strict=True):
        n_tokens = model.n_tokens(text, special=template is not None)
        n_ctx = max(n_ctx, n_tokens + task.n_tokens)
        if n_ctx > task.n_ctx_limit:
            raise LabError(
                f"Prompt {number} of your own has {n_tokens:,} tokens; with {task.n_tokens} new ones it must fit in"
                f" {task.n_ctx_limit:,}, which the model was trained for.",
                "Shorten it, or leave it out of the file given with --prompts.",
            )
    kinds: tuple[tuple[Literal["sampled", "greedy"], float], ...] = (("sampled", task.temperature), ("greedy", 0.0))
    wanted = [
        (number, prompt, text, decoding, heat)
        for decoding, heat in kinds
        for number, prompt, text in zip(numbers, task.own, sent, strict=True)
    ]
    requests = [
        Request(
            prompt=text,
            n_tokens=task.n_tokens,
            temperature=heat,
            top_p=task.top_p,
            seed=task.seed,
            special=template is not None,
        )
        for _, _, text, _, heat in wanted
    ]
    with model.writer(
        n_ctx=-(-max(n_ctx, 512) // 256) * 256, n_threads=task.n_threads, n_side=task.n_side_texts
    ) as writer:
        results = writer.continued(requests, task.n_side_texts, on_tokens)
    made = [
        OwnText(
            prompt_number=number,
            prompt=prompt.text,
            decoding=decoding,
            tokens=tuple(result.ids),
            text=result.text,
            pieces=tuple(piece.decode("utf-8", "replace") for piece in result.pieces),
            n_prompt_tokens=result.n_prompt_tokens,
            sent=text,
            chat=template is not None,
        )
        for (number, prompt, text, decoding, _), result in zip(wanted, results, strict=True)
    ]
    return tuple(sorted(made, key=lambda one: one.prompt_number)), fault


def written_out(template: ChatTemplate, prompts: tuple[OwnPrompt, ...], system: str) -> list[str]:
    """The prompts by a model's template; `system` before those that bring no system message of their own.

    Raises:
        UnusableTemplateError: it cannot be used.
    """
    conversations = []
    for prompt in prompts:
        messages = [{"role": one.role, "content": one.content} for one in prompt.messages]
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        conversations.append(messages)
    return rendered(template.source, conversations, template.bos, template.eos)
