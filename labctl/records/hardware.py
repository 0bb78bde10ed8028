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
class Disturbance:
    """What else went on while something was timed; None where the system does not tell.

    Attributes:
        lost_s: seconds that its threads had to wait for a core, all threads together, by the best that the system
            tells: `waited_s` and `stolen_s`, or else what other programs took beyond the cores that were left to them.
        waited_s: seconds that its threads were ready to run and had no core (Linux).
        stolen_s: seconds that the machine under a virtual one gave its cores to others; told in steps of 10 ms.
        others_s: processor time of other programs, all cores together.
        n_preempted: how often its threads were taken off a core.
        n_throttled: how often the processor slowed itself down, being hot.
        clock_hz: mean clock of the cores at its end.
    """

    lost_s: float
    waited_s: float | None = None
    stolen_s: float | None = None
    others_s: float | None = None
    n_preempted: int | None = None
    n_throttled: int | None = None
    clock_hz: float | None = None


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
