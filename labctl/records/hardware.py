"""The state of the machine while something is timed, and what a test asks of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What moves a timing, at one moment; empty, None or () where the system does not tell.

    Attributes:
        power: "mains" or "battery".
        governor: Linux's rule for clock speeds, with its driver.
        clock_hz: of each logical core.
        temperature_c: the hottest sensor of the processor.
        busy_cores: how many cores other programs kept busy; busiest_share: of the busiest one, 0..1.
    """

    taken_at: str
    power: str = ""
    governor: str = ""
    clock_hz: tuple[float, ...] = ()
    temperature_c: float | None = None
    busy_cores: float | None = None
    busiest_share: float | None = None
    available_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What llama-bench's tests ask of the machine with one file.

    Attributes:
        weight_bytes_per_token: weights read for one generated token.
        kv_bytes_per_token: cache read for one generated token, mean over the generation test.
        prompt_flop: floating-point operations of the prompt test.
    """

    weight_bytes_per_token: int
    kv_bytes_per_token: int
    prompt_flop: int
