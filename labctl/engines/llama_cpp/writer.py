"""Prompts continued by llama.cpp, one alone or several side by side."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labctl.engines.llama_cpp.binding import Context, Llama, Model
from labctl.engines.model import Continuation, IntArray, Request
from labctl.engines.side_by_side import SideBySide, thread_shares
from labctl.errors import LabError

_N_CONTEXTS = 2


class _Counter:
    """Adds up what several threads have done, and tells it to one listener at a time."""

    def __init__(self, on_tokens: Callable[[int], None]) -> None:
        self._on_tokens = on_tokens
        self._lock = threading.Lock()
        self._n = 0

    def add(self, n: int) -> None:
        with self._lock:
            self._n += n
            self._on_tokens(self._n)


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

    Texts alone, and groups of texts, are written in two contexts at the same time, each with half of the threads. A
    token is too little work to be shared by many threads: they wait for each other at every matrix, and all of them for
    one that another program holds up. No text depends on it.

    Args:
        n_ctx: tokens of one cache that texts side by side share; none may need more.
        n_side: most questions side by side; fewer where the cache holds fewer.
    """

    def __init__(self, model: Model, *, n_ctx: int, n_threads: int, n_side: int) -> None:
        self._model = model
        self._n_ctx = n_ctx
        self._contexts = SideBySide(
            [
                Context(model, n_ctx=n_ctx, n_threads=share, n_seq=n_side, shared=True, n_ubatch=512, n_outputs=n_side)
                for share in thread_shares(n_threads, _N_CONTEXTS)
            ]
        )

    def close(self) -> None:
        self._contexts.close()

    def __enter__(self) -> PromptWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def continued(
        self, requests: Sequence[Request], n_side: int, on_tokens: Callable[[int], None]
    ) -> list[Continuation]:
        prompts = [self._prompt_tokens(request) for request in requests]
        results = [Continuation(n_prompt_tokens=len(prompt)) for prompt in prompts]
        counter = _Counter(on_tokens)

        def write(context: Context, group: range) -> None:
            here = slice(group.start, group.stop)
            self._continue_group(context, requests[here], prompts[here], results[here], counter)

        for _ in self._contexts.each(write, self._groups(requests, prompts, n_side)):
            pass
        return results

    def _groups(self, requests: Sequence[Request], prompts: Sequence[IntArray], n_side: int) -> list[range]:
        """Requests that are written side by side: as many as may be and fit into the cache."""
        groups = []
        end = 0
        while end < len(requests):
            begin, room = end, self._n_ctx
            while end < len(requests) and end - begin < n_side:
                room -= len(prompts[end]) + requests[end].n_tokens
                if room < 0:
                    break
                end += 1
            groups.append(range(begin, end))
        return groups

    def _prompt_tokens(self, request: Request) -> IntArray:
        tokens = self._model.tokenize(request.prompt.encode(), special=request.special)
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
        context: Context,
        requests: Sequence[Request],
        prompts: Sequence[IntArray],
        results: Sequence[Continuation],
        counter: _Counter,
    ) -> None:
        """Add to `results` what each prompt is continued with."""
        lengths = [len(prompt) for prompt in prompts]
        ends = np.cumsum(lengths) - 1
        wanted = np.zeros(sum(lengths), dtype=np.bool_)
        wanted[ends] = True
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        left = sum(request.n_tokens for request in requests)
        with contextlib.ExitStack() as opened:
            samplers = []
            for request in requests:
                samplers.append(sampler_chain(self._model.llama, request))
                opened.callback(self._model.llama.binding.llama_sampler_free, samplers[-1])
            context.clear()
            context.lay_out(positions, np.repeat(np.arange(len(prompts), dtype=np.int32), lengths), wanted)
            context.decode(np.concatenate(prompts))
            rows = [(number, int(end)) for number, end in enumerate(ends)]  # who, and at which place of the batch
            while rows:
                context.synchronize()
                going = [
                    number
                    for number, row in rows
                    if self._append(results[number], context.sample(samplers[number], row), requests[number])
                ]
                rows = [(number, row) for row, number in enumerate(going)]
                before, left = left, sum(requests[number].n_tokens - len(results[number].ids) for number in going)
                counter.add(before - left)
                if not going:
                    break
                places = [lengths[number] + len(results[number].ids) - 1 for number in going]
                context.lay_out(
                    np.array(places, dtype=np.int32), np.array(going, dtype=np.int32), np.ones(len(going), np.bool_)
                )
                context.decode(np.array([results[number].ids[-1] for number in going], dtype=np.int32))

    def _append(self, result: Continuation, token: int, request: Request) -> bool:
        """Take a token; says whether another one is wanted."""
        if self._model.is_end(token):
            return False
        result.ids.append(token)
        result.pieces.append(self._model.piece(token))
        return len(result.ids) < request.n_tokens and not (request.enough and request.enough(b"".join(result.pieces)))
