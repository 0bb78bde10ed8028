"""What messages, help and documents tell people to type is there: flags, commands, variables, settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from kit.command import ROOT

from labctl.cli.app import cli
from labctl.lab.config import FIELDS
from labctl.lab.values import OTHER_VARIABLES

OPTIONS = {
    name: {flag for one in command.get_params(click.Context(command)) for flag in (*one.opts, *one.secondary_opts)}
    | {"--help"}
    for name, command in cli.commands.items()
}
EVERY_FLAG = {"--version", *(flag for flags in OPTIONS.values() for flag in flags)}
VARIABLES = {f"LABCTL_{name.upper()}" for name in (*FIELDS, *OTHER_VARIABLES, "TEST_KILLS")}
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
HEADINGS = set(re.findall(r"^## (.+)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
# A command is said in backquotes or after a colon; "labctl measures language models" is none.
LABCTL = re.compile(
    r"(?:`|Run |(?:^|: )(?=labctl [a-z]+(?: -|[.,:;)\0]|$)))labctl ([a-z]+)((?: --?[a-z][\w-]*(?:[ =][^\s`,.;]+)?)*)"
)
# Commands of other programs: what follows is theirs.
_PROGRAMS = r"pip (install|config|download)|pip's|(llama|gguf)-[\w-]+ -|(cmake|git|apt|xcode-select|mypy|docker) "
OTHERS = re.compile(rf"{_PROGRAMS}|python -m labctl\.")


def texts_of(path: Path) -> Iterator[str]:
    """The strings of a module that can reach a person; of another file its lines."""
    if path.suffix != ".py":
        yield from path.read_text("utf-8").splitlines()
        return
    tree = ast.parse(path.read_text("utf-8"))
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            yield "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents | inside:
            yield node.value
    # The help of a command is its function's docstring.
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("command" in ast.dump(one) for one in node.decorator_list):
            yield ast.get_docstring(node) or ""


FILES = (
    *sorted((ROOT / "labctl").rglob("*.py")),
    *sorted((ROOT / "labctl").rglob("*.j2")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)


def wrong(text: str) -> list[str]:
    """What a text names and is not there."""
    found = [name for name in re.findall(r"LABCTL_[A-Z0-9_]+", text) if name not in VARIABLES and name != "LABCTL_"]
    found += [f"README, {name}" for name in re.findall(r"README, ([A-Z][\w ]*\w)", text) if name not in HEADINGS]
    for words in re.findall(r"(?:`|: |Run )make ((?:[a-z][a-z-]*[a-z] ?)+)(?=[`(.,\"]|$)", text):
        found += [f"make {word}" for word in words.split() if word not in TARGETS]
    for name, rest in LABCTL.findall(text.strip()):
        flags = re.findall(r"--[a-z][\w-]*", rest)
        found += [f"labctl {name}"] if name not in OPTIONS else []
        found += [f"labctl {name} {flag}" for flag in flags if flag not in OPTIONS.get(name, ())]
    if not OTHERS.search(text) and not re.fullmatch(r"\s*--[a-z][a-z-]*\s*", text):
        found += [flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text) if flag not in EVERY_FLAG]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_is_there(path: Path) -> None:
    assert {found: text for text in texts_of(path) for found in wrong(text)} == {}


def hints_of(path: Path) -> Iterator[str]:
    """The second argument of each LabError, and each hint by name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "LabError",
            "ChildError",
            "Check",
            "Setting",
        ):
            for one in (*node.args[1:2], *(word.value for word in node.keywords if word.arg == "hint")):
                yield from (
                    part.value
                    for part in ast.walk(one)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )


@pytest.mark.parametrize("path", sorted((ROOT / "labctl").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_that_hints_name_exist(path: Path) -> None:
    for text in hints_of(path):
        for name in re.findall(r"(?<![\w.-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?= = )", text):
            assert name in FIELDS or name.startswith(("chatbot_", "code_", "creative_", "math_")), text


def test_the_test_sees_what_it_is_for() -> None:
    for text, names in {
        "Leave out --offline.": ["--offline"],
        "Take a smaller --n-ctx.": ["--n-ctx"],
        "Run `make lab` (README, Install).": ["README, Install"],
        "Run `make labb`.": ["make labb"],
        "Measure first: labctl meassure": ["labctl meassure"],
        "For example: labctl fit --ctx 4096 --chunk 3": ["labctl fit --chunk", "--chunk"],
        "Set LABCTL_WIKITEX.": ["LABCTL_WIKITEX"],
        "Another labctl is working; run again with --wait. pip install --no-deps": [],
        "Measure first: labctl run --formats Q8_0": [],
    }.items():
        assert wrong(text) == names, text


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in cli.commands if f"`{name}`" not in readme and f"labctl {name}" not in readme] == []


def test_options_have_help() -> None:
    bare = [
        (name, param.name)
        for name, command in cli.commands.items()
        for param in command.get_params(click.Context(command))
        if isinstance(param, click.Option) and not param.help
    ]
    assert bare == []
