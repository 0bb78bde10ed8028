"""How many tokens a model takes, and tests that keep inside."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.errors import LabError

N_PROMPT, N_GEN = 512, 128
BATCH_PROMPT, BATCH_GEN = 128, 128

# The longest prompts of the course and of the probes have fewer bytes, and so fewer tokens; an answer has up to 16.
PROMPT_ROOM, _PROBE_ROOM = 64, 88


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a model's context goes.

    Attributes:
        n_trained: tokens it was trained for, or made fit for by scaling its positions.
        n_positions: rows of its table of learned positions, beyond which nothing can be computed; None where positions
            are computed.
    """

    n_trained: int
    n_positions: int | None = None

    @property
    def limit(self) -> int:
        """Tokens that a test may have."""
        return self.n_trained if self.n_positions is None else min(self.n_trained, self.n_positions)

    @property
    def bench(self) -> tuple[int, int]:
        """Tokens of the speed measurement's prompt and generation: llama-bench's, or as many as there may be."""
        return min(N_PROMPT, self.limit), min(N_GEN, self.limit)

    @property
    def bench_notice(self) -> str:
        """What a reader of speeds must know about their tests' lengths; empty for llama-bench's own."""
        n_prompt, n_gen = self.bench
        if (n_prompt, n_gen) == (N_PROMPT, N_GEN):
            return ""
        return (
            f"Speed is measured with {n_prompt} prompt tokens and {n_gen} generated ones (pp{n_prompt}, tg{n_gen})"
            f" instead of {N_PROMPT} and {N_GEN}, because the model was trained for {self.n_trained:,}."
        )

    @property
    def batch(self) -> tuple[int, int]:
        """Tokens of each sequence's prompt and generation where several run side by side."""
        n_prompt = min(BATCH_PROMPT, max(1, self.limit // 2))
        return n_prompt, min(BATCH_GEN, max(1, self.limit - n_prompt))

    def new_tokens(self, wanted: int) -> int:
        """Tokens of a sample text.

        Raises:
            LabError: the model has no positions for the prompts.
        """
        if self.n_positions is not None and self.n_positions < _PROBE_ROOM:
            raise LabError(
                f"Sample texts and probes need {_PROBE_ROOM} tokens, and the model has positions for"
                f" {self.n_positions}."
            )
        return max(1, min(wanted, self.limit - PROMPT_ROOM))

    def require(self, n_ctx: int) -> None:
        """Refuse a context beyond the table of positions.

        Raises:
            LabError: it is longer.
        """
        if self.n_positions is not None and n_ctx > self.n_positions:
            raise LabError(
                f"The model was trained for {self.n_positions:,} tokens and has no positions beyond them, so it cannot"
                f" read {n_ctx:,} at once.",
                f"Use --ctx {self.n_positions // 2 * 2}.",
            )

    def notices(self, n_ctx: int, new_tokens: int) -> tuple[str, ...]:
        """What every reader must know about lengths; the speed measurement's are in `bench_notice`.

        Args:
            n_ctx: tokens of a perplexity chunk, and of the context that memory is measured at.
            new_tokens: asked for a sample text.
        """
        found = []
        trained = f"the model was trained for {self.n_trained:,}"
        if n_ctx > self.limit and (self.n_positions is None or n_ctx <= self.n_positions):  # see require
            found.append(
                f"Perplexity is measured on chunks of {n_ctx:,} tokens, and {trained}: beyond them models predict"
                f" badly, whatever the format. Use --ctx {self.limit // 2 * 2}."
            )
        if self.limit - PROMPT_ROOM < new_tokens:
            found.append(f"Sample texts are shorter than {new_tokens} tokens, because {trained}.")
        return tuple(found)
