"""The page in a real browser: sliders, switches, votes, print, phone, and what a hostile model writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.browser import places, ranking, set_slider, write_page
from kit.lab_factory import FORMATS, empty_lab, make_lab, speed_run, text_source

from labctl.records.files import TensorFallback
from labctl.report.board import boards
from labctl.report.figures import figures_of
from labctl.report.fit import fit_table
from labctl.report.order import Orders
from labctl.report.page.data import as_json
from labctl.report.page.markup import to_html
from labctl.report.questions import QUESTIONS
from labctl.report.text import words as in_words
from labctl.report.tradeoffs import place as in_place
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.quantize.step import QUANTIZE

NASTY = (
    "</script><script>window.bad=1</script><img src=x onerror='window.bad=2'>\u2028*x* ![i](http://127.0.0.1:9/i.png)"
)
NASTY_NAME = "m<script>window.bad=3</script>"


def test_speeds_of_one_round_make_no_first_place(tmp_path: Path, visit: Callable[..., Any]) -> None:
    lab = make_lab(tmp_path)
    for seed, name in enumerate(FORMATS):
        lab.of(BENCH)[name] = speed_run(name, 9000, 1000 * (seed + 1), seed, rounds=1)
    page = visit(write_page(lab, tmp_path))
    assert "not settled: " in page.text_content("#winners") and "wins" not in page.text_content("#winners")
    assert set(places(page).values()) == {"1 to 7"}
    assert "(no interval) times F16" in page.inner_text(".tiles")
    assert page.locator("#ranking tr[data-first]").count() == 7
    for name, value in (("size", 100), ("quality", 0), ("speed", 0)):
        set_slider(page, f"weight-{name}", value)
    assert places(page)["Q3_K_M"] == "1" and page.text_content("#winner-literal") == "Q3_K_M"


def test_sliders_rank_as_scoring_does(page_lab: Measured, page_path: Path, visit: Callable[..., Any]) -> None:
    page = visit(page_path)
    rows = figures_of(page_lab)
    seen = set()
    for sliders in (
        (30, 40, 30),
        (20, 30, 50),
        (100, 0, 0),
        (0, 100, 0),
        (0, 0, 100),
        (7, 91, 2),
        (1, 1, 1),
        (33, 66, 5),
    ):
        for name, value in zip(("size", "quality", "speed"), sliders, strict=True):
            set_slider(page, f"weight-{name}", value)
        total = sum(sliders)
        weights = (sliders[0] / total, sliders[1] / total, sliders[2] / total)
        found = boards(rows, Orders(page_lab, rows), weights)
        for board in found.both:
            assert page.text_content(f"#winner-{board.name}") == in_words(board.order().first, "or")
        expected = {
            one.format: (one.total, two.total)
            for one, two in zip(found.literal.scores, found.normalised.scores, strict=True)
        }
        shown = ranking(page)
        assert {name: (one, two) for name, one, two in shown} == expected  # to the last digit
        assert tuple(name for name, _, _ in shown) == found.literal.order().names
        assert places(page) == {name: in_place(ends) for name, ends in found.literal.order().ranks.items()}
        seen.add(found.literal.order().first)
    assert len(seen) >= 3
    page.check("#score-normalised")
    assert tuple(name for name, _, _ in ranking(page)) == found.normalised.order().names
    assert places(page) == {name: in_place(ends) for name, ends in found.normalised.order().ranks.items()}
    shares = found.normalised.map(50)
    for name, share in shares.shares.items():
        text = f"{name} {100 * share:.0f} % (settled {100 * shares.settled_shares[name]:.0f} %)"
        assert text in page.get_attribute("#triangle", "aria-label")
    for name in ("size", "quality", "speed"):
        set_slider(page, f"weight-{name}", 0)
    assert "All weights are zero" in page.text_content("#winners")


def test_switched_off_formats_leave_score_and_tables(
    page_lab: Measured, page_path: Path, visit: Callable[..., Any]
) -> None:
    page = visit(page_path)
    page.uncheck("#show-Q4_K_S")
    page.uncheck("#show-Q3_K_M")
    assert page.is_disabled("#show-F16")
    weights = (0.3, 0.4, 0.3)
    rows = {name: row for name, row in figures_of(page_lab).items() if name not in ("Q4_K_S", "Q3_K_M")}
    left = boards(rows, Orders(page_lab, rows), weights).normalised
    assert {name: other for name, _, other in ranking(page)} == {
        one.format: pytest.approx(one.total, abs=1e-12) for one in left.scores
    }
    assert page.locator("#worksheet tr[data-format=Q4_K_S]:visible").count() == 0
    assert page.locator("#worksheet tr[data-format=Q4_K_M]:visible").count() > 5
    assert page.locator("#texts article").count() == 5
    assert "Q3_K_M" not in page.get_attribute("#chart", "aria-label")
    page.check("#show-Q4_K_S")
    assert page.locator("#worksheet tr[data-format=Q4_K_S]:visible").count() > 5


def test_a_switched_off_format_is_announced_where_it_stays(page_path: Path, visit: Callable[..., Any]) -> None:
    page = visit(page_path)
    notes = page.locator(".switched-off")
    assert notes.count() == 3 and not any(note.is_visible() for note in notes.all())
    page.uncheck("#show-Q6_K")
    for note in notes.all():  # header, recommendation, worksheet
        assert note.is_visible() and note.inner_text().startswith("Q6_K is switched off")
    page.emulate_media(media="print")
    assert page.is_visible("#recommendation .switched-off")
    page.emulate_media(media="screen")
    page.check("#show-Q6_K")
    assert not page.is_visible("#recommendation .switched-off")


def test_names_of_files_that_hold_other_types_carry_the_mark(tmp_path: Path, visit: Callable[..., Any]) -> None:
    lab = make_lab(tmp_path)
    gone = TensorFallback(tensor="blk.0.ffn_down.weight", row_length=576, wanted="q6_K", got="q8_0")
    lab.of(QUANTIZE)["Q6_K"] = replace(lab.of(QUANTIZE)["Q6_K"], fallbacks=(gone,))
    page = visit(write_page(lab, tmp_path))
    assert "Q6_K ⚠" in page.inner_text("#ranking") and "Q6_K ⚠" in page.text_content("#chart")
    assert "Q8_0 ⚠" not in page.inner_text("#ranking")


_COLLISIONS = """() => {
  const nodes = [...document.querySelectorAll('#chart text')];
  const texts = nodes.map((node) => [node.textContent, node.getBoundingClientRect()]);
  const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  const after = (i) => texts.slice(i + 1);
  return texts.flatMap(([one, a], i) => after(i).filter(([, b]) => touch(a, b)).map(([other]) => [one, other]));
}"""


@pytest.mark.parametrize("measure", ["increase", "generation", "prompt", "memory"])
def test_names_in_the_chart_keep_clear_and_the_axis_has_a_unit(
    page_path: Path, visit: Callable[..., Any], measure: str
) -> None:
    page = visit(page_path)
    page.select_option("#measure", measure)
    assert page.evaluate(_COLLISIONS) == []
    assert sorted(page.locator("#chart .point-name").all_text_contents()) == sorted(FORMATS)
    unit = {"increase": "%", "generation": "tokens per second", "prompt": "tokens per second", "memory": "MB"}[measure]
    assert unit in page.locator("#chart .name").first.text_content()


def test_memory_sliders_say_what_fit_says(tmp_path: Path, visit: Callable[..., Any]) -> None:
    lab = make_lab(tmp_path)
    for scale, name in enumerate(FORMATS):
        run = lab.of(MEMORY)[name]
        loads = tuple(replace(load, peak_rss_bytes=(9 - scale) * 10**9 + 7) for load in run.loads)
        lab.of(MEMORY)[name] = replace(run, loads=loads)
    del lab.of(QUANTIZE)["Q6_K"], lab.of(MEMORY)["Q5_K_M"]
    page = visit(write_page(lab, tmp_path))
    verdicts = set()
    for ram in (2, 8, 10, 12, 64):
        for place, n_ctx in ((0, 512), (2, 2048), (8, 131072)):
            set_slider(page, "ram", ram)
            set_slider(page, "context", place)
            rows = page.eval_on_selector_all(
                "#fit tr", "rows => rows.map(r => [r.dataset.fit, r.dataset.verdict, r.dataset.need ?? null])"
            )
            expected = fit_table(lab, ram, n_ctx)
            assert [(name, verdict, None if need is None else int(need)) for name, verdict, need in rows] == [
                (one.format, one.verdict, one.need_bytes) for one in expected
            ]
            verdicts |= {one.verdict for one in expected}
    assert verdicts == {"fits", "tight", "does not fit", "longer than trained for", "not measured"}


def test_first_difference_is_marked(page_path: Path, visit: Callable[..., Any]) -> None:
    page = visit(page_path)
    page.select_option("#prompt", "1")
    article = page.locator("[data-output=Q4_K_M]")
    assert article.locator("mark").count() == 1
    assert article.locator(".note").text_content() == "first 9 of 100 tokens as in F16"
    assert page.locator("[data-output=F16] mark").count() == 0
    page.select_option("#decoding", "sampled")
    assert page.locator("[data-output=Q3_K_M] .note").text_content() == "first 4 of 100 tokens as in F16"


def test_hostile_strings_do_nothing(tmp_path: Path, visit: Callable[..., Any]) -> None:
    lab = make_lab(tmp_path)
    for name, run in lab.of(GENERATE).items():
        nasty = tuple(replace(g, text=NASTY + name, prompt=NASTY, pieces=(NASTY,) * 100) for g in run.generations)
        lab.of(GENERATE)[name] = replace(run, generations=nasty)
    lab = replace(lab, model=replace(lab.model, name=NASTY_NAME, spec=NASTY), text=text_source(NASTY, NASTY))
    page = visit(write_page(lab, tmp_path))
    page.click("#pick-left")
    assert page.evaluate("window.bad") is None
    assert page.locator("script").count() == 2 and page.locator("img:not(.chart)").count() == 0
    assert NASTY_NAME in page.text_content("h1")
    assert "</script><script>" in page.text_content("[data-output=F16] .text")


def test_own_words_bring_no_image_and_no_script(page_path: Path, visit: Callable[..., Any]) -> None:
    page = visit(page_path)
    own = page.locator("#worksheet p", has_text="In my own words").first
    assert "Mine. [image: x] <img src=y onerror=z>" in own.inner_text()
    assert page.locator("a[href^=javascript]").count() == 0


def test_an_empty_lab_is_still_a_page(tmp_path: Path, visit: Callable[..., Any]) -> None:
    page = visit(write_page(empty_lab(tmp_path), tmp_path))
    assert page.locator("#blind").count() == 0
    assert "are needed" in page.text_content("#winners")
    assert page.text_content("#fit-words") == "Memory was not measured."


# -- without a browser ------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_worksheet_says(page_path: Path) -> None:
    html = page_path.read_text("utf-8")
    sheet = page_path.with_name("worksheet.md").read_text("utf-8")
    assert [int(n) for n in re.findall(r'id="q(\d+)"', html)] == list(QUESTIONS)
    assert html.count("<img ") == sheet.count("![") - 1  # one is a student's, and no chart
    for cell in re.findall(r"^\| (Q\w+ [^|]*)\|", sheet, re.M):
        assert cell.strip() in html
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", html.replace("http://127.0.0.1:9/x.png", ""))


def test_data_cannot_leave_its_element() -> None:
    hostile = {"a": "</script><!-- <script> \u2028 & \\"}
    assert json.loads(as_json(hostile)) == hostile
    assert not set("<>&\u2028") & set(as_json(hostile))


def test_markdown_becomes_html_without_foreign_parts() -> None:
    html = to_html("# T\n\n<sub>s</sub> <b>x</b>\n\n<div>\n\n| a | b |\n| --- | --- |\n| Q8_0 | 12 % |", {}, shift=1)
    assert '<h2 id="t">T</h2>' in html and "<sub>s</sub>" in html
    assert "<b>" not in html and "<div>\n" not in html and "&lt;div&gt;" in html
    assert '<th scope="row">Q8_0</th>' in html and "12\u00a0%" in html
