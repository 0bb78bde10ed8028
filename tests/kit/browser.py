"""The page of an invented lab in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.lab_factory import MACHINE, make_lab, text_source
from labctl.report import worksheet
from labctl.report.build import ReportOptions, build
from labctl.report.figures import figures_of
from labctl.report.page.render import render_page
from labctl.report.sheet import Sheet
from labctl.steps.measured import Measured

SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def write_page(lab: Measured, folder: Path) -> Path:
    """The page without the time that drawing the charts takes."""
    options = ReportOptions(machine=MACHINE)
    rows = figures_of(lab, options.limit)
    sheet = Sheet(records=lab, figures=rows, weights=options.weights, limit=options.limit, machine=MACHINE)
    html = render_page(
        lab,
        rows,
        worksheet=worksheet.render_worksheet(sheet),
        recommendation=worksheet.render_recommendation(sheet),
        charts={},
        pick=sheet.production,
        own_choice="",
        weights=options.weights,
        limit=options.limit,
    )
    path = folder / "index.html"
    path.write_text(html, "utf-8", newline="")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    path = os.environ.get("LABCTL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("There is no Chromium: install it (apt-get install chromium), or set LABCTL_CHROMIUM to one")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=SWITCHES)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_lab(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    made = make_lab(tmp_path_factory.mktemp("lab"))
    notice = "Measured on the demo text, not on WikiText-2: the figures compare formats, not models."
    drift = "This machine's speed drifted while it was measured: F16 generation differed by 14 % between rounds."
    return replace(made, text=text_source("demo", notice), warnings=(drift,))


@pytest.fixture(scope="module")
def page_path(page_lab: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    (folder / "answers.toml").write_text(
        'Q10 = "Mine. ![x](http://127.0.0.1:9/x.png) <img src=y onerror=z> [l](javascript:alert(1))"\n', "utf-8"
    )
    build(page_lab, folder, ReportOptions(machine=MACHINE))
    return folder / "index.html"


class Seen:
    """What a page complained about or asked for, beside its own file."""

    def __init__(self, page: Any) -> None:
        self.found: list[str] = []
        page.on("console", lambda message: self.found.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("request", self._request)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.found.append(f"request: {request.url}")


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; at the end of the test the page must not have complained or asked for anything."""
    contexts, seen = [], []

    def opened(path: Path, **options: Any) -> Any:
        context = browser.new_context(**options)
        page = context.new_page()
        contexts.append(context)
        seen.append(Seen(page))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [one.found for one in seen] == [[] for _ in seen]


def set_slider(page: Any, name: str, value: int) -> None:
    page.eval_on_selector(f"#{name}", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value)


def ranking(page: Any) -> list[tuple[str, float, float]]:
    rows = page.eval_on_selector_all(
        "#ranking tr", "rows => rows.map(r => [r.dataset.ranked, r.dataset.total, r.dataset.other])"
    )
    return [(name, float(total), float(other)) for name, total, other in rows]


def places(page: Any) -> dict[str, str]:
    return dict(page.eval_on_selector_all("#ranking tr", "rows => rows.map(r => [r.dataset.ranked, r.dataset.rank])"))
