"""What is shown of a lab that is made for a figure of its own, and is not the lab that a person asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from labctl.lab.dialogue import Dialogue
from labctl.lab.listener import Listener


class Aside(Listener):
    """Passes on progress and errors, and nothing that is about the lab."""

    def __init__(self, display: Listener) -> None:
        self._display = display

    def stage(self, name: str) -> None:
        self._display.stage(name)

    def step(self, name: str, label: str, unit: str = "") -> None:
        self._display.step(name, label, unit)

    def progress(self, done: int, total: int, note: str, share: float) -> None:
        self._display.progress(done, total, note, share)

    def end(self) -> None:
        self._display.end()

    def error(self, message: str, hint: str = "") -> None:
        self._display.error(message, hint)

    def dialogue(self, yes: bool) -> Dialogue:
        return self._display.dialogue(yes)

    def begin(self, expected_s: Mapping[str, float], result_of: Callable[[str], str] | None = None) -> None:
        return None

    def note(self, text: str) -> None:
        return None

    def warn(self, text: str) -> None:
        return None

    def notice(self, text: str) -> None:
        return None

    def confirm(self, text: str, *, yes: bool) -> None:
        return None
