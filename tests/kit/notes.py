"""A display to look at."""

from __future__ import annotations

from labctl.cli.output import Display


class Notes(Display):
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)
