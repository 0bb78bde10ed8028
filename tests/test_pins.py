"""The versions that CI installs: one for every dependency and every Python, and none with a known vulnerability."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SYSTEMS = (("linux", "Linux", "x86_64"), ("darwin", "Darwin", "arm64"), ("win32", "Windows", "AMD64"))


@pytest.fixture(scope="module")
def pins(root: Path) -> list[Requirement]:
    lines = (root / "requirements-ci.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda one: one[1])
def test_every_dependency_has_one_pin_that_suits_it(
    root: Path, pins: list[Requirement], python: str, system: tuple[str, str, str]
) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": system[0],
        "platform_system": system[1],
        "platform_machine": system[2],
        "extra": "",
    }
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    here = [one for one in pins if one.marker is None or one.marker.evaluate(environment)]
    for line in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate(environment):
            continue
        found = [one for one in here if canonicalize_name(one.name) == canonicalize_name(wanted.name)]
        assert len(found) == 1, line
        version = str(found[0].specifier).removeprefix("==")
        assert re.fullmatch(r"[\d.]+", version)
        assert wanted.specifier.contains(version), line


def test_the_pins_are_exact_and_name_no_host(root: Path, pins: list[Requirement]) -> None:
    text = (root / "requirements-ci.txt").read_text("utf-8")
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    assert all(str(one.specifier).startswith("==") and one.url is None for one in pins)


@pytest.fixture(scope="module")
def audit(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", root / ".ci/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HARMLESS = {"name": "pip", "version": "1", "vulns": []}
BAD = {"name": "x", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "description": ""}]}
UNKNOWN = {"name": "y", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ([HARMLESS], 0, "1 packages asked about, no known vulnerability"),
        ([HARMLESS, BAD, UNKNOWN], 1, "error: x 1.0: PYSEC-1, mended in 1.1"),
        ([UNKNOWN], 0, "skipped"),
        (None, 0, "skipped"),
    ],
)
def test_a_known_vulnerability_fails_and_silence_does_not(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: Any,
    status: int,
    said: str,
) -> None:
    import json

    class Done:
        stdout = "" if answer is None else json.dumps({"dependencies": answer})

    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: Done)
    assert audit.main() == status
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
