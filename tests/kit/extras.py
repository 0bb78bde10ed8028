"""What only tests need, and .ci/extras.py sets up."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from kit.command import ROOT

EXTRAS = ROOT / ".venv" / "extras"
"""Where .ci/extras.py puts what only tests need."""


def extra(variable: str, pattern: str) -> str:
    """A path that a variable names, or the newest one in EXTRAS; empty if there is none."""
    found = sorted(EXTRAS.glob(pattern), key=lambda path: path.stat().st_mtime)
    return os.environ.get(variable) or (str(found[-1]) if found else "")


def skip_without(what: str) -> NoReturn:
    pytest.skip(f"needs {what}: make test-all sets it up")
