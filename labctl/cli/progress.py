"""How long a run still takes: one estimate for all of it, that moves smoothly towards what is seen."""

from __future__ import annotations

import math
from collections.abc import Mapping

_STAGE_TRUST = 0.3
_RUN_TRUST = 0.5
"""How much of a step, and of the whole run, must be done until what is seen counts as much as what was expected."""
_CALM_S = 4.0
_CALM_SHARE = 0.05


class TimeLeft:
    """The time that a run still takes.

    What is left of the step at work is judged by this step's own pace, once there is some, and later steps by the pace
    of the run so far, which begins with what was expected. The end shown follows that slowly, so it never jumps.

    Args:
        expected_s: seconds that each step is expected to take, in the order of the work.
        now_s: time on any steady clock.
    """

    def __init__(self, expected_s: Mapping[str, float], now_s: float) -> None:
        self._expected = {name: max(seconds, 1e-3) for name, seconds in expected_s.items()}
        self._stage = ""
        self._share = 0.0
        self._begun_s = self._stage_begun_s = self._looked_s = now_s
        self._done: set[str] = set()
        self._end_s = now_s + sum(self._expected.values())

    @property
    def share(self) -> float:
        """How much of the run is done, by the time expected, 0..1."""
        return self._seen_s() / sum(self._expected.values()) if self._expected else 0.0

    def begin_stage(self, name: str, now_s: float) -> None:
        """A step begins, and the one before it is done."""
        if name == self._stage:
            return
        self.left_s(now_s)
        if self._stage:
            self._done.add(self._stage)
        self._stage, self._share, self._stage_begun_s = name, 0.0, now_s

    def advance(self, share: float, now_s: float) -> None:
        """So much of the step at work is done, 0..1; it never goes back."""
        self._share = max(self._share, min(1.0, share))
        self.left_s(now_s)

    def left_s(self, now_s: float) -> float:
        """Seconds until the end of the run, as shown."""
        raw_end_s = now_s + self._raw_left_s(now_s)
        calm_s = max(_CALM_S, _CALM_SHARE * max(0.0, min(self._end_s, raw_end_s) - now_s))
        self._end_s += (raw_end_s - self._end_s) * -math.expm1(-max(0.0, now_s - self._looked_s) / calm_s)
        self._looked_s = now_s
        return max(0.0, self._end_s - now_s)

    def _seen_s(self) -> float:
        """What was expected for all that is done."""
        done = sum(self._expected[name] for name in self._done if name in self._expected)
        return done + self._share * self._expected.get(self._stage, 0.0)

    def _raw_left_s(self, now_s: float) -> float:
        here = self._expected.get(self._stage, 0.0)
        later = sum(
            seconds for name, seconds in self._expected.items() if name != self._stage and name not in self._done
        )
        trust = _RUN_TRUST * sum(self._expected.values())
        run_pace = (trust + now_s - self._begun_s) / (trust + self._seen_s()) if trust else 1.0
        weight = _STAGE_TRUST * here
        spent_s = now_s - self._stage_begun_s
        pace = (weight * run_pace + spent_s) / (weight + self._share * here) if here else 1.0
        return (1 - self._share) * here * pace + later * run_pace


def clock_text(seconds: float) -> str:
    """0:52, 12:05, 1:02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def left_text(seconds: float) -> str:
    """About how long, in steps that such an estimate knows: about 20 s, about 4 min, about 2 h 10 min."""
    if seconds < 5:
        return "almost done"
    if seconds < 55:
        return f"about {10 * math.ceil(seconds / 10)} s left in all"
    minutes = math.ceil(seconds / 60 - 0.25)
    if minutes < 60:
        return f"about {minutes} min left in all"
    tens = 10 * round(minutes / 10)
    return f"about {tens // 60} h{f' {tens % 60} min' if tens % 60 else ''} left in all"
