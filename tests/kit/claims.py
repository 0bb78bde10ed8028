"""Reports of invented labs as text, the register of claim checkers, and what no sentence may say in any case."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator

from kit.claim_labs import LIMIT
from kit.lab_factory import MACHINE
from labctl.handin.compare import Run, compare
from labctl.handin.compare_files import as_rows
from labctl.report.charts import CHARTS, findings_of
from labctl.report.figures import figures_of
from labctl.report.page.render import render_page
from labctl.report.sheet import Sheet
from labctl.report.worksheet import render_recommendation, render_worksheet
from labctl.steps.measured import Measured

Docs = dict[str, str]
Checker = Callable[[Measured, Docs], int]
CHECKERS: list[Checker] = []
NAME = r"(?:F16|Q\d_\w+)"
NAMES = rf"{NAME}(?:, {NAME})*(?: (?:and|or) {NAME})?"
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"


def claim(checker: Checker) -> Checker:
    CHECKERS.append(checker)
    return checker


def written(lab: Measured, student: str = "") -> Docs:
    """Worksheet, recommendation, head of the page and comparison of a lab."""
    figures = figures_of(lab, LIMIT)
    weights = (0.3, 0.4, 0.3)
    sheet = Sheet(
        records=lab,
        figures=figures,
        weights=weights,
        limit=LIMIT,
        machine=MACHINE,
        charts=[CHARTS[name].entry(finding) for name, finding in findings_of(lab, figures, LIMIT).items()],
        answers={10: student} if student else {},
    )
    page = render_page(
        lab,
        figures,
        worksheet="",
        recommendation="",
        charts={},
        pick=sheet.production,
        own_choice=student,
        weights=weights,
        limit=LIMIT,
    )
    runs = [Run(label=label, name=label, records=lab, figures=figures) for label in ("R1", "R2")]
    found = compare(runs)
    head = re.sub(r"<[^>]+>", " ", page.split('<header class="top">')[1].split("</header>")[0])
    return {
        "worksheet": render_worksheet(sheet),
        "recommendation": render_recommendation(sheet),
        "page": html.unescape(head).replace("\u00a0", " "),
        "compare": "\n".join([*(" | ".join(row) for row in as_rows(found)), *found.notes]),
    }


def matches(docs: Docs, pattern: str, only: str = "") -> Iterator[re.Match[str]]:
    for name, text in docs.items():
        if not only or name == only:
            yield from re.finditer(pattern, text, re.M)


def names_in(text: str) -> list[str]:
    return re.findall(NAME, text)


def number(text: str) -> float:
    return float(text.replace(",", ""))


def question(docs: Docs, which: int) -> str:
    return re.split(r"\n#{2,3} ", docs["worksheet"].split(f"\n### Q{which}.", 1)[1])[0]


def rows_under(text: str, head: str) -> dict[str, list[str]]:
    """Rows of the table whose head begins so: first cell -> the others."""
    for table in re.findall(r"(?:^\|.*\n)+", text + "\n", re.M):
        lines = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in table.splitlines()]
        if "| ".join(lines[0]).startswith(head):
            return {cells[0].removesuffix(" ⚠"): cells[1:] for cells in lines[2:]}
    return {}


def the_pick(docs: Docs) -> str | None:
    found = re.search(rf"\*\*(?:Use|The lab's rule says: use) ({NAME})", docs["recommendation"])
    return found[1] if found else None


# -- possible at all --------------------------------------------------------------------------------------------------

IMPOSSIBLE = {
    "not a number": r"\b(?:nan|NaN|inf)\b",
    "a value of Python": r"\bNone\b(?!: no format| of the formats| fits|: (?:F16|none))|\bTrue\b|\bFalse\b",
    "a negative nothing": r"(?<![\d.])-0(?:\.0+)?(?![\d.])",
    "a negative size": r"(?<![\w.(])-\d[\d.]* ?(?:[kMG]i?B|bytes|tokens|seconds)\b",
    "more than all, slower": r"(?<![\d.,])\d{3,}(?:\.\d+)? % (?:slower|less|smaller|longer)",
    "wider than itself": r"± \d{3,}(?:\.\d+)? %",
    "one of many": r"(?<![\d.,:])1 (?:chunks|tokens|rounds|cores|threads|texts|prompts|answers|questions|formats)\b",
    "none of none": r"\b0 of 0\b|\bof 0 (?:chunks|questions|texts)\b",
    "smaller by nothing": r"\b1(?:\.0+)? times smaller",
    "raw markup": r"&#\d+;(?<!&#124;)|&amp;(?!\w+;)",
    "an old word": r"\b(?:[Ww]hoever|[Tt]hereof|[Ww]hereby|[Hh]itherto)\b",
}


@claim
def nothing_impossible(lab: Measured, docs: Docs) -> int:
    for name, text in docs.items():
        for what, pattern in IMPOSSIBLE.items():
            found = re.search(pattern, text)
            around = text[max(0, found.start() - 80) : found.end() + 40] if found else ""
            assert found is None, f"{name}: {what}: {found[0]!r} in ...{around}"
    return len(docs)


@claim
def intervals_hold_their_figure(lab: Measured, docs: Docs) -> int:
    """+2.08 % (95 % interval +1.89 to +2.26 %), and 1.55 (1.29 to 1.65)."""
    n = 0
    for found in matches(docs, rf"({NUMBER}) %? ?\((?:95 % interval )?({NUMBER}) to ({NUMBER})(?: %)?\)"):
        middle, low, high = map(number, found.groups())
        if "of" in found.string[max(0, found.start() - 4) : found.start()]:  # 84 of 88 (89 to 98 %)
            continue
        assert low <= middle <= high, found[0]
        n += 1
    return n


@claim
def counts_are_parts(lab: Measured, docs: Docs) -> int:
    n = 0
    for found in matches(docs, r"(?<![\d.,])(\d[\d,]*) of (?:its |these )?(\d[\d,]*)\b"):
        assert number(found[1]) <= number(found[2]), found[0]
        n += 1
    return n
