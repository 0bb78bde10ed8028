"""Sample outputs for the worksheet's prompts, and answers to probes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from labctl.engines.llama_cpp.binding import Context, IntArray, Llama, Model
from labctl.errors import LabError
from labctl.steps.generate.probes import ProbeQuestion, has_answer, is_correct
from labctl.steps.generate.record import Generation, ProbeAnswer

OnTokens = Callable[[int], None]

ANSWER_TOKENS = 16  # the longest probe answer has eight tokens; "15 + 8 = 23." has seven


def sampler_chain(llama: Llama, *, temperature: float, top_p: float, seed: int) -> Any:
    """llama.cpp's sampler: top-p, then temperature, then a seeded draw; temperature 0 is greedy.

    Order and minimum as in llama.cpp common/sampling.cpp; without its penalties, top-k and min-p, which the course's
    settings do not name.
    """
    binding = llama.binding
    chain = binding.llama_sampler_chain_init(binding.llama_sampler_chain_default_params())
    if temperature <= 0:
        binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_greedy())
        return chain
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_top_p(top_p, 1))
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_temp(temperature))
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_dist(seed))
    return chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt to continue.

    Attributes:
        n_tokens: most new tokens.
        temperature: 0 for the most likely token each time; top_p and seed then play no part.
        enough: asked with the bytes so far whether to stop.
    """

    prompt: str
    n_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    enough: Callable[[bytes], bool] | None = None


@dataclass(slots=True, kw_only=True)
class Continuation:
    """What a request gave: new token ids and the bytes of each; an end-of-text token is not among them."""

    n_prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The new tokens as text, invalid UTF-8 replaced."""
        return b"".join(self.pieces).decode("utf-8", "replace")


class Writer:
    """Continues prompts with one model: the worksheet's one by one, a probe's questions side by side.

    A token of several texts at once takes little longer than one of a single text: the weights are read once for all.
    But sums then come out in another order, and where formats round what passes between layers to 8 bits, a text can
    turn elsewhere. So sample outputs are made alone, as llama-completion makes them; a score over many questions
    bears it.

    Args:
        n_ctx: tokens of one cache that texts side by side share; none may need more.
        n_side: most questions side by side; fewer where the cache holds fewer.
    """

    def __init__(self, llama: Llama, model: Model, *, n_ctx: int, n_threads: int, n_side: int) -> None:
        self._llama = llama
        self._model = model
        self._n_ctx = n_ctx
        self._n_side = n_side
        self._context = Context(
            model, n_ctx=n_ctx, n_threads=n_threads, n_seq=n_side, shared=True, n_ubatch=512, n_outputs=n_side
        )

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def continue_all(self, requests: Sequence[Request], n_side: int, on_progress: OnTokens) -> list[Continuation]:
        """Continue every prompt.

        Args:
            n_side: most of them side by side.
            on_progress: told after each step how many of the tokens asked for are there, or no longer needed.
        Raises:
            LabError: a prompt is empty or does not fit.
        """
        prompts = [self._prompt_tokens(request) for request in requests]
        results: list[Continuation] = []
        while len(results) < len(requests):
            begin = end = len(results)
            room = self._n_ctx
            while end < len(requests) and end - begin < n_side:
                room -= len(prompts[end]) + requests[end].n_tokens
                if room < 0:
                    break
                end += 1
            before = sum(request.n_tokens for request in requests[:begin])
            results += self._continue_group(requests[begin:end], prompts[begin:end], before, on_progress)
        return results

    def _prompt_tokens(self, request: Request) -> IntArray:
        tokens = self._model.tokenize(request.prompt.encode())
        if len(tokens) == 0:
            raise LabError("A prompt has no tokens.", "Give it at least one word.")
        if len(tokens) + request.n_tokens > self._n_ctx:
            raise LabError(
                f"A prompt of {len(tokens)} tokens and {request.n_tokens} new ones do not fit in {self._n_ctx} tokens.",
                "Use a larger --ctx or a shorter prompt.",
            )
        return tokens

    def _continue_group(
        self, requests: Sequence[Request], prompts: Sequence[IntArray], done_before: int, on_progress: OnTokens
    ) -> list[Continuation]:
        results = [Continuation(n_prompt_tokens=len(prompt)) for prompt in prompts]
        lengths = [len(prompt) for prompt in prompts]
        ends = np.cumsum(lengths) - 1
        wanted = np.zeros(sum(lengths), dtype=np.bool_)
        wanted[ends] = True
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        asked = sum(request.n_tokens for request in requests)
        with contextlib.ExitStack() as opened:
            samplers = []
            for one in requests:
                samplers.append(sampler_chain(self._llama, temperature=one.temperature, top_p=one.top_p, seed=one.seed))
                opened.callback(self._llama.binding.llama_sampler_free, samplers[-1])
            self._context.clear()
            self._context.lay_out(positions, np.repeat(np.arange(len(prompts), dtype=np.int32), lengths), wanted)
            self._context.decode(np.concatenate(prompts))
            rows = [(number, int(end)) for number, end in enumerate(ends)]  # who, and at which place of the batch
            while rows:
                self._context.synchronize()
                going = [
                    number
                    for number, row in rows
                    if self._append(results[number], self._context.sample(samplers[number], row), requests[number])
                ]
                rows = [(number, row) for row, number in enumerate(going)]
                left = sum(requests[number].n_tokens - len(results[number].ids) for number in going)
                on_progress(done_before + asked - left)
                if not going:
                    break
                places = [lengths[number] + len(results[number].ids) - 1 for number in going]
                self._context.lay_out(
                    np.array(places, dtype=np.int32), np.array(going, dtype=np.int32), np.ones(len(going), np.bool_)
                )
                self._context.decode(np.array([results[number].ids[-1] for number in going], dtype=np.int32))
        return results

    def _append(self, result: Continuation, token: int, request: Request) -> bool:
        """Take a token; says whether another one is wanted."""
        if self._model.is_end(token):
            return False
        result.ids.append(token)
        result.pieces.append(self._model.piece(token))
        return len(result.ids) < request.n_tokens and not (request.enough and request.enough(b"".join(result.pieces)))

    def write(
        self, prompts: Sequence[str], *, n_tokens: int, temperature: float, top_p: float, seed: int,
        on_progress: OnTokens,
    ) -> list[Generation]:  # fmt: skip
        """The worksheet's prompts, each continued by sampling and greedily."""
        kinds: tuple[tuple[Literal["sampled", "greedy"], float], ...] = (("sampled", temperature), ("greedy", 0.0))
        wanted = [
            (number, prompt, decoding, heat) for number, prompt in enumerate(prompts, 1) for decoding, heat in kinds
        ]
        requests = [
            Request(prompt=prompt, n_tokens=n_tokens, temperature=heat, top_p=top_p, seed=seed)
            for _, prompt, _, heat in wanted
        ]
        results = self.continue_all(requests, 1, on_progress)
        return [
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

    def answer(self, questions: Sequence[ProbeQuestion], on_progress: OnTokens) -> tuple[ProbeAnswer, ...]:
        """A probe's questions answered greedily, read no further than their answers need."""

        def enough(expected: str) -> Callable[[bytes], bool]:
            return lambda text: has_answer(text.decode("utf-8", "replace"), expected)

        requests = [
            Request(prompt=one.prompt, n_tokens=ANSWER_TOKENS, enough=enough(one.expected)) for one in questions
        ]
        return tuple(
            ProbeAnswer(
                prompt=question.prompt,
                expected=question.expected,
                output=result.text,
                correct=is_correct(result.text, question.expected),
                in_demo_training=question.in_demo_training,
            )
            for question, result in zip(questions, self.continue_all(requests, self._n_side, on_progress), strict=True)
        )
