"""Everything a person sees in a terminal: one progress display and notes on stderr, data on stdout."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from labctl.errors import LabError

if TYPE_CHECKING:
    from labctl.prepare.dialogue import Dialogue


# What JSON leaves as it is and a terminal acts on: C1 controls, marks that turn a line round; lone surrogates, too.
_UNPRINTABLE = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")


def printable(text: object) -> str:
    """Text from a file or a model without control sequences, and with rich's markup made harmless."""
    return escape("".join(c if c.isprintable() or c == " " else "�" for c in str(text)))


def size_text(size_bytes: float) -> str:
    """Bytes in people's units, powers of ten: 30.7 MB, 14.0 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return (
                f"{size_bytes / factor:.3g} {unit}"
                if size_bytes < 999.5 * factor
                else f"{size_bytes / factor:.0f} {unit}"
            )
    return f"{size_bytes:.0f} bytes"


def time_text(seconds: float) -> str:
    """Seconds in people's units: 0.4 s, 48 s, 6 min 40 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole % 3600 >= 60 else f"{whole // 3600} h"


class Display:
    """What a run shows: a progress display where stderr is a terminal, one line a stage elsewhere.

    Args:
        quiet: show warnings and errors only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.err = Console(stderr=True, highlight=False)
        self.quiet = quiet
        self._progress: Progress | None = None
        self._overall: TaskID | None = None
        self._current: TaskID | None = None
        self._stage = ""
        self._stage_begun = 0.0
        self._stage_labels: set[str] = set()

    # -- progress --

    def begin(self, cost: float) -> None:
        """Open the display for steps that cost so much in all (any unit)."""
        if self.quiet or not self.err.is_terminal or cost <= 0:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.err,
            transient=True,
            refresh_per_second=5,
        )
        self._overall = self._progress.add_task("[bold]whole run", total=cost, state="")
        self._progress.start()

    def stage(self, name: str) -> None:
        """All that follows is this step's, until the next one: what it prepares before its first format, too."""
        if self._stage != name:
            self._end_stage()
            self._stage, self._stage_begun = name, time.monotonic()
            self._stage_labels.clear()

    def step(self, name: str, label: str) -> None:
        """A step begins with a format."""
        self.stage(name)
        self._stage_labels.add(label)
        if self._progress is not None:
            if self._current is not None:
                self._progress.remove_task(self._current)
            self._current = self._progress.add_task(printable(f"{name} {label}"), total=None, state="")

    def progress(self, done: int, total: int, note: str, cost_done: float) -> None:
        """The current step got so far; `cost_done` is all that is done of the run's cost."""
        if self._progress is None or self._current is None or self._overall is None:
            return
        unit = {"perplexity": "chunk", "quantize": "tensor", "bench": "visit", "generate": "item"}.get(self._stage, "")
        state = f"{unit} {done}/{total} {note}".strip()
        self._progress.update(self._current, completed=done, total=total, state=state)
        self._progress.update(self._overall, completed=cost_done)

    def _end_stage(self) -> None:
        count = len(self._stage_labels)
        if self._stage and count and not self.quiet and not self.err.is_terminal:
            formats = f"{count} format{'s' if count > 1 else ''}"
            self.err.print(f"{self._stage}: {formats} in {time_text(time.monotonic() - self._stage_begun)}")
        self._stage = ""
        self._stage_labels.clear()

    def end(self) -> None:
        """Close the display; safe to call twice."""
        self._end_stage()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._current = self._overall = None

    # -- questions and downloads --

    def dialogue(self, yes: bool) -> Dialogue:
        """How fetching and converting a model talks with the person; with `yes` it need not ask."""
        from labctl.prepare.dialogue import Dialogue

        return Dialogue(ask=lambda text: self.confirm(text, yes=yes), say=self.note, progress=self.fetching)

    def confirm(self, text: str, *, yes: bool) -> None:
        """Go on only if the person agrees to what the text says will be done.

        Raises:
            LabError: refused, or nobody is at a terminal to ask.
        """
        self.end()
        if yes:
            self.note(text)
            return
        if not (sys.stdin.isatty() and self.err.is_terminal):
            raise LabError(text, "Add --yes to agree.")
        self.err.print(printable(text), soft_wrap=True)
        self.err.print("[bold]Go on?[/] \\[y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise LabError("Stopped: you did not agree.", "Nothing was changed. --yes agrees without being asked.")

    def fetching(self, name: str, done: int, total: int) -> None:
        """A download or conversion got so far, in bytes; shown on a terminal only."""
        if self.quiet or not self.err.is_terminal or total <= 0:
            return
        if self._progress is None or self._stage != name:
            self.end()
            self.begin(total)
            self.step(name, "")
        self.progress(done, total, "", done)
        if done >= total:
            self.end()

    # -- lines --

    def note(self, text: str) -> None:
        if not self.quiet:
            self.err.print(printable(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.err.print(f"[yellow]warning:[/] {printable(text)}", soft_wrap=True)

    def notice(self, text: str) -> None:
        """A notice that nobody can miss."""
        from rich.panel import Panel

        self.err.print(Panel(printable(text), title="notice", border_style="bold yellow"))

    def error(self, message: str, hint: str = "") -> None:
        self.err.print(f"[bold red]error:[/] {printable(message)}", soft_wrap=True)
        if hint:
            self.err.print(f"[bold]hint:[/] {printable(hint)}", soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
    """A table on stdout; in colour on a terminal, unless NO_COLOR is set."""
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    out.print(f"[bold]{printable(title)}[/]", soft_wrap=True)
    table = Table()
    for number, column in enumerate(columns):
        cells = [str(row[number]) for row in rows]
        is_figure = all(cell[:1].isdigit() or cell[:1] in ("+", "-", "") for cell in cells)
        table.add_column(column, justify="right" if is_figure and number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    out.print(table)
    if caption:
        out.print("\n".join(printable(line) for line in caption.split("\n")), soft_wrap=True)


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Data for programs, on stdout."""
    plain = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
    text = json.dumps(data, indent=2, ensure_ascii=plain, default=str)
    sys.stdout.write(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def print_line(text: str) -> None:
    """A line of data on stdout: as it is for a program, without control characters for a person."""
    line = "".join(c if c.isprintable() else "�" for c in text) if sys.stdout.isatty() else text
    sys.stdout.write(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") + "\n")
