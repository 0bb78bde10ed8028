"""Prompts continued by llama.cpp, one alone or several side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labctl.engines.llama_cpp.binding import Context, Llama, Model
from labctl.engines.model import Continuation, IntArray, Request
from labctl.errors import LabError


def sampler_chain(llama: Llama, request: Request) -> Any:
    """llama.cpp's sampler: top-p, then temperature, then a seeded draw; temperature 0 is greedy.

    Order and minimum as in llama.cpp common/sampling.cpp; without its penalties, top-k and min-p, which the course's
    settings do not name.
    """
    binding = llama.binding
    chain = binding.llama_sampler_chain_init(binding.llama_sampler_chain_default_params())
    if request.temperature <= 0:
        binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_greedy())
        return chain
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_top_p(request.top_p, 1))
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_temp(request.temperature))
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_dist(request.seed))
    return chain


class PromptWriter:
    """Continues prompts with one model; see labctl.engines.model.Writer.

    A token of several texts at once takes little longer than one of a single text: the weights are read once for all.
    But sums then come out in another order, and where formats round what passes between layers to 8 bits, a text can
    turn elsewhere. So sample outputs are made alone, as llama-completion makes them; a score over many questions
    bears it.

    Args:
        n_ctx: tokens of one cache that texts side by side share; none may need more.
        n_side: most questions side by side; fewer where the cache holds fewer.
    """

    def __init__(self, model: Model, *, n_ctx: int, n_threads: int, n_side: int) -> None:
        self._model = model
        self._n_ctx = n_ctx
        self._context = Context(
            model, n_ctx=n_ctx, n_threads=n_threads, n_seq=n_side, shared=True, n_ubatch=512, n_outputs=n_side
        )

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> PromptWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def continued(
        self, requests: Sequence[Request], n_side: int, on_tokens: Callable[[int], None]
    ) -> list[Continuation]:
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
            results += self._continue_group(requests[begin:end], prompts[begin:end], before, on_tokens)
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
        self,
        requests: Sequence[Request],
        prompts: Sequence[IntArray],
        done_before: int,
        on_tokens: Callable[[int], None],
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
            for request in requests:
                samplers.append(sampler_chain(self._model.llama, request))
                opened.callback(self._model.llama.binding.llama_sampler_free, samplers[-1])
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
                on_tokens(done_before + asked - left)
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
