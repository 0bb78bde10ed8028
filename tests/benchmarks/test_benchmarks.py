"""The benchmark harness's pure parts: reading the tools' output, ratios and targets, and the page."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import claims, logs, records, report, stats
from benchmarks.__main__ import _comparable
from benchmarks.process import task_share
from labctl.errors import LabError
from labctl.steps.perplexity.scorer import perplexity

PERPLEXITY_LOG = """
0.00.452.396 I perplexity: calculating perplexity over 4 chunks, n_ctx=512, batch_size=2048, n_seq=4
0.00.998.300 I perplexity: 0.55 seconds per pass - ETA 0.01.022.631 I Final estimate: PPL = 18.6771 +/- 1.66885
0.00 minutes
[1]14.0688,[2]14.6422,[3]16.1951,[4]18.6771,
"""


# -- what the tools print ---------------------------------------------------------------------------------------------


def test_llama_perplexity_log() -> None:
    assert logs.running_perplexity(PERPLEXITY_LOG) == ("14.0688", "14.6422", "16.1951", "18.6771")
    assert logs.final_perplexity(PERPLEXITY_LOG) == ("18.6771", "1.66885")
    assert logs.chunks_done(PERPLEXITY_LOG) == 4
    assert logs.chunks_done("perplexity: tokenizing the input ..") == 0


def test_a_log_without_result_is_refused() -> None:
    with pytest.raises(ValueError, match="no final estimate"):
        logs.final_perplexity("[1]14.0688,")
    with pytest.raises(ValueError, match="not in order"):
        logs.running_perplexity("[1]14.0688,[3]16.1951,")
    with pytest.raises(ValueError, match="no results"):
        logs.bench_speeds("error: failed to load model")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_running_values_come_back_as_printed(values: list[float]) -> None:
    printed = "".join(f"[{number}]{value:.4f}," for number, value in enumerate(values, 1))
    assert logs.running_perplexity(printed) == tuple(f"{value:.4f}" for value in values)
    assert logs.chunks_done(printed) == len(values)


@given(st.lists(st.lists(st.floats(0, 20), min_size=3, max_size=3), min_size=1, max_size=12))
def test_running_perplexity_of_nll(rows: list[list[float]]) -> None:
    nll = np.array(rows)
    printed = logs.printed_running(nll)
    for count, text in enumerate(printed, 1):
        expected = perplexity(nll[:count])[0]
        assert float(text) == pytest.approx(expected, rel=1e-9, abs=6e-5)
    assert logs.printed_running(np.full((2, 5), math.log(50.0))) == ("50.0000", "50.0000")


def test_llama_bench_json() -> None:
    rows = [
        {"n_prompt": 512, "n_gen": 0, "samples_ns": [100_000_000, 128_000_000]},
        {"n_prompt": 0, "n_gen": 128, "samples_ns": [128_000_000]},
    ]
    speeds = logs.bench_speeds(json.dumps(rows))
    assert speeds == {"pp512": (5120.0, 4000.0), "tg128": (1000.0,)}
    with pytest.raises(ValueError, match="mixes"):
        logs.bench_speeds(json.dumps([{"n_prompt": 512, "n_gen": 128, "samples_ns": [1]}]))


def test_version_and_features() -> None:
    text = "version: 0.5.0-dev (build 0, commit unknown)\nbuilt with GNU 12.2.0 for Linux x86_64\n"
    assert logs.tool_version(text) == "0.5.0-dev"
    assert logs.tool_version("usage: llama-perplexity") == ""
    line = (
        "0.0 I x\n0.1 I system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CPU : SSE3 = 1 | AVX2 = 1 | REPACK = 1 |"
    )
    assert logs.system_features(line) == {"SSE3": "1", "AVX2": "1", "REPACK": "1"}
    assert logs.system_features("CPU : SSE3 = 1 | AVX2 = 1 | REPACK = 1") == logs.system_features(line)


def test_build_log() -> None:
    assert logs.build_progress("[12/345] Building CXX object x.o") == (12, 345)
    assert logs.build_progress("[  7%] Building CXX object x.o") == (7, 100)
    assert logs.build_progress("-- Configuring done") is None
    assert logs.last_error(["ok", "x.cpp:1:2: error: no such thing", "ninja: build stopped"]).startswith("x.cpp:1:2")
    assert logs.last_error(["one", "two"]) == "two"
    assert logs.last_error([]) == "it printed nothing"


def test_share_of_a_task() -> None:
    event = '{"event":"progress","done":3,"total":4,"note":"9 t/s"}\n'
    assert task_share(event) == 0.75
    assert task_share(event + '{"event":"prog') == 0.75
    assert task_share("") is None


# -- ratios and targets -----------------------------------------------------------------------------------------------

figures = st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=3, max_size=12)


@given(figures)
def test_ratio_is_within_rounds_and_turns_around(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    one, other = stats.ratio(ours, theirs), stats.ratio(theirs, ours)
    within = sorted(a / b for a, b in pairs)
    assert within[0] <= one.value * (1 + 1e-9) and one.value <= within[-1] * (1 + 1e-9)
    assert len(within) % 2 == 0 or one.value == pytest.approx(within[len(within) // 2])
    assert one.value * other.value == pytest.approx(1)
    assert one.low == pytest.approx(1 / other.high) and one.high == pytest.approx(1 / other.low)


def test_interval_of_a_known_case() -> None:
    # Log ratios -0.1, 0 and 0.1: range 0.2, of which 1.342 to either side of the median.
    one = stats.ratio([math.exp(-0.1), 1, math.exp(0.1)], [1, 1, 1])
    assert (one.low, one.high) == pytest.approx((math.exp(-0.2684), math.exp(0.2684)))


def test_few_rounds() -> None:
    two = stats.ratio([2.0, 4.0], [2.0, 2.0])
    assert two.value == pytest.approx(math.sqrt(2)) and two.low < 1 < two.high
    one = stats.ratio([1.0], [2.0])
    assert one.value == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    with pytest.raises(ValueError, match="cannot be compared"):
        stats.ratio([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="positive"):
        stats.ratio([0.0], [1.0])


def test_targets() -> None:
    assert stats.PERPLEXITY_WALL.met(0.95) and not stats.PERPLEXITY_WALL.met(0.9501)
    assert stats.SPEED.met(0.95) and stats.SPEED.met(1.05) and not stats.SPEED.met(1.051) and not stats.SPEED.met(0.949)
    assert not stats.AS_IT_COMES.met(math.nan)


# -- the page ---------------------------------------------------------------------------------------------------------


def _sample(side: str, step: str, wall_s: float, number: int = 1, label: str = "F16", peak: int = 80) -> records.Sample:
    return records.Sample(
        side=side,
        format=label,
        round=number,
        step=step,
        wall_s=wall_s,
        cpu_s=wall_s,
        peak_rss_bytes=peak,
        floor_bytes=9,
    )


def _both(step: str, ours: float, theirs: float, label: str = "F16") -> tuple[records.Sample, ...]:
    return tuple(
        _sample(side, step, wall_s, number, label, peak)
        for number in (1, 2, 3)
        for side, wall_s, peak in ((records.OURS, ours, 80), (records.THEIRS, theirs, 100))
    )


VERDICTS = (
    records.VerdictPair(
        format="Q8_0",
        n_chunks=48,
        n_chunks_text=600,
        early="pass",
        early_low=0.0,
        early_high=0.01,
        whole="pass",
        increase=0.001,
        low=0.0005,
        high=0.0015,
        look_s=0.0002,
        n_settled=48,
        settled="pass",
    ),
    records.VerdictPair(
        format="Q5_K_M",
        n_chunks=90,
        n_chunks_text=600,
        early="undecided",
        early_low=0.018,
        early_high=0.023,
        whole="fail",
        increase=0.0205,
        low=0.0195,
        high=0.0215,
        look_s=0.0004,
        n_settled=450,
        settled="fail",
    ),
)
_KL = {"mean": 0.073, "median": 0.05, "90 %": 0.15, "99 %": 0.3, "maximum": 1.223006, "same top token, %": 83.873}
DIVERGENCE = records.DivergencePair(
    format="Q4_K_M",
    n_chunks=16,
    ours={**_KL, "99 %": 0.3001, "maximum": 1.2229},
    theirs=_KL,
    stored={**_KL, "99 %": 0.300004},
)


SETTINGS = {"chunks": None, "limit": 0.02, "baseline_chunks": 90, "baseline_chunks_settled": 450}
COVERAGE = (
    records.Coverage(kind="normal", asked="this text", gives_up=False, n_texts=1000, n_chunks=648, n_wrong=23),
    records.Coverage(
        kind=f"Q8_0, {records.REAL}", asked="text like it", gives_up=False, n_texts=1000, n_chunks=648, n_wrong=51
    ),
)


def _section(**parts: Any) -> records.Section:
    return records.Section(taken_at="2026-01-01T00:00:00+00:00", settings=SETTINGS, **parts)


PAIR = records.PerplexityPair(
    format="F16",
    n_chunks=2,
    ours_running=("9.0000", "8.0000"),
    theirs_running=("9.0000", "8.0000"),
    ours=("8.0000", "0.10000"),
    theirs=("8.0000", "0.10000"),
)
FILES = records.QuantizedPair(
    format="Q8_0",
    ours_bytes=10,
    theirs_bytes=10,
    ours_types={"Q8_0": 3},
    theirs_types={"Q8_0": 3},
    n_tensors=3,
    n_same_type=3,
    n_same_bytes=3,
    same_file=True,
)


def _speeds(side: str, test: str, tps: float) -> tuple[records.SpeedSample, ...]:
    return tuple(
        records.SpeedSample(side=side, format="F16", round=number, test=test, tps=(tps, tps)) for number in (1, 2, 3)
    )


@pytest.fixture
def results() -> records.Results:
    lab = (
        dataclasses.replace(_sample(records.OURS, "lab", 80.0), format=""),
        dataclasses.replace(_sample(records.OURS, records.AS_NEEDED, 20.0), format=""),
        *(_sample(records.THEIRS, step, 25.0) for step in ("quantize", "perplexity", "generate", "bench")),
    )
    stages = records.LabStages(
        round=1,
        stage_s={"quantize": 10.0, "perplexity": 40.0, "generate": 10.0, "memory": 5.0, "bench": 10.0, "start": 5.0},
        extra_s={"memory": 5.0, "start": 5.0},
    )
    starts = tuple(
        dataclasses.replace(_sample(records.OURS, step, wall_s, number), format="")
        for step, wall_s in (("help", 0.2), ("second run", 2.5))
        for number in (1, 2, 3)
    )
    speeds = (
        *_speeds(records.OURS, "pp512", 100.0),
        *_speeds(records.THEIRS, "pp512", 102.0),
        *_speeds(records.OURS, "tg128", 9.0),
        *_speeds(records.THEIRS, "tg128", 10.0),
    )
    model = records.ModelResults(
        name="toy",
        model={"size_bytes": 1000, "sha256": "ab" * 32, "baseline": "F16", "origin": "gguf"},
        text={"name": "a|b", "kind": "custom", "size_bytes": 10, "sha256": "cd" * 32},
        formats=("F16",),
        n_threads=2,
        machine={
            "cpu_model": "CPU",
            "n_cores_physical": 2,
            "n_cores_logical": 4,
            "ram_bytes": 8_000_000_000,
            "os": "Linux",
            "arch": "x86_64",
        },
        versions={"labctl": "0.1.0"},
        sections={
            "1": _section(perplexity=(PAIR,)),
            "2": _section(samples=_both("perplexity", 9.0, 10.0), perplexity=(PAIR,)),
            "3": _section(samples=_both("quantize", 3.0, 2.0, "Q8_0"), quantized=(FILES,)),
            "4": _section(speed=speeds),
            "5": _section(samples=lab, stages=(stages,)),
            "6": _section(samples=starts),
            "7": _section(verdicts=VERDICTS),
            "8": _section(divergence=(DIVERGENCE,)),
            "9": _section(coverage=COVERAGE),
        },
    )
    return records.Results(models={"toy": model})


def test_claims_follow_from_the_samples(results: records.Results) -> None:
    found = {claim.what: claim for claim in claims.claims(results.models["toy"])}
    assert {what: claim.met for what, claim in found.items()} == {
        "perplexity to 4 decimals and its standard error to 5": True,
        "wall time of the perplexity step, all formats": True,
        "wall time of each format; labctl tokenizes in the first one, for all": True,
        "peak memory of the perplexity step": True,
        "quantized tensors": True,
        "pp512 tokens per second": True,
        "tg128 tokens per second": False,
        "labctl run as it comes, against the loops over the whole text": True,
        "labctl --help": True,
        "a second labctl run": False,
        "verdicts from chunks as needed": True,
        "tokens of all formats": False,
        "verdicts with --settle": True,
        "tokens of all formats with --settle": False,
        "one decision": True,
        "KL divergence (mean, median, quantiles), the baseline in 16 bits on both sides": True,
        "wrong verdicts of this text at the limit itself, a look after every chunk": True,
        "wrong verdicts of text like it at the limit itself, a look after every chunk": False,
    }
    assert found["wall time of the perplexity step, all formats"].value == pytest.approx(0.9)
    assert found["peak memory of the perplexity step"].value == pytest.approx(0.8)
    assert found["labctl run as it comes, against the loops over the whole text"].value == pytest.approx(0.2)
    assert found["tokens of all formats"].value == (90 + 48 + 90) / 1800
    assert found["tokens of all formats with --settle"].value == (450 + 48 + 450) / 1800
    divergence = found["KL divergence (mean, median, quantiles), the baseline in 16 bits on both sides"]
    assert divergence.value == pytest.approx(0.000004)
    assert "32 bits 0.000100" in divergence.result


def _replace(results: records.Results, name: str, section: records.Section) -> records.Results:
    model = results.models["toy"]
    return records.Results(models={"toy": dataclasses.replace(model, sections={**model.sections, name: section})})


def test_one_wrong_digit_is_not_parity(results: records.Results) -> None:
    running = dataclasses.replace(PAIR, ours_running=("9.0001", "8.0000"))
    assert not running.same and running.n_equal == 1
    claim = claims.claims(_replace(results, "1", _section(perplexity=(running,))).models["toy"])[0]
    assert claim.met and "1 of 2 running values" in claim.result  # the target is about the figure for all chunks
    wrong = dataclasses.replace(PAIR, ours=("8.0001", PAIR.ours[1]))
    claim = claims.claims(_replace(results, "1", _section(perplexity=(wrong,))).models["toy"])[0]
    assert not claim.met and "0 of 1 formats" in claim.result


def test_another_verdict_or_divergence_is_not_met(results: records.Results) -> None:
    other = _section(verdicts=(dataclasses.replace(VERDICTS[0], early="fail", n_chunks=61, look_s=0.002), VERDICTS[1]))
    found = claims.claims(_replace(results, "7", other).models["toy"])
    assert [claim.met for claim in found if claim.section == "7"] == [False, False, True, False, False]
    two_open = _section(verdicts=tuple(dataclasses.replace(one, early="undecided") for one in VERDICTS))
    found = claims.claims(_replace(results, "7", two_open).models["toy"])
    assert [claim.met for claim in found if claim.what == "verdicts from chunks as needed"] == [False]
    far = dataclasses.replace(DIVERGENCE, stored={**DIVERGENCE.stored, "99 %": 0.30002})
    found = claims.claims(_replace(results, "8", _section(divergence=(far,))).models["toy"])
    assert [claim.met for claim in found if claim.section == "8"] == [False]


def test_divergence_is_read_from_what_llama_perplexity_prints() -> None:
    text = (
        "Mean    KLD:   0.073000 ±   0.000912\nMaximum KLD:   1.223006\n99.9%   KLD:   0.800000\n"
        "99.0%   KLD:   0.300000\n95.0%   KLD:   0.200000\n90.0%   KLD:   0.150000\nMedian  KLD:   0.050000\n"
        "Same top p: 83.873 ± 0.575 %\n"
    )
    assert logs.divergence_figures(text) == DIVERGENCE.theirs
    with pytest.raises(ValueError, match="no median"):
        logs.divergence_figures(text.replace("Median", "Middle"))


def test_one_wrong_tensor_is_not_identity(results: records.Results) -> None:
    wrong = dataclasses.replace(FILES, n_same_bytes=2)
    changed = _replace(results, "3", dataclasses.replace(results.models["toy"].sections["3"], quantized=(wrong,)))
    claim = next(one for one in claims.claims(changed.models["toy"]) if one.section == "3")
    assert not claim.met and claim.result.startswith("2 of 3 tensors")


def test_one_slow_format_is_not_hidden_by_the_sum(results: records.Results) -> None:
    model = dataclasses.replace(results.models["toy"], formats=("F16", "Q8_0"))
    samples = (*_both("perplexity", 90.0, 100.0), *_both("perplexity", 1.2, 1.0, "Q8_0"))
    model = dataclasses.replace(model, sections={"2": _section(samples=samples, perplexity=(PAIR,))})
    together, each, _ = claims.claims(model)
    assert together.value < 0.95 and together.met
    assert not each.met and "1 of 2 formats; the furthest, Q8_0, 1.200" in each.result


def test_page_and_file_round_trip(results: records.Results, tmp_path: Path) -> None:
    report.write(tmp_path, results)
    assert report.read(tmp_path) == results
    page = (tmp_path / "RESULTS.md").read_text("utf-8")
    assert page.count("**not met**") >= 2 and "a\\|b" in page
    assert "| F16 | 9.00 | 10.00 | 0.900 | 0.900 to 0.900 | met |" in page
    assert "12 % of its run" in page and "0.700 of the loops' time" in page
    stored = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert len(stored["claims"]["toy"]) == 18
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") >= 3


def test_sections_of_an_earlier_run_stay_while_nothing_has_changed(results: records.Results, tmp_path: Path) -> None:
    model = dataclasses.replace(
        results.models["toy"], machine={**results.models["toy"].machine, "flags": ("avx", "f16c")}
    )
    report.write(tmp_path, records.Results(models={"toy": model}))
    known = report.read(tmp_path).models["toy"]
    assert _comparable(known, model)
    assert not _comparable(known, dataclasses.replace(model, n_threads=3))
    assert not _comparable(known, dataclasses.replace(model, versions={"labctl": "0.2.0"}))


def test_rows_of_a_table_have_its_columns(results: records.Results) -> None:
    widths: list[int] = []
    for line in report.page(results).splitlines():
        if line.startswith("|"):
            widths.append(line.replace("\\|", "").count("|"))
            assert widths[-1] == widths[0], line
        else:
            widths = []


def test_results_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert report.read(tmp_path) == records.Results()
    (tmp_path / "results.json").write_text('{"schema": 99}')
    with pytest.raises(LabError, match="schema 99"):
        report.read(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(LabError, match="cannot be read"):
        report.read(tmp_path)
