"""How fast this machine works with a model, and so what a step will take."""

from __future__ import annotations

from dataclasses import dataclass

START_S = 0.5
"""Seconds that a child process takes before it opens a model."""

# A format beside an unquantized baseline, on processors with vector instructions for 8-bit integers: its prompts take
# about so much of the baseline's time, and so much of a token's time goes into anything but reading weights.
_PROMPT_SHARE = 0.45
_TOKEN_FLOOR = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """One model in one format on this machine; see `at` for its other formats.

    Attributes:
        bits: bits a weight takes.
        prompt_s: seconds to read one token of a long prompt.
        token_s: seconds to generate one token.
        open_s: seconds to open the file in a fresh process.
    """

    n_params: int
    bits: float
    prompt_s: float
    token_s: float
    open_s: float

    @property
    def is_float(self) -> bool:
        """Whether the weights are floating-point numbers."""
        return self.bits >= 16

    def at(self, bits: float) -> Rates:
        """About the same for another format of this model, with so many bits a weight."""
        prompt_share = _PROMPT_SHARE if self.is_float and bits < 16 else 1.0
        share = bits / self.bits
        return Rates(
            n_params=self.n_params,
            bits=bits,
            prompt_s=self.prompt_s * prompt_share,
            token_s=self.token_s * (_TOKEN_FLOOR + (1 - _TOKEN_FLOOR) * share),
            open_s=self.open_s * share,
        )

    def of(self, n_params: int) -> Rates:
        """About the same for another model of this format."""
        share = n_params / self.n_params
        return Rates(
            n_params=n_params,
            bits=self.bits,
            prompt_s=self.prompt_s * share,
            token_s=self.token_s * share,
            open_s=self.open_s * share,
        )

    def process_s(self, *, n_prompt: float = 0, n_new: float = 0) -> float:
        """Seconds of a child that opens the model, reads a prompt and generates."""
        return START_S + self.open_s + n_prompt * self.prompt_s + n_new * self.token_s
