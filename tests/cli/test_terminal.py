"""What a terminal of 80 and of 60 columns shows: every figure, name and word whole, verdicts in colour."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labctl.cli.layout import table_lines, text_width, wrapped

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are POSIX", allow_module_level=True)

import fcntl
import pty
import struct
import termios

Shown = Callable[..., str]
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def without_codes(text: str) -> str:
    return _CODES.sub("", text).replace("\r", "")


@pytest.fixture(scope="module")
def screen(cli: Any) -> Shown:
    """Run labctl in a terminal of so many columns: screen(columns, arguments, cwd=...) -> what it showed."""

    def run(columns: int, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {"TERM": "xterm", "COLUMNS": str(columns), **(env or {})}
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        with cli.start(*arguments, cwd=cwd, env=environment, **streams) as process:
            os.close(theirs)
            data = b""
            while True:
                try:
                    part = os.read(ours, 65_536)
                except OSError:  # the last one has closed it
                    break
                if not part:
                    break
                data += part
            process.wait(timeout=240)
        os.close(ours)
        return data.decode("utf-8", "replace")

    return run


def figures(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.+-])[+-]?\d[\d,.]*\d(?![\w.])", text))


COMMANDS = (["models"], ["prepare"], ["score"], ["fit", "--ram", "8"], ["doctor", "--no-hub"], ["run", "--dry-run"])


TITLES_LEFT_OUT = {"check", "what", "to", "do"}
"""doctor's: a block has none for what names it, and none for a column that is empty where all is well."""


@pytest.mark.parametrize("columns", [80, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("arguments", [*COMMANDS, ["compare", "outputs/labllama-15m", "outputs/labllama-15m"]], ids=str)
def test_no_figure_name_or_word_is_broken(
    screen: Shown, cli: Any, lab_copy: Path, columns: int, arguments: list[str]
) -> None:
    wide = cli(*arguments, cwd=lab_copy).stdout
    shown = without_codes(screen(columns, *arguments, cwd=lab_copy))
    volatile = re.compile(r"[\d,.:/]+|GHz|MB|GB|s|min|h|cores?|free|busy|\(.*")  # what doctor finds changes meanwhile
    words = {word for word in wide.split() if not re.fullmatch(r"-+", word)} - TITLES_LEFT_OUT
    missing = {word for word in words - set(shown.split()) if not (arguments[0] == "doctor" and volatile.match(word))}
    assert not missing
    for line in shown.splitlines():
        assert text_width(line) <= columns or " " not in line.strip().partition("  ")[2].strip(), line


@pytest.mark.parametrize("columns", [80, pytest.param(60, marks=pytest.mark.slow)])
def test_the_result_of_a_run_has_every_figure_whole(screen: Shown, lab_copy: Path, columns: int) -> None:
    shown = without_codes(screen(columns, "memory", "--force", cwd=lab_copy))
    table = shown[shown.index("format ") :]
    for name in ("F16", "Q8_0", "Q4_K_M"):
        assert re.search(rf"^{name} .*\d", table, re.MULTILINE)
    assert len(re.findall(r"\b\d+\.\d{4}\b", table)) >= 3  # perplexities, with all their digits
    assert all(text_width(line) <= columns for line in table.splitlines() if not line.startswith(("Page", "Worksheet")))


def test_verdicts_are_coloured_unless_no_colour_is_wanted(screen: Shown, lab_copy: Path) -> None:
    assert re.search(r"\x1b\[32m *fits", screen(80, "fit", "--ram", "8", cwd=lab_copy))
    plain = screen(80, "fit", "--ram", "8", cwd=lab_copy, env={"NO_COLOR": "1"})
    assert "fits" in plain and not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain)


def test_warnings_wrap_at_words(screen: Shown, lab_copy: Path) -> None:
    shown = without_codes(screen(60, "run", "--model", "there-is-no-such-model-as-this-one.gguf", cwd=lab_copy))
    assert "there-is-no-such-model-as-this-one.gguf" in shown
    assert all(text_width(line) <= 60 for line in shown.splitlines())


# -- help -------------------------------------------------------------------------------------------------------------


def test_help_groups_the_commands_and_cuts_no_description(screen: Shown, tmp_path: Path) -> None:
    from labctl.cli.app import cli as group
    from labctl.cli.options import SECTIONS

    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(group.commands)
    shown = without_codes(screen(80, "--help", cwd=tmp_path))
    assert "..." not in shown.replace("[ARGS]...", "")
    for title in SECTIONS:
        assert f"{title}:" in shown
    for name, command in group.commands.items():
        line = next(line for line in shown.splitlines() if re.match(rf"  {name}\s", line))
        assert command.get_short_help_str(1000) in line
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize("columns", [80, pytest.param(60, marks=pytest.mark.slow)])
def test_help_of_every_command_breaks_no_word(screen: Shown, tmp_path: Path, columns: int) -> None:
    from labctl.cli.app import cli as group

    for name, command in group.commands.items():
        shown = re.sub(r"-\n +", "-", without_codes(screen(columns, name, "--help", cwd=tmp_path))).split()
        for option in command.get_params(click.Context(command)):
            told = option.help.split() if isinstance(option, click.Option) and option.help else []
            assert not [word for word in told if word not in shown], (name, option.name)


# -- the layout itself ------------------------------------------------------------------------------------------------

CELL = st.one_of(
    st.from_regex(r"[+-]?[0-9]{1,3}(,[0-9]{3})?\.[0-9]{1,4}( MB| GB| %)?", fullmatch=True),
    st.sampled_from(["Q4_K_M", "-", "", "fits", "does not fit", "模型名稱", "a sentence of words, and long"]),
)


@given(
    rows=st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=6)),
    width=st.integers(30, 160),
    keys=st.integers(1, 3),
)
@example(rows=[["0.0", "0,000.0 MB", "Q4_K_M"]], width=30, keys=3)
def test_any_table_keeps_its_words_whole_and_within_the_width(rows: list[list[str]], width: int, keys: int) -> None:
    titles = [f"column {n}" for n in range(len(rows[0]))]
    lines = ["".join(text for text, _ in line) for line in table_lines(titles, rows, width, keys)]
    shown = [word for line in lines for word in line.split()]
    wanted = [word for row in rows for cell in row for word in cell.split() if cell != "-"]
    assert not [word for word in wanted if word not in shown]
    for cell in (cell for row in rows for cell in row if 0 < text_width(cell) <= 20 and cell != "-"):
        assert any(cell in line for line in lines), cell
    names = [text_width(" ".join(row[:keys])) for row in rows]
    assert all(text_width(line) <= max(width, *names) for line in lines)


def test_words_that_are_too_long_stand_alone() -> None:
    assert wrapped("see https://example.org/a/very/long/address now", 12) == [
        "see",
        "https://example.org/a/very/long/address",
        "now",
    ]
    assert wrapped("a\n\nb", 12) == ["a", "", "b"]
