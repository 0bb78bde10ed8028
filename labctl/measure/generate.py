"""Sample outputs for the worksheet's prompts, and probes: questions with known answers."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from labctl.errors import LabError
from labctl.measure.llama import Context, Llama, Model
from labctl.records import Generation, ProbeAnswer, ProbeResult

_ANSWER_TOKENS = 16  # the longest probe answer has eight tokens; "15 + 8 = 23." has seven
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


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


class Writer:
    """Continues prompts with one model; one context serves all of them."""

    def __init__(self, llama: Llama, model: Model, *, n_ctx: int, n_threads: int) -> None:
        self._llama = llama
        self._model = model
        self._n_ctx = n_ctx
        self._context = Context(model, n_ctx=n_ctx, n_threads=n_threads, n_ubatch=512, n_outputs=1)

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def continue_prompt(
        self, prompt: str, *, n_tokens: int, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
        enough: Callable[[bytes], bool] | None = None,
    ) -> tuple[list[int], list[bytes], int, float, float]:  # fmt: skip
        """Generate up to n_tokens new tokens.

        Args:
            temperature: 0 for the most likely token each time.
            enough: asked with the bytes so far whether to stop.
        Returns: new token ids, their bytes, number of prompt tokens, seconds for the prompt, seconds for the rest.
        Raises:
            LabError: the prompt is empty or does not fit.
        """
        tokens = self._model.tokenize(prompt.encode())
        if len(tokens) == 0:
            raise LabError("A prompt has no tokens.", "Give it at least one word.")
        if len(tokens) + n_tokens > self._n_ctx:
            raise LabError(
                f"A prompt of {len(tokens)} tokens and {n_tokens} new ones do not fit in {self._n_ctx} tokens.",
                "Use a larger --ctx or a shorter prompt.",
            )
        sampler = sampler_chain(self._llama, temperature=temperature, top_p=top_p, seed=seed)
        try:
            begun = time.perf_counter()
            self._context.clear()
            self._context.prompt(tokens)
            self._context.synchronize()
            read = time.perf_counter()
            ids: list[int] = []
            pieces: list[bytes] = []
            position = len(tokens)
            while len(ids) < n_tokens:
                token = self._context.sample(sampler)
                if self._model.is_end(token):
                    break
                ids.append(token)
                pieces.append(self._model.piece(token))
                if len(ids) == n_tokens or (enough is not None and enough(b"".join(pieces))):
                    break
                self._context.decode_one(token, position)
                position += 1
            return ids, pieces, len(tokens), read - begun, time.perf_counter() - read
        finally:
            self._llama.binding.llama_sampler_free(sampler)

    def write(
        self, number: int, prompt: str, decoding: Literal["sampled", "greedy"], *, n_tokens: int, temperature: float,
        top_p: float, seed: int,
    ) -> Generation:  # fmt: skip
        """A worksheet prompt continued by sampling, or greedily (temperature, top_p and seed then play no part)."""
        ids, pieces, n_prompt, prompt_s, generation_s = self.continue_prompt(
            prompt, n_tokens=n_tokens, temperature=temperature if decoding == "sampled" else 0.0, top_p=top_p, seed=seed
        )
        return Generation(
            prompt_number=number,
            prompt=prompt,
            decoding=decoding,
            tokens=tuple(ids),
            text=b"".join(pieces).decode("utf-8", "replace"),
            pieces=tuple(piece.decode("utf-8", "replace") for piece in pieces),
            n_prompt_tokens=n_prompt,
            prompt_s=prompt_s,
            generation_s=generation_s,
        )

    def answer(self, question: ProbeQuestion) -> ProbeAnswer:
        """A probe's question answered greedily, read no further than its answer needs."""

        def enough(text: bytes) -> bool:
            return has_answer(text.decode("utf-8", "replace"), question.expected)

        _, pieces, *_ = self.continue_prompt(question.prompt, n_tokens=_ANSWER_TOKENS, enough=enough)
        output = b"".join(pieces).decode("utf-8", "replace")
        return ProbeAnswer(
            prompt=question.prompt,
            expected=question.expected,
            output=output,
            correct=is_correct(output, question.expected),
        )


class ProbeQuestion:
    """A prompt and the answer that has to follow it."""

    __slots__ = ("expected", "prompt")

    def __init__(self, prompt: str, expected: str) -> None:
        self.prompt = prompt
        self.expected = expected


def is_correct(output: str, expected: str) -> bool:
    """Whether a continuation's first line gives the expected answer.

    A word must stand at its beginning, whole. A number must be the first one in it, or, where it spells out the sum
    ("5 + 3 = 8"), the first one behind the equals sign.
    """
    line = _first_line(output)
    if _NUMBER.fullmatch(expected):
        found = _NUMBER.search(line, line.find("=") + 1)
        return found is not None and found[0] == expected
    rest = line[len(expected) :]
    return line.startswith(expected) and not rest[:1].isalnum()


def has_answer(output: str, expected: str) -> bool:
    """Whether more text could no longer change what `is_correct` says."""
    line = _first_line(output)
    if "\n" in output.lstrip():
        return True
    if not _NUMBER.fullmatch(expected):
        return len(line) > len(expected)
    found = _NUMBER.search(line, line.find("=") + 1)
    rest = line[found.end() :].lstrip() if found is not None else ""
    return rest != "" and (rest[0] not in "+-*/=x×" or "=" in line[: found.start() if found else 0])


def _first_line(output: str) -> str:
    return output.lstrip().split("\n", 1)[0]


def read_probe(path: Path) -> list[ProbeQuestion]:
    """Questions of a CSV file with the columns prompt and answer.

    Raises:
        LabError: no such columns, an empty prompt or answer, not UTF-8.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabError(f"Cannot read the probe {path.name}: {error}.", "Save it as CSV in UTF-8.") from error
    questions = [ProbeQuestion(row.get("prompt") or "", (row.get("answer") or "").strip()) for row in rows]
    if not questions or any(not question.prompt.strip() or not question.expected for question in questions):
        raise LabError(
            f"The probe {path.name} needs the columns prompt and answer, both filled in every row.",
            "Its first line must read: prompt,answer",
        )
    return questions


def evenly(questions: Sequence[ProbeQuestion], limit: int | None) -> list[ProbeQuestion]:
    """At most `limit` questions, spread evenly over the list and the same for every format."""
    if limit is None or limit >= len(questions):
        return list(questions)
    return [questions[index * len(questions) // limit] for index in range(limit)]


def run_probe(writer: Writer, name: str, questions: Sequence[ProbeQuestion]) -> ProbeResult:
    """All questions of a probe, answered and scored."""
    return ProbeResult(name=name, answers=tuple(writer.answer(question) for question in questions))
