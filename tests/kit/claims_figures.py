"""Checkers of claims about size, perplexity, chunks, verdicts, speed and stars."""

from __future__ import annotations

import re

import numpy as np
import pytest

from kit.claim_labs import differences, increase, may_fail, may_pass, round_speedups, sizes, surely_faster
from kit.claims import NAME, NAMES, NUMBER, Docs, claim, matches, names_in, number, question, rows_under, the_pick
from labctl.steps.bench.step import BENCH
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.measured import Measured
from labctl.steps.noise.step import NOISE
from labctl.steps.perplexity.step import PERPLEXITY

# -- size -------------------------------------------------------------------------------------------------------------


@claim
def smaller_is_smaller(lab: Measured, docs: Docs) -> int:
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
def what_could_be_saved_is_there(lab: Measured, docs: Docs) -> int:
    n = 0
    for found in matches(docs, rf"^- [\d.]+ \w+ could still be saved with ({NAME})", "recommendation"):
        pick, found_sizes = the_pick(docs), sizes(lab)
        assert pick is not None and found_sizes[found[1]] <= found_sizes[pick] / 1.009
        n += 1
    return n


# -- perplexity -------------------------------------------------------------------------------------------------------


def says(text: str, percent: float) -> bool:
    """Whether a cell gives this percentage, as far as it is rounded."""
    if text.startswith("over +"):
        return percent >= number(text.removeprefix("over +").removesuffix(" %"))
    return number(text.removesuffix(" %")) == pytest.approx(percent, abs=0.51 if abs(percent) >= 999 else 0.0051)


@claim
def increases_are_the_records(lab: Measured, docs: Docs) -> int:
    n = 0
    for name, cells in rows_under(question(docs, 2), "Format| Perplexity").items():
        mine = increase(lab, name)
        cells[1] = re.sub(r"</?sub>", "", cells[1])
        if mine is None or not cells[1].endswith("%"):
            assert mine is None or name == lab.formats[0], (name, cells)
            continue
        assert says(cells[1], mine[0]), (name, cells, mine)
        if " to " not in cells[2]:
            assert lab.of(PERPLEXITY)[name].n_chunks == 1 or cells[2] == "open"
        elif lab.of(PERPLEXITY)[name].order_seed is None:
            assert all(map(says, cells[2].split(" to "), mine[1:])), (name, cells, mine)
        n += 1
    return n


@claim
def grey_is_no_more_than_noise(lab: Measured, docs: Docs) -> int:
    """What is in small print lies below the baseline's noise, and everything else above; the words name the former."""
    text = question(docs, 2)
    if "The noise of arithmetic" not in text:
        assert "<sub>+" not in text
        return 0
    run = lab.of(NOISE)[lab.formats[0]]
    spread = float(np.sqrt(np.mean(np.square(run.differences))))
    grey = set()
    for name, cells in rows_under(text, "Format| Perplexity").items():
        mine, pairs = increase(lab, name), differences(lab, name)
        if mine is None or pairs is None or not cells[1].endswith(("%", "</sub>")):
            continue
        floor = 100 * np.expm1(2 * spread / np.sqrt(len(pairs)))
        if abs(abs(mine[0]) - floor) > 1e-9:
            assert cells[1].startswith("<sub>") == (spread > 0 and abs(mine[0]) < floor), (name, cells, mine, floor)
        grey |= {name} if cells[1].startswith("<sub>") else set()
    for name, values in lab.of(DIVERGENCE).items():
        grey |= {name} if run.klds[0] and values.kld_mean <= np.mean(run.klds) else set()
    told = re.search(rf"small grey print \(({NAMES})\)", text)
    assert set(names_in(told[1]) if told else []) == grey
    return 1


@claim
def verdicts_follow(lab: Measured, docs: Docs) -> int:
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
def the_pick_passes_and_saves(lab: Measured, docs: Docs) -> int:
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
def a_lower_perplexity_is_lower(lab: Measured, docs: Docs) -> int:
    n = 0
    for found in matches(docs, rf"({NAME}) has a lower perplexity than {lab.formats[0]}"):
        mine = increase(lab, found[1])
        assert mine is not None and mine[0] < 0 and (mine[2] < 0 or lab.of(PERPLEXITY)[found[1]].order_seed is not None)
        n += 1
    for found in matches(
        docs, rf"({NAME}) needs \d+ % less space, and its uncertainty about the next word grows by ([\d.]+) %"
    ):
        mine = increase(lab, found[1])
        assert mine is not None and mine[0] == pytest.approx(number(found[2]), rel=0.06) and mine[1] > 0
        n += 1
    return n


@claim
def chunks_are_told_as_they_were(lab: Measured, docs: Docs) -> int:
    counts = {name: run.n_chunks for name, run in lab.of(PERPLEXITY).items()}
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


# -- speed ------------------------------------------------------------------------------------------------------------


@claim
def the_fastest_is_faster_than_all(lab: Measured, docs: Docs) -> int:
    n = 0
    for found in matches(docs, r"[Ff]astest at (generating text|reading a prompt): ([^;.\n]+)"):
        names = names_in(found[2])
        if len(names) == 1:
            for other in lab.of(BENCH):
                test = "pp" if found[1] == "reading a prompt" else "tg"
                assert other == names[0] or surely_faster(lab, names[0], other, test), (found[0], other)
        else:
            assert "not told apart" in found[2]
        n += 1
    for found in matches(docs, rf"({NAME}) generates text fastest"):
        assert all(surely_faster(lab, found[1], other, "tg") for other in lab.of(BENCH) if other != found[1])
        n += 1
    for found in matches(docs, rf"If you wait for long answers: ({NAME}), \d", "recommendation"):
        assert all(surely_faster(lab, found[1], other, "tg") for other in lab.of(BENCH) if other != found[1])
        n += 1
    return n


@claim
def faster_and_slower_are_shown(lab: Measured, docs: Docs) -> int:
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
def speedups_are_in_the_rounds(lab: Measured, docs: Docs) -> int:
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
def stars_lie_in_their_band(lab: Measured, docs: Docs) -> int:
    n, base, found_sizes = 0, lab.formats[0], sizes(lab)
    for name, cells in rows_under(docs["worksheet"].split("### Decision matrix")[1], "Format| Size").items():
        by_size, by_ppl = stars_of(cells[0]), stars_of(cells[1])
        if by_size is not None:
            ratio = found_sizes[base] / found_sizes[name]
            assert by_size == (1 + sum(ratio >= bar for bar in (1.5, 2, 2.5, 3)),) * 2, (name, cells)
            n += 1
        mine = increase(lab, name)
        if by_ppl is not None and mine is not None and lab.of(PERPLEXITY)[name].order_seed is None:
            # at least every band that the interval reaches into
            worst, best = (1 + sum(end <= bar for bar in (0.5, 2, 5, 10)) for end in (mine[2], mine[1]))
            assert by_ppl[0] <= worst and by_ppl[1] >= best, (name, cells, mine)
            n += 1
    return n
