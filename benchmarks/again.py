"""Comparison 12: the same speeds measured again and again, on an idle machine and beside a load."""

from __future__ import annotations

import itertools
import sys
import time

from benchmarks.bench import Bench, section
from benchmarks.busy import state_of
from benchmarks.load import BURST_S
from benchmarks.records import BUSY, QUIET, Section, SpeedAgain
from labctl.cli.output import Display
from labctl.lab.config import LabConfig
from labctl.pipeline.opening import open_lab
from labctl.pipeline.run import run
from labctl.report.figures import figures_of
from labctl.report.order import Orders
from labctl.steps.bench.ratios import TESTS
from labctl.steps.bench.step import BENCH
from labctl.steps.quantize.step import QUANTIZE


class _Silent(Display):
    """Shows nothing: of each run, what it warns of is not the point here."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def warn(self, text: str) -> None:
        return None


def again(bench: Bench) -> Section:
    """(12) `labctl bench` as it comes, on an idle machine and beside the load in turn."""
    count = bench.settings.again
    bench.runner.screen.section("12. Speeds again", 2 * count)
    folder = bench.fresh_folder("again")
    config = LabConfig(
        model=bench.lab.model.path,
        text="demo",
        formats=bench.quantized,
        threads=bench.lab.n_threads,
        bench_budget_s=bench.lab.config.bench_seconds(bench.lab.is_demo),
        outputs=str(folder / "outputs"),
        reports=str(folder / "reports"),
        allow_quantized_source=bench.lab.config.allow_quantized_source,
        yes=True,
    )
    display = _Silent()
    lab = open_lab(config, display, notices=False)
    run(lab, display, names=(QUANTIZE,), report=False)
    found: list[SpeedAgain] = []
    for number, state in itertools.product(range(1, count + 1), (QUIET, BUSY)):
        begun = time.perf_counter()
        with state_of(state, 200 + number):
            done = run(lab, display, names=(BENCH,), force=(BENCH.name,), report=False)
        orders = Orders(done.records, figures_of(done.records))
        for (one, other), test in itertools.product(itertools.combinations(lab.formats, 2), TESTS):
            ratio, pair = orders.ratio(other, one, test), orders.speed(test).pairs.get((other, one))
            if ratio is not None and pair is not None:
                most = sys.float_info.max  # JSON knows no infinity
                found.append(
                    SpeedAgain(
                        state=state,
                        number=number,
                        test=test,
                        formats=(other, one),
                        ratio=ratio.ratio,
                        low=ratio.low,
                        high=min(ratio.high, most),
                        order_low=pair.low,
                        order_high=min(pair.high, most),
                    )
                )
        bench.runner.screen.step(f"speed, {state}, run {number}", time.perf_counter() - begun)
    settings = {
        "runs": count,
        "bench_budget_s": config.bench_budget_s,
        "n_threads": lab.n_threads,
        "load": f"one core, bursts and pauses of {BURST_S[0]:g} to {BURST_S[1]:g} s",
    }
    return section(settings, again=found)
