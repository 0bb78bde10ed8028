"""Checkers of claims about generated texts, known answers, and what the demo model was trained on."""

from __future__ import annotations

import re

import pytest
from scipy import stats

from kit.claim_labs import answers, common, greedy_pairs, may_pass
from kit.claims import NAME, NAMES, Docs, claim, matches, names_in, number, question, rows_under, the_pick
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured

# -- texts and answers ------------------------------------------------------------------------------------------------


@claim
def texts_are_the_same_where_said_so(lab: Measured, docs: Docs) -> int:
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
def no_place_of_leaving_is_the_end(lab: Measured, docs: Docs) -> int:
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
def loops_are_loops(lab: Measured, docs: Docs) -> int:
    n = 0
    for found in matches(docs, rf"({NAME}) goes round in circles at Prompt (\d) \((\w+)\): (\d+) %"):
        text = lab.of(GENERATE)[found[1]].find(int(found[2]), found[3])
        assert text is not None
        grams = [text.tokens[place : place + 4] for place in range(len(text.tokens) - 3)]
        again = sum(gram in grams[:place] for place, gram in enumerate(grams))
        assert 100 * again / len(grams) == pytest.approx(int(found[4]), abs=0.6) and again > len(grams) / 2
        n += 1
    return n


@claim
def answers_lost_are_lost(lab: Measured, docs: Docs) -> int:
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
def a_distance_without_direction_has_none(lab: Measured, docs: Docs) -> int:
    n = 0
    pattern = (
        rf"Near the baseline .* with ({NAMES}), which pass(?:es)? the limit,"
        r" (?:(\d+) known answers? w\w+ lost and ([\d,]+) gained|no known answer changed)"
    )
    for found in matches(docs, pattern):
        changed = [pair for name in names_in(found[1]) if (pair := answers(lab, name)) is not None]
        assert all(may_pass(lab, name) for name in names_in(found[1])) and len(changed) == len(names_in(found[1]))
        all_lost, all_gained = (sum(column) for column in zip(*changed, strict=True))
        assert (all_lost, all_gained) == (int(found[2] or 0), int(number(found[3] or "0")))
        for lost, gained in changed:
            assert not lost + gained or stats.binomtest(lost, lost + gained).pvalue >= 0.05
        n += 1
    return n


@claim
def training_is_told_of_the_demo_model_only(lab: Measured, docs: Docs) -> int:
    told = [found[0] for found in matches(docs, r"demo model was trained|not trained on")]
    assert not told or lab.model.origin == "demo"
    for found in matches(
        docs, r"trained on (\d+) of these (\d+) questions.*of the other (\d+) it loses (\d+) and gains (\d+)"
    ):
        pairs = [
            (mine, theirs)
            for one, other in zip(
                *(lab.of(GENERATE)[name].probes for name in (str(the_pick(docs)), lab.formats[0])), strict=True
            )
            for mine, theirs in zip(one.answers, other.answers, strict=True)
        ]
        new = [(mine.correct, theirs.correct) for mine, theirs in pairs if not mine.in_demo_training]
        figures = (len(pairs) - len(new), len(pairs), len(new), new.count((False, True)), new.count((True, False)))
        assert tuple(map(int, found.groups())) == figures
    return len(told)
