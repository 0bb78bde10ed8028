"""Questions at a terminal."""

from __future__ import annotations

import io

import click
import pytest

from labctl.cli.output import Display
from labctl.errors import LabError


@pytest.mark.parametrize(("closed", "raised"), [(EOFError(), LabError), (KeyboardInterrupt(), click.Abort)])
def test_ctrl_d_at_a_question_is_a_no_and_ctrl_c_is_not(
    monkeypatch: pytest.MonkeyPatch, closed: BaseException, raised: type[BaseException]
) -> None:
    """On a terminal; click turns both into its Abort."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def prompt(_: str) -> str:
        raise closed

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("click.termui.visible_prompt_func", prompt)
    display = Display()
    with pytest.raises(raised):
        display.confirm("Writes 9 GB.", yes=False)
