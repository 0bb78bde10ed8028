"""What the harness shows on the terminal: one line a process, with its time, and how far the whole is."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Screen:
    """Progress on stderr. Drawn twice a second at most, and never from a thread: a timed process needs the cores."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            auto_refresh=False,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._done = 0
        self._total = 0
        self._drawn = 0.0

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._progress.stop()

    def section(self, title: str, n_steps: int) -> None:
        """Begin a comparison of so many processes."""
        self._clear()
        self.console.print(f"[bold]{title}[/bold] ({n_steps} processes)")
        self._title, self._done, self._total = title, 0, n_steps
        self._task = self._progress.add_task(title, total=n_steps, note="")

    def step(self, what: str, seconds: float, note: str = "") -> None:
        """A process has ended."""
        self._done += 1
        place = f"{self._done}/{self._total}" if self._total else str(self._done)
        self.console.print(f"  {place:>8}  {what}: {seconds:.2f} s{'  ' + note if note else ''}", markup=False)
        if self._task is not None:
            self._progress.update(self._task, completed=self._done, note="", refresh=True)

    def due(self) -> bool:
        """Whether it is time to draw again; on something that is no terminal, never."""
        return self.console.is_terminal and time.monotonic() - self._drawn >= 0.5

    def tick(self, what: str, share: float | None = None) -> None:
        """A process is at work."""
        if self._task is None:
            return
        self._drawn = time.monotonic()
        percent = "" if share is None else f" {100 * share:.0f} %"
        self._progress.update(self._task, completed=self._done + (share or 0.0), note=f"{what}{percent}", refresh=True)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def _clear(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
