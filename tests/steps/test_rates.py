"""What a step is expected to take, by the rates of a model on a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl import steps
from labctl.lab.lab import Lab
from labctl.pipeline.plan import STEPS
from labctl.steps.bench.step import BENCH
from labctl.steps.generate.step import GENERATE
from labctl.steps.rates import STAND_INS, Rates

F16 = Rates(n_params=100_000_000, bits=16.0, prompt_s=0.002, token_s=0.02, open_s=0.2)


@pytest.fixture
def lab(new_lab: Path, open_lab: Callable[..., Lab]) -> Lab:
    return open_lab(new_lab, text="demo", formats=("Q8_0", "Q4_K_M"))


def test_a_format_of_fewer_bits_is_faster_and_opened_sooner() -> None:
    small = F16.at(4.0)
    assert small.open_s == pytest.approx(0.05)
    assert 0.25 * F16.token_s < small.token_s < 0.5 * F16.token_s
    assert small.prompt_s < F16.prompt_s
    assert F16.at(16.0) == F16
    assert small.at(3.0).prompt_s == small.prompt_s, "of quantized files one reads a prompt like the other"


def test_another_model_takes_as_much_more_as_it_is_larger() -> None:
    large = F16.of(700_000_000)
    assert (large.prompt_s, large.token_s, large.open_s) == pytest.approx((0.014, 0.14, 1.4))


def test_a_process_starts_opens_reads_and_generates() -> None:
    assert F16.process_s(n_prompt=100, n_new=10) - F16.process_s() == pytest.approx(0.4)
    assert F16.process_s() > F16.open_s


def test_every_step_is_expected_to_take_longer_with_a_slower_model(lab: Lab) -> None:
    slow = F16.of(1_000_000_000)
    for step in steps.every(STEPS):
        quick_s, slow_s = (step.total_s(lab, step.cases(lab), rates) for rates in (F16, slow))
        assert 0 < quick_s < slow_s, step.name
        assert step.total_s(lab, (), F16) == 0, step.name


def test_speed_takes_the_time_that_it_was_given(lab: Lab) -> None:
    given = dataclasses.replace(lab, config=dataclasses.replace(lab.config, bench_budget_s=90.0))
    assert BENCH.total_s(given, BENCH.cases(given), F16) == pytest.approx(90)


def test_texts_of_a_large_model_take_a_fraction_of_their_time_alone(lab: Lab) -> None:
    large = F16.of(1_500_000_000)
    alone_s = 2 * 5 * lab.config.new_tokens * large.token_s
    questions_s = GENERATE.seconds(dataclasses.replace(lab, probes={}), GENERATE.case(lab, "F16"), large)
    assert large.process_s() < questions_s < large.process_s() + alone_s / 3


def test_types_that_stand_in_for_k_quants_read_prompts_slower() -> None:
    stand_ins = dataclasses.replace(F16, share=STAND_INS)
    assert stand_ins.at(4.5).prompt_s > F16.prompt_s > F16.at(4.5).prompt_s
    assert stand_ins.at(8.5).prompt_s == F16.at(8.5).prompt_s == F16.prompt_s
    assert stand_ins.at(4.5).token_s == F16.at(4.5).token_s
