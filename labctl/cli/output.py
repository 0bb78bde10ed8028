"""Everything a person sees in a terminal: one progress display and notes on stderr, data on stdout."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from labctl.cli.layout import table_lines, wrapped
from labctl.cli.progress import TimeLeft, clock_text, left_text
from labctl.errors import LabError
from labctl.records.printable import printable
from labctl.records.units import size_text, time_text

if TYPE_CHECKING:
    from labctl.lab.dialogue import Dialogue


# What JSON leaves as it is and a terminal acts on: C1 controls, marks that turn a line round; lone surrogates, too.
_UNPRINTABLE = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")


def plain(text: object) -> str:
    """Text from a file or a model without control sequences."""
    return printable(str(text), "�")


_BAR_FROM = 76  # columns; in a narrower terminal the words need the room


class _State(ProgressColumn):
    """What stands behind a bar: how far a format is; for the whole run, the time."""

    def __init__(self, left: Callable[[], TimeLeft | None]) -> None:
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        left = self._left()
        if not task.fields.get("is_whole") or left is None:
            return Text(task.fields.get("state", ""))
        return Text(f"elapsed {clock_text(task.elapsed or 0.0)}, {left_text(left.left_s(time.monotonic()))}")


class Display:
    """What a run shows: a progress display where stderr is a terminal, one line a stage elsewhere.

    Args:
        quiet: show warnings and errors only.
    Attributes:
        shown: warnings and notices said so far, so that none is said twice.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.err = Console(stderr=True, highlight=False)
        self.quiet = quiet
        self.shown: set[str] = set()
        self._progress: Progress | None = None
        self._overall: TaskID | None = None
        self._current: TaskID | None = None
        self._left: TimeLeft | None = None
        self._result_of: Callable[[str], str] | None = None
        self._stage = self._unit = ""
        self._stage_begun = 0.0
        self._stage_labels: set[str] = set()

    # -- progress --

    def begin(self, expected_s: Mapping[str, float], result_of: Callable[[str], str] | None = None) -> None:
        """Open the display for steps that are expected to take so many seconds each.

        Args:
            result_of: what a finished step found, in words.
        """
        self._result_of = result_of
        if self.quiet or not self.err.is_terminal or not any(expected_s.values()):
            return
        self._left = TimeLeft(expected_s, time.monotonic())
        bar = (BarColumn(bar_width=16),) if self.err.width >= _BAR_FROM else ()
        self._progress = Progress(
            TextColumn("{task.description}"),
            *bar,
            _State(lambda: self._left),
            console=self.err,
            transient=True,
            refresh_per_second=5,
        )
        self._overall = self._progress.add_task("[bold]whole run", total=1.0, is_whole=True)
        self._progress.start()

    def stage(self, name: str) -> None:
        """All that follows is this step's, until the next one: what it prepares before its first format, too."""
        if self._stage != name:
            self._end_stage()
            self._stage, self._stage_begun = name, time.monotonic()
            self._stage_labels.clear()
            if self._left is not None:
                self._left.begin_stage(name, time.monotonic())

    def step(self, name: str, label: str, unit: str = "") -> None:
        """A step begins with a format."""
        self.stage(name)
        self._unit = unit
        self._stage_labels.add(label)
        if self._progress is not None:
            if self._current is not None:
                self._progress.remove_task(self._current)
            self._current = self._progress.add_task(escape(plain(f"{name} {label}")), total=None, state="")

    def progress(self, done: int, total: int, note: str, share: float) -> None:
        """The current format got so far, and the whole step to that share of its work."""
        if self._progress is None or self._current is None or self._overall is None or self._left is None:
            return
        self._left.advance(share, time.monotonic())
        state = f"{self._unit} {done}/{total} {note}".strip()
        self._progress.update(self._current, completed=done, total=total, state=state)
        self._progress.update(self._overall, completed=self._left.share)

    def _end_stage(self) -> None:
        count, name = len(self._stage_labels), self._stage
        if name and count and not self.quiet and self._result_of is not None:
            formats = f"{count} format{'s' if count > 1 else ''}"
            found = self._result_of(name)
            self.note(
                f"{name}: {formats} in {time_text(time.monotonic() - self._stage_begun)}{f'. {found}' if found else ''}"
            )
        self._stage = ""
        self._stage_labels.clear()

    def end(self) -> None:
        """Close the display; safe to call twice."""
        self._end_stage()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._current = self._overall = self._left = None

    # -- questions and downloads --

    def dialogue(self, yes: bool) -> Dialogue:
        """How fetching and converting a model talks with the person; with `yes` it need not ask."""
        from labctl.lab.dialogue import Dialogue

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
        self._say(text)
        try:
            agreed = click.confirm("Go on?", err=True)
        except click.Abort as closed:
            if isinstance(closed.__context__, KeyboardInterrupt):
                raise
            agreed = False  # Ctrl-D
        if not agreed:
            raise LabError("Stopped: you did not agree.", "Nothing was changed. --yes agrees without being asked.")

    def fetching(self, name: str, done: int, total: int) -> None:
        """A download or conversion got so far, in bytes; shown on a terminal only."""
        if self.quiet or not self.err.is_terminal or total <= 0:
            return
        if self._progress is None or self._stage != name:
            self.end()
            self.begin({name: 1.0})
            self.step(name, "")
            if self._overall is not None and self._progress is not None:
                self._progress.remove_task(self._overall)  # how long a download takes, nobody knows before
        state = f"{size_text(done)} of {size_text(total)}"
        if self._progress is not None and self._current is not None:
            self._progress.update(self._current, completed=done, total=total, state=state)
        if done >= total:
            self.end()

    # -- lines --

    def note(self, text: str) -> None:
        if not self.quiet:
            self._say(text)

    def warn(self, text: str) -> None:
        self.shown.add(text.strip())
        self._say(text, "warning:", "yellow")

    def notice(self, text: str) -> None:
        """A notice that nobody can miss."""
        self.shown.add(text.strip())
        self._say(text, "notice:", "bold yellow")

    def error(self, message: str, hint: str = "") -> None:
        self._say(message, "error:", "bold red")
        if hint:
            self._say(hint, "hint:", "bold")

    def _say(self, text: str, head: str = "", style: str = "") -> None:
        """A line on stderr, wrapped at words in a terminal."""
        whole = plain(f"{head} {text}".strip())
        shown = Text("\n".join(wrapped(whole, self.err.width) if self.err.is_terminal else [whole]))
        shown.stylize(style, 0, len(head))
        self.err.print(shown, soft_wrap=True)


# -- stdout -----------------------------------------------------------------------------------------------------------


class Output:
    """What a command gives: data as JSON where it was asked for, else tables and sentences; all else goes to stderr.

    Attributes:
        display: progress and notes on stderr; beside JSON nothing but warnings and errors.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.display = Display(quiet=quiet or as_json)

    def data(self, value: object) -> None:
        """Records or plain values, for programs: only with --json."""
        if self.as_json:
            plain = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
            text = json.dumps(msgspec.to_builtins(value, enc_hook=str), indent=2, ensure_ascii=plain)
            sys.stdout.write(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", *, keys: int = 1
    ) -> None:
        """A table fitted to the terminal; in colour there, unless NO_COLOR is set. Not with --json.

        Args:
            keys: how many columns at the left name a row.
        """
        if self.as_json:
            return
        out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
        self.text(title, style="bold")
        for line in table_lines(columns, [[plain(cell) for cell in row] for row in rows], out.width, keys):
            out.print(Text.assemble(*line), soft_wrap=True)
        if caption:
            self.text(caption)

    def text(self, text: str, style: str = "") -> None:
        """A sentence for a person: wrapped at words in a terminal, one line elsewhere. Not with --json."""
        if self.as_json:
            return
        out = Console(highlight=False)
        lines = text.split("\n")
        if sys.stdout.isatty():
            lines = [part for line in lines for part in wrapped(plain(line), out.width)]
        for line in lines:
            out.print(Text(plain(line), style=style), soft_wrap=True)

    def line(self, text: str) -> None:
        """A line of data: as it is for a program, without control characters for a person. Not with --json."""
        if not self.as_json:
            line = plain(text) if sys.stdout.isatty() else text
            sys.stdout.write(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") + "\n")
