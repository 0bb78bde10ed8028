"""The page is used as people use it: votes, keyboard, paper, a phone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.lab_factory import FORMATS


@pytest.mark.slow
def test_votes_are_counted_kept_exported_and_imported(
    page_path: Path, tmp_path: Path, visit: Callable[..., Any]
) -> None:
    page = visit(page_path)
    counts = {name: [0, 0, 0] for name in FORMATS}
    for pick in ("left", "right", "equal", "left", "equal", "right", "left"):
        page.click(f"#pick-{pick}")
        left, right = re.findall(r"was (\S+?)[,.]", page.text_content("#vote-note"))
        for name, side in ((left, "left"), (right, "right")):
            counts[name][1 if pick == "equal" else 0 if pick == side else 2] += 1

    def tally(of: Any) -> dict[str, list[int]]:
        rows = of.eval_on_selector_all(
            "#tally tr", "rows => rows.map(r => [r.dataset.tally, r.dataset.won, r.dataset.equal, r.dataset.lost])"
        )
        return {name: [int(value) for value in values] for name, *values in rows}

    assert tally(page) == counts
    page.reload()
    assert tally(page) == counts and page.text_content("#vote-count") == "7 votes"
    with page.expect_download() as download:
        page.click("#export")
    votes = tmp_path / "votes.json"
    download.value.save_as(votes)
    content = json.loads(votes.read_text("utf-8"))
    assert len(content["votes"]) == 7

    expect = pytest.importorskip("playwright.sync_api").expect
    other = visit(page_path)
    assert tally(other) == {name: [0, 0, 0] for name in FORMATS}
    other.set_input_files("#import", votes)
    expect(other.locator("#vote-count")).to_have_text("7 votes")
    assert tally(other) == counts
    other.set_input_files("#import", votes)
    expect(other.locator("#vote-note")).to_contain_text("0 votes added, 7 left out")
    bad = {**content["votes"][0], "id": "new-1", "left": "<b>"}
    good = {**content["votes"][0], "id": "new-2"}
    for text, words in (
        (json.dumps({**content, "votes": [bad, good, 3, None]}), "1 vote added, 3 left out"),
        (json.dumps({**content, "outputs": "0"}), "about other texts"),
        ("null", "holds no votes"),
        ("{", "not JSON"),
    ):
        votes.write_text(text, "utf-8")
        other.set_input_files("#import", votes)
        expect(other.locator("#vote-note")).to_contain_text(words)
    assert other.text_content("#vote-count") == "8 votes"
    other.click("#undo")
    assert tally(other) == counts


def test_the_keyboard_reaches_everything(page_path: Path, visit: Callable[..., Any]) -> None:
    page = visit(page_path)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    wanted = ["show-Q8_0", "weight-size", "weight-quality", "weight-speed", "ram", "context", "prompt", "pick-left"]
    assert [name for name in reached if name in wanted] == wanted
    page.focus("#weight-size")
    before = page.text_content("#share-size")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#share-size") != before
    assert page.get_attribute("#weight-size", "aria-valuetext") == "50, 42 % of the whole"
    page.focus("#pick-equal")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.text_content("#vote-count") == "2 votes"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, a, img, [role=img], [role=region]")]
        .filter((e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label") || e.alt))
        .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_the_recommendation_prints_on_one_page(page_path: Path, visit: Callable[..., Any], paper: str) -> None:
    page = visit(page_path, color_scheme="dark")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format=paper))) == 1
    page.emulate_media(media="print")
    assert page.is_visible("#recommendation table") and not page.is_visible("#worksheet")
    assert not page.is_visible("nav") and not page.is_visible("#explore")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction(page_path: Path, visit: Callable[..., Any], scheme: str) -> None:
    page = visit(page_path, viewport={"width": 340, "height": 700}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 340
    # Text on its ground: the contrast that WCAG asks of normal text is 4.5.
    contrast = page.evaluate(
        """() => {
          const light = (css) => { const [r, g, b] = css.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(c)) return c; } return "rgb(255,255,255)"; };
          return Math.min(...[...document.querySelectorAll("p, td, th, button, a, .pill, .muted, mark, h2, label")]
            .filter((e) => e.offsetParent && !e.disabled).map((e) => {
              const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
              return (a + 0.05) / (b + 0.05); }));
        }"""
    )
    assert contrast >= 4.5
