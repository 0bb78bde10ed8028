"""Which formats are told apart: ties, wide intervals, one round, one format, equal files."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.lab_factory import FORMATS, base_nll, generation_run, gguf_file, make_lab, perplexity_run, speed_run

from labctl.report.advice import others
from labctl.report.figures import figures_of
from labctl.report.order import Orders, Pair, order_of, tied
from labctl.report.perplexity_tables import pairs
from labctl.report.rules import Answer
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.perplexity.figures import load_nll
from labctl.steps.perplexity.increase import paired_increase
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE


def orders_of(lab: Measured) -> Orders:
    return Orders(lab, figures_of(lab))


@pytest.fixture
def lab(tmp_path: Path) -> Measured:
    return make_lab(tmp_path)


def test_clear_figures_are_ordered(lab: Measured) -> None:
    orders = orders_of(lab)
    assert orders.tg.first == ("Q4_K_S",)
    assert orders.size.first == ("Q3_K_M",)
    assert orders.ppl.names[:3] == ("F16", "Q8_0", "Q6_K")
    assert orders.ppl.better("Q8_0", "Q6_K") and not orders.ppl.better("Q6_K", "Q8_0")
    assert orders.answers.better("Q4_K_S", "Q3_K_M") and not orders.answers.apart("Q4_K_S", "Q8_0")


def test_speeds_within_the_spread_are_a_tie(lab: Measured) -> None:
    """Two formats of one speed, each timed with 3 % of spread: no first place, and the ranks say so."""
    lab.of(BENCH)["Q4_K_S"] = speed_run("Q4_K_S", 10776, 2000, 3, rounds=6)
    lab.of(BENCH)["Q4_K_M"] = speed_run("Q4_K_M", 9055, 2000, 4, rounds=6)
    for name in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q3_K_M"):
        lab.of(BENCH)[name] = speed_run(name, 9000, 1000, 9, rounds=6)
    order = orders_of(lab).tg
    assert set(order.first) == {"Q4_K_S", "Q4_K_M"} and not order.apart("Q4_K_S", "Q4_K_M")
    assert order.ranks["Q4_K_S"] == order.ranks["Q4_K_M"] == (1, 2)
    assert tied(order.first) == f"{order.first[0]} or {order.first[1]} (not told apart)"


def test_one_round_tells_nothing_apart(lab: Measured) -> None:
    for seed, name in enumerate(FORMATS):
        lab.of(BENCH)[name] = speed_run(name, 9000, 1000 * (seed + 1), seed, rounds=1)
    order = orders_of(lab).tg
    assert set(order.first) == set(FORMATS) and not order.shown


def test_machine_that_slows_down_leaves_the_order(lab: Measured) -> None:
    """Overlap of two medians' intervals is not the question: within each round the one is always faster."""
    for name, tg in (("Q8_0", 1000), ("Q6_K", 1100)):
        made = speed_run(name, 9000, tg, 1, rounds=6)
        visits = tuple(
            replace(v, token_s=tuple(tuple(s * (1 + v.round) for s in times) for times in v.token_s))
            for v in made.visits
        )
        lab.of(BENCH)[name] = replace(made, visits=visits)
    assert orders_of(lab).tg.better("Q6_K", "Q8_0")


def test_equal_files_are_not_told_apart(lab: Measured) -> None:
    lab.of(QUANTIZE)["Q4_K_S"] = gguf_file("Q4_K_M", label="Q4_K_S")
    lab.of(PERPLEXITY)["Q4_K_S"] = perplexity_run(Path(lab.folder), "Q4_K_S", load_nll(lab)["Q4_K_M"])
    lab.of(BENCH)["Q4_K_S"] = replace(lab.of(BENCH)["Q4_K_M"], format="Q4_K_S")
    lab.of(GENERATE)["Q4_K_S"] = replace(lab.of(GENERATE)["Q4_K_M"], format="Q4_K_S")
    orders = orders_of(lab)
    for order in (orders.size, orders.ppl, orders.tg, orders.pp, orders.answers):
        assert not order.apart("Q4_K_S", "Q4_K_M")


def test_a_header_more_is_no_smaller_file(lab: Measured) -> None:
    lab.of(QUANTIZE)["Q8_0"] = replace(
        lab.of(QUANTIZE)["F16"], format="Q8_0", size_bytes=lab.of(QUANTIZE)["F16"].size_bytes - 64
    )
    assert not orders_of(lab).size.apart("F16", "Q8_0")


def test_perplexities_are_paired_and_corrected_for_the_number_of_pairs(lab: Measured) -> None:
    order = orders_of(lab).ppl
    nll = load_nll(lab)
    found = paired_increase(nll["Q6_K"], nll["Q8_0"], 1 - 0.05 / 21)
    pair = order.pairs["Q8_0", "Q6_K"]
    assert (pair.ratio, pair.low, pair.high) == pytest.approx((1 + found.increase, 1 + found.low, 1 + found.high))
    assert order.pairs["Q6_K", "Q8_0"].low == pytest.approx(1 / pair.high)


def test_runs_that_ended_by_their_figures_have_bounds_for_every_look(lab: Measured) -> None:
    plain = orders_of(lab).ppl.pairs["Q8_0", "Q6_K"]
    for name, run in lab.of(PERPLEXITY).items():
        lab.of(PERPLEXITY)[name] = replace(run, order_seed=7, chunks=((0, 30),))
    early = orders_of(lab).ppl.pairs["Q8_0", "Q6_K"]
    assert early.low < plain.low and early.high > plain.high


def test_chance_alone_seldom_makes_a_first_place(lab: Measured) -> None:
    """Seven files of one quality: some pair is told apart in at most 5 of 100 labs."""
    wrong = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        for name in FORMATS:
            noise = random.normal(scale=0.01, size=(len(base_nll()), 1))
            lab.of(PERPLEXITY)[name] = perplexity_run(Path(lab.folder), name, base_nll() + noise)
        wrong += bool(orders_of(lab).ppl.shown)
    assert wrong <= 5


def test_gaps_leave_formats_out(lab: Measured) -> None:
    del lab.of(BENCH)["F16"], lab.of(PERPLEXITY)["F16"], lab.of(GENERATE)["Q8_0"]
    orders = orders_of(lab)
    assert "F16" not in orders.tg.names and orders.tg.first == ("Q4_K_S",)
    assert orders.ppl.names[0] == "Q8_0" and "Q8_0" not in orders.answers.names
    alone = orders_of(make_lab(Path(lab.folder).parent.parent / "one", ("F16",)))
    assert alone.tg.first == alone.ppl.first == alone.size.first == ("F16",)
    assert alone.tg.ranks == {"F16": (1, 1)}


def test_answers_within_chance_give_no_order(lab: Measured) -> None:
    lab.of(GENERATE)["Q4_K_M"] = generation_run("Q4_K_M", 190, 87, 9)
    lab.of(GENERATE)["Q4_K_S"] = generation_run("Q4_K_S", 194, 87, 9)
    assert not orders_of(lab).answers.apart("Q4_K_M", "Q4_K_S")
    lab.of(GENERATE)["Q4_K_M"] = generation_run("Q4_K_M", 180, 87, 9)
    assert orders_of(lab).answers.better("Q4_K_S", "Q4_K_M")


def test_one_chunk_tells_no_perplexities_apart(lab: Measured) -> None:
    for name, run in lab.of(PERPLEXITY).items():
        lab.of(PERPLEXITY)[name] = replace(run, chunks=((0, 1),))
    assert not orders_of(lab).ppl.shown


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0.1, 10), st.floats(1, 2)), min_size=1))
def test_ranks_hold_every_order_that_the_intervals_allow(figures: dict[str, tuple[float, float]]) -> None:
    """Figures known to a factor each: whatever the truth inside the intervals, the first is among `first`."""
    pairs = {
        (a, b): Pair(
            ratio=figures[a][0] / figures[b][0],
            low=figures[a][0] / figures[b][0] / (figures[a][1] * figures[b][1]),
            high=math.inf,
        )
        for a, b in itertools.permutations(figures, 2)
    }
    order = order_of({name: value for name, (value, _) in figures.items()}, pairs)
    for ends in itertools.product((-1, 1), repeat=len(figures)):
        truth = {name: v * f**end for (name, (v, f)), end in zip(figures.items(), ends, strict=True)}
        best = max(truth, key=lambda name: truth[name])
        top = [name for name in truth if truth[name] >= truth[best] * (1 - 1e-12)]
        assert any(name in order.first for name in top)
        for name, (low, high) in order.ranks.items():
            place = 1 + sum(value > truth[name] * (1 + 1e-12) for value in truth.values())
            assert low <= place + sum(value == truth[name] for value in truth.values()) - 1 and place <= high


def test_every_pair_stands_in_one_table_and_what_is_not_told_apart_is_grey(lab: Measured) -> None:
    folder = Path(lab.folder)
    same = base_nll() + 0.07 + np.random.default_rng(5).normal(scale=0.01, size=base_nll().shape)
    for name, change in (("Q4_K_M", 0.0), ("Q4_K_S", np.random.default_rng(6).normal(scale=0.002, size=same.shape))):
        lab.of(PERPLEXITY)[name] = perplexity_run(folder, name, same + change)
    order = orders_of(lab).ppl
    table, told = pairs(order)
    assert told in ("Not told apart: Q4_K_M and Q4_K_S.", "Not told apart: Q4_K_S and Q4_K_M.")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    names, body = rows[0][1:], rows[2:]
    cells = {(column, row[0]): cell for row in body for column, cell in zip(names, row[1:], strict=True) if cell != "-"}
    assert len(cells) == math.comb(len(FORMATS), 2)
    nll = load_nll(lab)
    for (better, worse), cell in cells.items():
        plain = re.sub("</?sub>", "", cell)
        low, high = (float(end) for end in plain.removesuffix(" %").split(" to "))
        increase = 100 * paired_increase(nll[worse], nll[better], 1 - 0.05 / 21).increase
        assert low - 0.005 <= increase <= high + 0.005
        assert cell.startswith("<sub>") == (low <= 0 <= high) or abs(low) < 0.01


def test_many_pairs_that_are_not_told_apart_are_counted(lab: Measured) -> None:
    rng = np.random.default_rng(7)
    for name in FORMATS[1:]:
        nll = base_nll() + rng.normal(scale=0.01, size=base_nll().shape)
        lab.of(PERPLEXITY)[name] = perplexity_run(Path(lab.folder), name, nll)
    assert re.fullmatch(r"\d+ of 21 are not told apart\.", pairs(orders_of(lab).ppl)[1])


def test_one_format_has_no_pairs(tmp_path: Path) -> None:
    assert pairs(orders_of(make_lab(tmp_path, ("F16",))).ppl) == ("", "")


def test_tied_formats_are_named_with_their_range_of_speeds(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    for name, tps in (("Q4_K_M", 2990.0), ("Q4_K_S", 3010.0)):
        lab.of(BENCH)[name] = speed_run(name, 6000, tps, 9)
    noisy = lab.of(BENCH)["Q4_K_S"]
    uneven = tuple(
        replace(v, token_s=tuple(tuple(s * (0.98, 1.0, 1.04)[v.round] for s in tokens) for tokens in v.token_s))
        for v in noisy.visits
    )
    lab.of(BENCH)["Q4_K_S"] = replace(noisy, visits=uneven)
    figures = figures_of(lab)
    orders = Orders(lab, figures)
    assert set(orders.tg.first) == {"Q4_K_M", "Q4_K_S"}
    none = dict.fromkeys(("reasoning", "ram", "balance"), Answer(rule="", text=""))
    line = others(figures, orders, "Q8_0", "F16", none)[0]
    ends = sorted(round(speed.tps) for name in orders.tg.first if (speed := figures[name].speed("tg")) is not None)
    assert f"(not told apart), {ends[0]} to {ends[1]} tokens per second" in line and ends[0] < ends[1]
