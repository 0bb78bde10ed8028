"""Who listens to a lab at work: told what happens and how far it is; a terminal, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from labctl.lab.dialogue import Dialogue


class Listener(Protocol):
    """What a lab at work says; `cli.output.Display` shows it to a person."""

    def begin(self, expected_s: Mapping[str, float], result_of: Callable[[str], str] | None = None) -> None:
        """Steps that will take about so many seconds each are about to begin; `result_of` a step is told at its end."""

    def stage(self, name: str) -> None:
        """All that follows is this step's, until the next one."""

    def step(self, name: str, label: str, unit: str = "") -> None:
        """A step begins with a format; `unit` is what its progress counts."""

    def progress(self, done: int, total: int, note: str, share: float) -> None:
        """The current step got so far; `share` is how much of the step is done, 0 to 1."""

    def end(self) -> None:
        """Nothing more comes; safe to call twice."""

    def note(self, text: str) -> None:
        """A line worth reading."""

    def warn(self, text: str) -> None:
        """A line that limits what the figures say."""

    def notice(self, text: str) -> None:
        """A line that nobody may miss."""

    def error(self, message: str, hint: str = "") -> None:
        """A step failed; the rest goes on."""

    def confirm(self, text: str, *, yes: bool) -> None:
        """Ask whether to go on. Raises LabError if the person does not agree, or nobody is there."""

    def dialogue(self, yes: bool) -> Dialogue:
        """How fetching and converting a model talks with the person."""
