"""Strangers' names and texts, through real files: nothing leaves its folder, runs, or reaches a terminal or a page."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from kit.command import ROOT, Cli
from kit.small_gguf import TEXT, TOKENS, Small, string, texts

from labctl.records.disk import safe_name
from labctl.report.text import csv_cell

OSC = "\x1b]0;pwned\x07"
EVIL = (
    OSC,
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "| a | b |",
    "`x`",
    "](javascript:alert(3))",
    "![](http://127.0.0.1:9/pixel.png)",
    "=HYPERLINK(1)",
    "@SUM(1)",
    "</script><script>alert(4)",
    "[bold red]",
    "{{ 7*7 }}",
    "\r\n# Heading",
    "<!--",
    "\x00x",
)
TEMPLATE = (
    "{{ cycler.__init__.__globals__.os.system('touch pwned') }}"
    "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}"
)
FILE = "=cmd|calc <img src=x onerror=alert(5)> `x` ](javascript:x) \x1b]0;pwned\x07 \u202e.gguf"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Any:
    """A whole lab of a model whose every text is hostile; the folder, and what the command said."""
    folder = tmp_path_factory.mktemp("hostile") / "lab"
    folder.mkdir()
    evil = [*EVIL, *(f"\u2581{one}" for one in EVIL)]
    tokens = [*TOKENS[:259], *(evil[n] if n < len(evil) else f"t{n}" for n in range(len(TOKENS) - 259))]
    small = Small().with_keys(
        {
            "general.name": string("../../../evil" + "".join(EVIL)),
            "general.license": string("".join(EVIL)),
            "general.description": string(OSC * 100),
            "tokenizer.chat_template": string(TEMPLATE),
            "tokenizer.ggml.tokens": texts(tokens),
        }
    )
    (folder / FILE).write_bytes(small.bytes())
    name = f"text {OSC} <script>alert(6) | ` \u202e.txt"
    (folder / name).write_text(TEXT, "utf-8")
    shutil.copytree(ROOT / "lab_data/demo", folder / "lab_data/demo")
    (folder / "lab_data/probes").mkdir(parents=True)
    questions = [[one.replace("\x00", ""), "yes"] for one in EVIL]
    with (folder / "lab_data/probes/evil.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["prompt", "answer"], *questions])
    settings = 'formats = ["Q8_0"]\nchunks = 1\nctx = 64\nnew_tokens = 24\nbench_rounds = 1\nbench_max_rounds = 1\n'
    (folder / "lab.toml").write_text(settings + "threads = 1\nyes = true\nprobe_items = 40\n", "utf-8")
    done = cli("run", "--model", FILE, "--text", name, "--lab-data", "lab_data", cwd=folder)
    return folder, done


@pytest.mark.slow
def test_the_lab_of_a_hostile_model_is_made(hostile: Any) -> None:
    folder, done = hostile
    assert done.returncode == 0, done.stderr
    assert not CONTROLS.search(done.stderr + done.stdout)
    assert not (folder / "pwned").exists()  # nor has a template's loop kept anyone waiting
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["lab_data", "outputs", "reports"]
    assert not [path for path in folder.parent.iterdir() if path != folder]
    for path in [*folder.glob("outputs/**/*"), *folder.glob("reports/**/*")]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", path.name), path


def test_worksheet_and_course_files_are_plain_text(hostile: Any) -> None:
    folder, _ = hostile
    (reports,) = (folder / "reports").iterdir()
    for path in [*reports.glob("*.md"), *reports.glob("*.txt"), *reports.glob("*.csv"), *reports.glob("*.svg")]:
        data = path.read_text("utf-8")
        assert not CONTROLS.search(data), path
    sheet = (reports / "worksheet.md").read_text("utf-8")
    assert "alert" in sheet  # the model did write its tokens
    for raw in ("<script", "<img", "![](", "\n# Heading", "<!--"):
        assert raw not in sheet, raw
    assert not re.search(r"(?<!\\)\]\(javascript", sheet)
    tables = [line for line in sheet.splitlines() if line.startswith("|")]
    assert tables and all(len(re.findall(r"(?<!\\)\|", line)) >= 3 for line in tables)


def test_csv_files_hold_no_formula(hostile: Any) -> None:
    folder, _ = hostile
    (reports,) = (folder / "reports").iterdir()
    for path in reports.glob("*.csv"):
        for row in csv.reader(path.read_text("utf-8").splitlines()):
            for cell in row:
                assert cell[:1] not in ("=", "@", "\t") and not re.match(r"[+-](?![\d.])", cell), cell


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_holds_nothing_foreign_that_runs_or_loads(hostile: Any) -> None:
    folder, _ = hostile
    (page,) = (folder / "reports").glob("*/index.html")
    data = page.read_text("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069]", data)
    parsed = _Page()
    parsed.feed(data)
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert [one.get("type") for one in scripts] in (["application/json", None], [None, "application/json"])
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/", "data:,")) or not re.match(r"\s*\w+:", value), (tag, value)
        assert tag not in ("iframe", "object", "embed", "base")


def test_json_is_safe_for_a_terminal_and_says_the_same(hostile: Any, cli: Cli) -> None:
    folder, _ = hostile
    done = cli("prepare", "--model", FILE, "--text", "demo", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not CONTROLS.search(done.stdout.replace("\n", ""))
    assert json.loads(done.stdout)["model"]["spec"] == FILE


def test_logs_hold_no_control_characters(hostile: Any) -> None:
    folder, _ = hostile
    logs = list(folder.glob("outputs/*/logs/*.log"))
    assert logs
    for path in logs:
        assert "\x1b" not in path.read_text("utf-8", "replace"), path


@pytest.mark.parametrize("name", ["../../evil", "Q8_0/../../evil", "/evil", "Q8_0\x1b[31m", "..", "CON"])
def test_format_names_cannot_leave_the_folder(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    done = cli("quantize", "--text", "demo", "--formats", name, cwd=tmp_path / "in")
    assert done.returncode == 1 and done.stderr.count("error:") == 1 and not CONTROLS.search(done.stderr)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["..", "...", "-", "a/../../b", "\x00", "con\n", "\u202e", "=1+1", "~", "a" * 400])
def test_a_safe_name_is_one_plain_part(name: str) -> None:
    found = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", found) and found not in (".", "..")


@pytest.mark.parametrize("text", ["=1+1", " =1", "+1", "-1", "@x", "\uff1d1", "\t=1", "\r\n=1", "\x00=1"])
def test_a_foreign_cell_is_no_formula(text: str) -> None:
    assert csv_cell(text).startswith("'")
    assert csv_cell("F16") == "F16"
