"""Every sentence claims no more than the records: invented labs are written up, each kind of claim is worked out again.

A checker finds the sentences of its kind and recomputes what they say with code of its own (claim_labs.py). What no
checker knows must at least be possible: no nan, no negative size, no interval that leaves out its own figure.
"""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from claim_labs import (
    LIMIT,
    STEPS,
    Format,
    Plan,
    answers,
    common,
    greedy_pairs,
    increase,
    lab_of,
    may_fail,
    may_pass,
    plans,
    round_speedups,
    sizes,
    surely_faster,
)
from hypothesis import HealthCheck, example, given, settings
from lab_factory import MACHINE, empty_lab
from scipy import stats

from labctl.compare import Run, as_rows, compare
from labctl.records import LabRecords
from labctl.report import worksheet
from labctl.report.analysis import frame, rows_of
from labctl.report.page import render_page

Docs = dict[str, str]
Checker = Callable[[LabRecords, Docs], int]
CHECKERS: list[Checker] = []
NAME = r"(?:F16|Q\d_\w+)"
NAMES = rf"{NAME}(?:, {NAME})*(?: (?:and|or) {NAME})?"
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?"


def claim(checker: Checker) -> Checker:
    CHECKERS.append(checker)
    return checker


def written(lab: LabRecords, student: str = "") -> Docs:
    """Worksheet, recommendation, head of the page and comparison of a lab."""
    rows = rows_of(frame(lab, LIMIT))
    weights = (0.3, 0.4, 0.3)
    values = worksheet.context(
        lab, rows, weights=weights, limit=LIMIT, machine=MACHINE,
        charts=("ppl_increase", "speed", "size_vs_quality", "size_vs_performance", "memory", "winner_map"),
        answers={10: student} if student else {}, blank=False,
    )  # fmt: skip
    values["charts"] = [name for name in values["charts"] if name in values["readings"]]
    sheet, advice = (worksheet.render(f"{name}.md.j2", values) for name in ("worksheet", "recommendation"))
    page = render_page(
        lab, rows, worksheet="", recommendation="", charts={}, pick=values["q10"], own_choice=student, weights=weights,
        limit=LIMIT,
    )  # fmt: skip
    runs = [Run(label=label, name=label, records=lab, rows=rows) for label in ("R1", "R2")]
    found = compare(runs)
    head = re.sub(r"<[^>]+>", " ", page.split('<header class="top">')[1].split("</header>")[0])
    return {
        "worksheet": sheet,
        "recommendation": advice,
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


# -- possible at all --------------------------------------------------------------------------------------------------

IMPOSSIBLE = {
    "not a number": r"\b(?:nan|NaN|inf)\b",
    "a value of Python": r"\bNone\b(?!: no format| of the formats| fits|: (?:F16|none))|\bTrue\b|\bFalse\b",
    "a negative nothing": r"(?<![\d.])-0(?:\.0+)?(?![\d.])",
    "a negative size": r"(?<![\w.(])-\d[\d.]* ?(?:[kMG]i?B|bytes|tokens|seconds)\b",
    "more than all, slower": r"(?<![\d.,])\d{3,}(?:\.\d+)? % (?:slower|less|smaller|longer)",
    "wider than itself": r"± \d{3,}(?:\.\d+)? %",
    "one of many": r"(?<![\d.,:])1 (?:chunks|tokens|rounds|cores|threads|texts|prompts|answers|questions|formats|times)\b(?! the)",
    "none of none": r"\b0 of 0\b|\bof 0 (?:chunks|questions|texts)\b",
    "smaller by nothing": r"\b1(?:\.0+)? times smaller",
    "raw markup": r"&#\d+;(?<!&#124;)|&amp;(?!\w+;)",
    "an old word": r"\b(?:[Ww]hoever|[Tt]hereof|[Ww]hereby|[Hh]itherto)\b",
}


@claim
def nothing_impossible(lab: LabRecords, docs: Docs) -> int:
    for name, text in docs.items():
        for what, pattern in IMPOSSIBLE.items():
            found = re.search(pattern, text)
            assert found is None, f"{name}: {what}: {found[0]!r} in ...{text[max(0, found.start() - 80) : found.end() + 40]}"
    return len(docs)


@claim
def intervals_hold_their_figure(lab: LabRecords, docs: Docs) -> int:
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
def counts_are_parts(lab: LabRecords, docs: Docs) -> int:
    n = 0
    for found in matches(docs, r"(?<![\d.,])(\d[\d,]*) of (?:its |these )?(\d[\d,]*)\b"):
        assert number(found[1]) <= number(found[2]), found[0]
        n += 1
    return n


# -- size -------------------------------------------------------------------------------------------------------------


@claim
def smaller_is_smaller(lab: LabRecords, docs: Docs) -> int:
    found_sizes, base, n = sizes(lab), lab.formats[0], 0
    for found in matches(docs, rf"({NAME}): [\d.]+ \w+, ([\d.]+) times smaller than {base}"):
        assert found_sizes[base] / found_sizes[found[1]] == pytest.approx(number(found[2]), rel=0.006)
        n += 1
    for found in matches(docs, rf"\| ({NAME}) [^|]*\| [\d.]+ \| ([\d,]+) \| ([\d.]+)x \|", "worksheet"):
        assert found_sizes[found[1]] == number(found[2])
        assert found_sizes[base] / found_sizes[found[1]] == pytest.approx(number(found[3]), rel=0.006)
        n += 1
    for found in matches(docs, rf"version called ({NAME}) needs (\d+) % less space"):
        assert 100 * (1 - found_sizes[found[1]] / found_sizes[base]) == pytest.approx(number(found[2]), abs=0.6)
        n += 1
    for found in matches(docs, rf"smallest version, ({NAME}),"):
        assert found_sizes[found[1]] == min(found_sizes.values())
        n += 1
    return n


@claim
def what_could_be_saved_is_there(lab: LabRecords, docs: Docs) -> int:
    n = 0
    for found in matches(docs, rf"^- [\d.]+ \w+ could still be saved with ({NAME})", "recommendation"):
        pick, found_sizes = the_pick(docs), sizes(lab)
        assert pick is not None and found_sizes[found[1]] <= found_sizes[pick] / 1.009
        n += 1
    return n


# -- perplexity -------------------------------------------------------------------------------------------------------


def the_pick(docs: Docs) -> str | None:
    found = re.search(rf"\*\*(?:Use|The lab's rule says: use) ({NAME})", docs["recommendation"])
    return found[1] if found else None


@claim
def increases_are_the_records(lab: LabRecords, docs: Docs) -> int:
    n = 0
    for name, cells in rows_under(question(docs, 2), "Format| Perplexity").items():
        mine = increase(lab, name)
        if mine is None or not cells[1].endswith("%"):
            assert mine is None or name == lab.formats[0], (name, cells)
            continue
        assert number(cells[1].removesuffix(" %")) == pytest.approx(mine[0], abs=0.0051, rel=1e-4)
        fixed = lab.perplexity[name].order_seed is None
        low, high = (map(number, cells[2].removesuffix(" %").split(" to "))) if " to " in cells[2] else (None, None)
        if low is None or high is None:
            assert lab.perplexity[name].n_chunks == 1 or "open" in cells[2]
        elif fixed:
            assert (low, high) == (
                pytest.approx(mine[1], abs=0.0051, rel=1e-4),
                pytest.approx(mine[2], abs=0.0051, rel=1e-4),
            )
        n += 1
    return n


@claim
def verdicts_follow(lab: LabRecords, docs: Docs) -> int:
    """Pass and fail, in Q3, in the charts' sentences, and in every table with a verdict."""
    n = 0
    for found in matches(docs, rf"(Pass|Fail): ({NAMES})\."):
        for name in names_in(found[2]):
            assert (may_pass if found[1] == "Pass" else may_fail)(lab, name), found[0]
            n += 1
    for found in matches(docs, rf"({NAMES}) (stays? under it|exceeds? it)"):
        for name in names_in(found[1]):
            assert (may_pass if "under" in found[2] else may_fail)(lab, name), found[0]
            n += 1
    for found in matches(docs, rf"^\| ({NAME})[^|\n]*\|.*\| (pass|fail) \|"):
        assert (may_pass if found[2] == "pass" else may_fail)(lab, found[1]), found[0]
        n += 1
    return n


@claim
def the_pick_passes_and_saves(lab: LabRecords, docs: Docs) -> int:
    pick, base, found_sizes = the_pick(docs), lab.formats[0], sizes(lab)
    lead = re.search(rf"For production: ({NAME})", docs["page"])
    assert lead is None or lead[1] == pick
    if pick is None or pick == base:
        return 0
    assert may_pass(lab, pick) and found_sizes[pick] < found_sizes[base] / 1.009
    passed = re.search(rf"Pass: ({NAMES})\.", question(docs, 3))
    for other in names_in(passed[1]) if passed else ():
        assert other == pick or other not in found_sizes or found_sizes[other] >= found_sizes[pick], (pick, other)
    return 1


@claim
def a_lower_perplexity_is_lower(lab: LabRecords, docs: Docs) -> int:
    n = 0
    for found in matches(docs, rf"({NAME}) has a lower perplexity than {lab.formats[0]}"):
        mine = increase(lab, found[1])
        assert mine is not None and mine[0] < 0 and (mine[2] < 0 or lab.perplexity[found[1]].order_seed is not None)
        n += 1
    for found in matches(
        docs, rf"({NAME}) needs \d+ % less space, and its guesses of the next word get ([\d.]+) % less"
    ):
        mine = increase(lab, found[1])
        assert mine is not None and mine[0] == pytest.approx(number(found[2]), rel=0.06) and mine[1] > 0
        n += 1
    return n


@claim
def chunks_are_told_as_they_were(lab: LabRecords, docs: Docs) -> int:
    counts = {name: run.n_chunks for name, run in lab.perplexity.items()}
    text, n = question(docs, 2), 0
    for name, cells in rows_under(text, "Format| Perplexity").items():
        assert name not in counts or cells[3] == str(counts[name])
    for found in re.finditer(r"measured on the first (\d+) of", text):
        assert number(found[1]) == min(counts.values())
        n += 1
    for found in re.finditer(rf"; ((?:{NAME} to \d+(?:, | and )?)+) went on because", text):
        for name, count in re.findall(rf"({NAME}) to (\d+)", found[1]):
            assert counts[name] == int(count) > min(counts.values())
            n += 1
    if "y then every verdict was settled" in text or "In the end every verdict was settled" in text:
        assert all(may_pass(lab, name) or may_fail(lab, name) for name in counts if increase(lab, name) is not None)
        n += 1
    return n


# -- texts and answers ------------------------------------------------------------------------------------------------


@claim
def texts_are_the_same_where_said_so(lab: LabRecords, docs: Docs) -> int:
    n, pick = 0, the_pick(docs)
    cells = rows_under(question(docs, 6), "Format| Prompt 1")
    for name, row in cells.items():
        for cell, (mine, theirs) in zip(row, greedy_pairs(lab, name), strict=False):
            assert (cell in (f"all {len(theirs)}", "both empty")) == (mine == theirs), (name, cell)
            shared = re.match(r"(\d+) of (\d+)", cell)
            assert shared is None or (int(shared[1]), int(shared[2])) == (common(mine, theirs), len(theirs))
            n += 1
    for found in matches(
        docs, r"Of its (\d+) greedy texts (\d+|none) (?:is|are) \w+'s to the last token", "recommendation"
    ):
        pairs = greedy_pairs(lab, pick or "")
        assert (len(pairs), sum(a == b for a, b in pairs)) == (int(found[1]), int(found[2].replace("none", "0")))
        n += 1
    for found in matches(docs, r"All (\d+) of its greedy texts are", "recommendation"):
        pairs = greedy_pairs(lab, pick or "")
        assert len(pairs) == int(found[1]) and all(a == b for a, b in pairs)
        n += 1
    for _ in matches(docs, r"(?:go their own way|differ from|texts are not)", "recommendation"):
        assert any(a != b for a, b in greedy_pairs(lab, pick or ""))
    for found in matches(docs, rf"({NAME}) (?:after )?(\d+|none) of (\d+)(?=[,.]| and)", "worksheet"):
        pairs = greedy_pairs(lab, found[1])
        if "to the last token:" in found.string[max(0, found.start() - 200) : found.start()]:
            assert (sum(a == b for a, b in pairs), len(pairs)) == (int(found[2].replace("none", "0")), int(found[3]))
            n += 1
    for _ in matches(docs, r"every text is \w+'s to the last token"):
        assert all(a == b for name in lab.formats[1:] for a, b in greedy_pairs(lab, name))
        n += 1
    return n


@claim
def no_place_of_leaving_is_the_end(lab: LabRecords, docs: Docs) -> int:
    """A text that never leaves the baseline's has no token at which it leaves."""
    n = 0
    for found in matches(docs, r"(?:leaves? \w+|go their own way) after ([\d of,and]+) tokens", "recommendation"):
        lengths = [common(a, b) for a, b in greedy_pairs(lab, the_pick(docs) or "") if a != b]
        assert [int(one) for one in re.findall(r"(\d+)(?: of \d+)?", found[1])] == [
            n_same for n_same in lengths if str(n_same) in found[1]
        ], found[0]
        n += 1
    return n


@claim
def loops_are_loops(lab: LabRecords, docs: Docs) -> int:
    n = 0
    for found in matches(docs, rf"({NAME}) goes round in circles at Prompt (\d) \((\w+)\): (\d+) %"):
        text = lab.generation[found[1]].find(int(found[2]), found[3])
        assert text is not None
        grams = [text.tokens[place : place + 4] for place in range(len(text.tokens) - 3)]
        again = sum(gram in grams[:place] for place, gram in enumerate(grams))
        assert 100 * again / len(grams) == pytest.approx(int(found[4]), abs=0.6) and again > len(grams) / 2
        n += 1
    return n


@claim
def answers_lost_are_lost(lab: LabRecords, docs: Docs) -> int:
    n, pick = 0, the_pick(docs)
    for found in matches(
        docs, r"it loses (\d+) that \w+ has right and gains (\d+): (no )?more than chance", "recommendation"
    ):
        lost, gained = int(found[1]), int(found[2])
        assert answers(lab, pick or "") == (lost, gained)
        beyond = lost + gained > 0 and stats.binomtest(lost, lost + gained).pvalue < 0.05
        assert beyond == (found[3] is None), found[0]
        n += 1
    for found in matches(docs, rf"({NAME}) \(loses (\d+) answers that \w+ has right, gains (\d+)\)"):
        assert answers(lab, found[1]) == (int(found[2]), int(found[3])) and int(found[2]) > int(found[3])
        assert stats.binomtest(int(found[2]), int(found[2]) + int(found[3])).pvalue < 0.05
        n += 1
    for _ in matches(docs, r"it costs nothing: it has the same ones right", "recommendation"):
        assert answers(lab, pick or "") == (0, 0)
        n += 1
    return n


@claim
def training_is_told_of_the_demo_model_only(lab: LabRecords, docs: Docs) -> int:
    told = [found[0] for found in matches(docs, r"demo model was trained|not trained on")]
    assert not told or lab.model.origin == "demo"
    return len(told)


# -- speed ------------------------------------------------------------------------------------------------------------


@claim
def the_fastest_is_faster_than_all(lab: LabRecords, docs: Docs) -> int:
    n = 0
    for found in matches(docs, r"[Ff]astest at (generating text|reading a prompt): ([^;.\n]+)"):
        names = names_in(found[2])
        if len(names) == 1:
            for other in lab.speed:
                test = "pp" if found[1] == "reading a prompt" else "tg"
                assert other == names[0] or surely_faster(lab, names[0], other, test), (found[0], other)
        else:
            assert "not told apart" in found[2]
        n += 1
    for found in matches(docs, rf"({NAME}) generates text fastest"):
        assert all(surely_faster(lab, found[1], other, "tg") for other in lab.speed if other != found[1])
        n += 1
    for found in matches(docs, rf"If you wait for long answers: ({NAME}) \(\d", "recommendation"):
        assert all(surely_faster(lab, found[1], other, "tg") for other in lab.speed if other != found[1])
        n += 1
    return n


@claim
def faster_and_slower_are_shown(lab: LabRecords, docs: Docs) -> int:
    n = 0
    for found in matches(docs, r"Q8_0 is (faster|slower) at (reading|generating)", "worksheet"):
        pair = ("Q8_0", "Q4_K_M") if found[1] == "faster" else ("Q4_K_M", "Q8_0")
        assert surely_faster(lab, *pair, "pp" if found[2] == "reading" else "tg"), found[0]
        n += 1
    for found in matches(
        docs, rf"({NAME}) is the smaller file but (generates text|reads a prompt) more slowly than ({NAME})"
    ):
        assert sizes(lab)[found[1]] < sizes(lab)[found[3]]
        assert surely_faster(lab, found[3], found[1], "tg" if found[2].startswith("gen") else "pp"), found[0]
        n += 1
    return n


@claim
def speedups_are_in_the_rounds(lab: LabRecords, docs: Docs) -> int:
    """The one ratio of a pair lies among its rounds' ratios, and is the same number wherever it stands."""
    base, said = lab.formats[0], dict[str, set[str]]()
    cells = rows_under(question(docs, 8), "Format| Tokens/second")
    for name, row in cells.items():
        if name != base and re.match(NUMBER, row[1]):
            said.setdefault(name, set()).add(row[1].split(" ")[0].removesuffix("x"))
    pick = the_pick(docs)
    for found in matches(docs, rf"([\d.]+) \([^)]*\) times {base}(?:'s speed)?"):
        if pick is not None:
            said.setdefault(pick if found.string != docs["worksheet"] else "", set()).add(found[1])
    said.pop("", None)
    for name, numbers in said.items():
        ratios = round_speedups(lab, name, base, "tg")
        assert len(numbers) == 1, (name, numbers)
        assert all(min(ratios) * 0.94 - 0.06 <= number(one) <= max(ratios) * 1.06 + 0.06 for one in numbers), (
            name,
            numbers,
        )
    return len(said)


# -- stars ------------------------------------------------------------------------------------------------------------


def stars_of(cell: str) -> tuple[int, int] | None:
    counts = [part.count("★") for part in cell.split(" to ")]
    return (counts[0], counts[-1]) if counts[0] else None


@claim
def stars_lie_in_their_band(lab: LabRecords, docs: Docs) -> int:
    n, base, found_sizes = 0, lab.formats[0], sizes(lab)
    for name, cells in rows_under(docs["worksheet"].split("### Decision matrix")[1], "Format| Size").items():
        by_size, by_ppl = stars_of(cells[0]), stars_of(cells[1])
        if by_size is not None:
            ratio = found_sizes[base] / found_sizes[name]
            assert by_size == (1 + sum(ratio >= bar for bar in (1.5, 2, 2.5, 3)),) * 2, (name, cells)
            n += 1
        mine = increase(lab, name)
        if by_ppl is not None and mine is not None and lab.perplexity[name].order_seed is None:
            # at least every band that the interval reaches into
            worst, best = (1 + sum(end <= bar for bar in (0.5, 2, 5, 10)) for end in (mine[2], mine[1]))
            assert by_ppl[0] <= worst and by_ppl[1] >= best, (name, cells, mine)
            n += 1
    return n


# -- the tests --------------------------------------------------------------------------------------------------------


def checked(plan: Plan) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        lab = lab_of(plan, Path(folder))
        docs = written(lab)
        return {checker.__name__: checker(lab, docs) for checker in CHECKERS}


BASE = Format(name="F16")
RICH = Plan(
    formats=(
        BASE,
        Format(name="Q8_0", size=1.87, ppl=1.0004, tps=1.3),
        Format(name="Q6_K", size=2.4, ppl=1.01, tps=1.8, text="leaves", right=(189, 80)),
        Format(name="Q4_K_M", size=3.02, ppl=1.3, tps=2.6, text="loops", right=(150, 60)),
        Format(name="Q3_K_M", size=3.4, ppl=0.98, tps=0.5, text="ends"),
    ),
)
GONE_ON = Plan(
    formats=(BASE, Format(name="Q8_0", ppl=1.021, spread_pct=0.5), Format(name="Q6_K", chunks=33)), adaptive=True
)
IDENTICAL = Plan(formats=(BASE, Format(name="Q8_0", size=1.002, text="same"), Format(name="Q4_K_M", text="same")))
NO_ROUNDS = Plan(formats=(BASE, Format(name="Q6_K", size=2.4, missing=("generation", "speed"))), rounds=1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
@example(RICH)
@example(GONE_ON)
@example(IDENTICAL)
@example(NO_ROUNDS)
@example(Plan(formats=(BASE,)))
@example(Plan(formats=(Format(name="F16", missing=STEPS), Format(name="Q6_K"))))
@example(Plan(formats=(BASE, Format(name="Q6_K", size=2.4, ppl=1.01, chunks=2, spread_pct=30, stall=12)), rounds=1))
@example(Plan(formats=(BASE, Format(name="Q6_K", size=2.4, ppl=0.98, chunks=1)), n_cores=1))
def test_no_sentence_claims_more_than_the_records(plan: Plan) -> None:
    checked(plan)


def test_every_checker_finds_sentences_to_check() -> None:
    """A checker whose sentences were reworded would pass for ever."""
    found = [checked(plan) for plan in (RICH, GONE_ON, IDENTICAL)]
    idle = {name for name in found[0] if not any(counts[name] for counts in found)}
    assert idle <= {"training_is_told_of_the_demo_model_only"}


def test_a_lab_before_anything_was_run_claims_nothing(tmp_path: Path) -> None:
    lab = empty_lab(tmp_path)
    docs = written(lab)
    assert the_pick(docs) is None
    for checker in CHECKERS:
        checker(lab, docs)


@pytest.mark.parametrize(
    ("before", "after", "checker"),
    [
        ("Pass: Q8_0", "Pass: Q4_K_M", verdicts_follow),
        ("all 100", "100 of 100", texts_are_the_same_where_said_so),
        ("it loses 1 that", "it loses 2 that", answers_lost_are_lost),
        ("2.40 times smaller", "2.60 times smaller", smaller_is_smaller),
        ("★★★☆☆", "★★★★★", stars_lie_in_their_band),
        ("Use Q6_K for production", "Use Q4_K_M for production", the_pick_passes_and_saves),
        (" 40 |", " 32 |", chunks_are_told_as_they_were),
        ("could still", "is -3 bytes and could still", nothing_impossible),
    ],
)
def test_a_checker_sees_a_false_sentence(tmp_path: Path, before: str, after: str, checker: Checker) -> None:
    lab = lab_of(RICH, tmp_path)
    docs = written(lab)
    checker(lab, docs)
    assert any(before in text for text in docs.values())
    with pytest.raises(AssertionError):
        checker(lab, {name: text.replace(before, after) for name, text in docs.items()})
