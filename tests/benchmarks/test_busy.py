"""Comparisons 10 and 11: the load, what is claimed of speeds beside it, and of predictions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from benchmarks import claims, records, report
from benchmarks.load import BURST_S, bursts
from benchmarks.records import BUSY, OURS, QUIET, THEIRS, BusyPair, Prediction, SpeedAgain


def test_the_load_is_busy_half_of_the_time_in_bursts_that_repeat() -> None:
    first = list(itertools.islice(bursts(3), 2000))
    assert first == list(itertools.islice(bursts(3), 2000)) != list(itertools.islice(bursts(4), 2000))
    assert all(BURST_S[0] <= seconds <= BURST_S[1] for pair in first for seconds in pair)
    busy_s, idle_s = (sum(column) for column in zip(*first, strict=True))
    assert busy_s / (busy_s + idle_s) == pytest.approx(0.5, abs=0.02)


def pair(label: str, test: str, quiet: float, busy: float, low: float, high: float) -> BusyPair:
    return BusyPair(
        format=label,
        test=test,
        quiet=quiet,
        busy=busy,
        low=low,
        high=high,
        n_undisturbed=5,
        n_all=9,
        undisturbed_slower=1.02,
        all_slower=2.5,
    )


def sample(side: str, state: str, wall_s: float) -> records.Sample:
    return records.Sample(
        side=side, format="F16", round=1, wall_s=wall_s, cpu_s=1.0, peak_rss_bytes=1, floor_bytes=0, step=state
    )


SAMPLES = (sample(OURS, QUIET, 10.0), sample(OURS, BUSY, 14.0), sample(THEIRS, QUIET, 11.0), sample(THEIRS, BUSY, 30.0))
PAIRS = (
    pair("F16", "tg", 1.0, 1.0, 1.0, 1.0),
    pair("Q8_0", "tg", 1.5, 1.53, 1.4, 1.6),
    pair("Q6_K", "tg", 1.5, 1.47, 1.4, 2.0),
    pair("Q4_K_M", "tg", 1.5, 9.0, 0.0, 1e300),
)


def results(**parts: object) -> records.ModelResults:
    section = records.Section(
        taken_at="now",
        settings={"cache_bytes": 100},
        **parts,  # type: ignore[arg-type]
    )
    return records.ModelResults(
        name="m",
        model={},
        text={},
        formats=("F16", "Q8_0"),
        n_threads=2,
        machine={},
        versions={},
        sections={{"predictions": "11", "again": "12"}.get(next(iter(parts)), "10"): section},
    )


def test_speeds_beside_a_load_are_near_or_unsure() -> None:
    ratios, undisturbed, ours, theirs = claims.claims(results(busy=PAIRS, samples=SAMPLES))
    assert ratios.met and ratios.result == "0.020 off at most; 1 of 3 undecided"
    assert undisturbed.met and undisturbed.value == 1.02 and "all times together are 2.50" in undisturbed.result
    assert ours.met and ours.value == pytest.approx(1.4)
    assert theirs.value == pytest.approx(30 / 11) and theirs.target.startswith("none")
    wrong = (*PAIRS, pair("Q3_K_M", "pp", 1.0, 1.06, 0.9, 1.2))  # known, and further off than it may be
    assert not claims.claims(results(busy=wrong, samples=SAMPLES))[0].met
    slow = (*PAIRS, replace(PAIRS[1], undisturbed_slower=1.2))
    assert not claims.claims(results(busy=slow, samples=SAMPLES))[1].met
    none = (replace(PAIRS[0], undisturbed_slower=None), *slow)  # a format without an undisturbed time hides no other
    assert claims.claims(results(busy=none, samples=SAMPLES))[1].value == 1.2


def test_predictions_count_for_files_larger_than_the_cache() -> None:
    found = (
        Prediction(format="F16", size_bytes=300, measured_tps=10.0, n_rounds=3, predicted_tps=11.0),
        Prediction(format="Q8_0", size_bytes=200, measured_tps=20.0, n_rounds=3, predicted_tps=18.0),
        Prediction(format="Q6_K", size_bytes=150, measured_tps=20.0, n_rounds=3, predicted_tps=None),
        Prediction(format="Q3_K_M", size_bytes=50, measured_tps=20.0, n_rounds=3, predicted_tps=5.0),
    )
    (claim,) = claims.claims(results(predictions=found))
    assert claim.met and claim.value == pytest.approx(0.1)
    assert claim.result == "0.100 off at most, 2 of 4 files; 1 in the cache, 1 of types never timed"
    page = report._SECTIONS["11"](results(predictions=found), results(predictions=found).sections["11"])
    assert "| F16 | 0 | 10.0 | 11.0 | +10 % |" in page and "types never timed" in page
    assert not claims.claims(results(predictions=(replace(found[0], predicted_tps=12.0),)))[0].met
    page = report._SECTIONS["10"](results(busy=PAIRS, samples=SAMPLES), results(busy=PAIRS).sections["10"])
    assert "| Q4_K_M, tg | 1.500 | 9.000 | undecided |" in page


def run_again(state: str, number: int, ratio: float, low: float, high: float, label: str = "Q8_0") -> SpeedAgain:
    return SpeedAgain(state=state, number=number, test="tg", formats=(label, "F16"), ratio=ratio, low=low, high=high)


def test_runs_are_held_against_each_other_and_against_all_quiet_ones() -> None:
    runs = (
        run_again(QUIET, 1, 1.50, 1.48, 1.52),
        run_again(QUIET, 2, 1.51, 1.49, 1.53),
        run_again(QUIET, 3, 1.60, 1.59, 1.62),
        run_again(QUIET, 4, 9.00, 0.0, 1e300),  # no interval: no claim, and none about it
        run_again(BUSY, 1, 1.40, 0.90, 1.80),
        run_again(BUSY, 2, 0.90, 0.80, 0.95),
        run_again(BUSY, 3, 1.45, 1.20, 1.90),
    )
    model = results(again=runs)
    near, covered, quiet, busy = claims.claims(model)
    assert near.value == pytest.approx(1 / 3) and covered.value == pytest.approx(2 / 6)
    assert not near.met and not covered.met
    assert quiet.met and quiet.value == 0
    assert busy.value == 1 and not busy.met
    assert busy.result == "1 of 2 that were told apart (3 in all); of formats that differ by 51.0 % at most"
    page = report._SECTIONS["12"](model, model.sections["12"])
    assert "| Q8_0 over F16, tg, beside a load | 1.400 | 0.900 to 1.450 | 2 of 3 |" in page
