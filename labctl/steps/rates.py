"""How fast this machine works with a model, and so what a step will take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

START_S = 0.5
"""Seconds that a child process takes before it opens a model."""

# A format beside an unquantized baseline, on processors with vector instructions for 8-bit integers: prompts take about
# so much of the baseline's time with k-quants, and with the types that stand in for them where rows do not fill their
# blocks; 8 bits take as long as 16. So much of a token's time goes into anything but reading weights.
K_QUANTS, STAND_INS = 0.45, 1.8
_TOKEN_FLOOR = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """One model in one format on this machine; see `at` for its other formats.

    Attributes:
        bits: bits a weight takes.
        prompt_s: seconds to read one token of a long prompt.
        token_s: seconds to generate one token.
        open_s: seconds to open the file in a fresh process.
        share: of formats of fewer than 8 bits, the time of a prompt beside an unquantized baseline's.
    """

    n_params: int
    bits: float
    prompt_s: float
    token_s: float
    open_s: float
    share: float = K_QUANTS

    @property
    def is_float(self) -> bool:
        """Whether the weights are floating-point numbers."""
        return self.bits >= 16

    def at(self, bits: float) -> Rates:
        """About the same for another format of this model, with so many bits a weight."""
        size = bits / self.bits
        return dataclasses.replace(
            self,
            bits=bits,
            prompt_s=self.prompt_s * (self.share if self.is_float and bits < 8 else 1.0),
            token_s=self.token_s * (_TOKEN_FLOOR + (1 - _TOKEN_FLOOR) * size),
            open_s=self.open_s * size,
        )

    def of(self, n_params: int) -> Rates:
        """About the same for another model of this format."""
        size = n_params / self.n_params
        return dataclasses.replace(
            self,
            n_params=n_params,
            prompt_s=self.prompt_s * size,
            token_s=self.token_s * size,
            open_s=self.open_s * size,
        )

    def process_s(self, *, n_prompt: float = 0, n_new: float = 0) -> float:
        """Seconds of a child that opens the model, reads a prompt and generates."""
        return START_S + self.open_s + n_prompt * self.prompt_s + n_new * self.token_s
