"""Sampling does what its settings say, and questions side by side are answered as one by one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import LabError
from labctl.steps.generate.record import GenerateTask, Written
from labctl.steps.generate.step import PROMPTS, texts_side_by_side

Generate = Callable[..., Written]


@pytest.fixture(scope="module")
def generate(child: Callable[..., Any], quantized: Any) -> Generate:
    def run(label: str = "F16", **options: Any) -> Written:
        settings = {
            "n_ctx": 512,
            "n_side": 16,
            "n_side_texts": 1,
            "prompts": PROMPTS[:2],
            "n_tokens": 12,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 42,
            "probes": {},
            "probe_items": None,
            "n_threads": 1,
            **options,
        }
        record: Written = child(GenerateTask(model_path=str(quantized.paths[label]), format=label, **settings), Written)
        return record

    return run


@pytest.fixture(scope="module")
def first(generate: Generate) -> Written:
    return generate()


def tokens(run: Written, decoding: str) -> list[tuple[int, ...]]:
    return [one.tokens for one in run.generations if one.decoding == decoding]


_GREEDY = """
import json, sys
import numpy as np
from llama_cpp import Llama
llama = Llama(sys.argv[1], n_ctx=512, n_threads=1, logits_all=True, flash_attn=True, verbose=False)
found = []
for prompt in sys.argv[2:]:
    llama.reset()
    llama.eval(llama.tokenize(prompt.encode(), add_bos=True, special=False))
    ids = []
    for _ in range(12):
        ids.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
        llama.eval(ids[-1:])
    found.append(ids)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_greedy_decoding_takes_the_most_likely_token_each_time(first: Written, demo_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _GREEDY, str(demo_model), *PROMPTS[:2]],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert [list(one) for one in tokens(first, "greedy")] == json.loads(done.stdout)


def test_the_same_seed_gives_the_same_text_and_another_does_not(first: Written, generate: Generate) -> None:
    again, other = generate(), generate(seed=43)
    assert tokens(again, "sampled") == tokens(first, "sampled")
    assert tokens(other, "sampled") != tokens(first, "sampled")
    assert tokens(other, "greedy") == tokens(first, "greedy")


def test_a_tiny_top_p_leaves_the_most_likely_token_only(first: Written, generate: Generate) -> None:
    assert tokens(generate(top_p=1e-6, temperature=5.0), "sampled") == tokens(first, "greedy")


def test_temperature_takes_part(first: Written, generate: Generate) -> None:
    assert tokens(generate(temperature=3.0, top_p=1.0), "sampled") != tokens(first, "sampled")


def test_every_prompt_is_continued_both_ways_and_the_parts_agree(first: Written) -> None:
    assert [(one.prompt_number, one.decoding) for one in first.generations] == [
        (1, "sampled"),
        (1, "greedy"),
        (2, "sampled"),
        (2, "greedy"),
    ]
    for one in first.generations:
        assert one.prompt == PROMPTS[one.prompt_number - 1]
        assert len(one.tokens) == len(one.pieces) <= 12
        assert "".join(one.pieces) == one.text
        assert one.n_prompt_tokens > 0
    assert first.prompts_s > 0


def test_the_demo_model_answers_the_labs_sum(generate: Generate) -> None:
    run = generate(prompts=PROMPTS[4:], n_tokens=8)
    text = next(one for one in run.generations if one.decoding == "greedy").text
    assert text.strip().startswith(("8", "5 + 3 = 8"))


def test_probes_are_asked_and_scored(generate: Generate, root: Path) -> None:
    folder = root / "lab_data/demo/probes"
    run = generate(prompts=(), probes={"capitals": str(folder / "capitals.csv")}, probe_items=12)
    (capitals,) = run.probes
    assert (capitals.name, len(capitals.answers), capitals.n_correct) == ("capitals", 12, 12)  # F16 knows all 194
    assert all(one.output.strip().startswith(one.expected) for one in capitals.answers)


@pytest.mark.parametrize("label", ["F16", "Q4_K_M", "Q3_K_M"])
def test_questions_side_by_side_are_answered_as_one_by_one(generate: Generate, root: Path, label: str) -> None:
    folder = root / "lab_data/demo/probes"
    settings: dict[str, Any] = {
        "prompts": (),
        "probe_items": 60,
        "probes": {name: str(folder / f"{name}.csv") for name in ("capitals", "sums")},
    }
    together, alone = (generate(label, n_side=n_side, **settings) for n_side in (16, 1))
    for a, b in zip(together.probes, alone.probes, strict=True):
        # Sums in another order may tip an answer that hangs in the balance, where 8-bit rounding makes them differ.
        same = sum(x.correct == y.correct for x, y in zip(a.answers, b.answers, strict=True))
        assert same >= (60 if label == "F16" else 56)


def test_texts_do_not_depend_on_how_many_threads_write_them(generate: Generate, quantized: Any, root: Path) -> None:
    """Two contexts at the same time, or one after the other: the same tokens in every format."""
    probes = {"sums": str(root / "lab_data/demo/probes/sums.csv")}
    for label in ("F16", "Q4_K_M"):
        one, two = (generate(label, probes=probes, probe_items=40, n_threads=n_threads) for n_threads in (1, 2))
        assert (one.generations, one.probes) == (two.generations, two.probes)


def test_texts_side_by_side_are_those_written_alone(first: Written, generate: Generate) -> None:
    """With F16, which rounds nothing between layers; and in the same order."""
    together = generate(n_side_texts=2)
    assert together.generations == first.generations


@pytest.mark.parametrize(("n_params", "n_side"), [(134_515_008, 1), (499_999_999, 1), (1_543_714_304, 5)])
def test_texts_of_a_large_model_are_written_side_by_side(n_params: int, n_side: int) -> None:
    assert texts_side_by_side(n_params) == n_side


def test_questions_that_fill_the_cache_take_turns(generate: Generate, root: Path) -> None:
    settings: dict[str, Any] = {
        "prompts": (),
        "probe_items": 20,
        "probes": {"sums": str(root / "lab_data/demo/probes/sums.csv")},
    }
    roomy, narrow = (generate(n_ctx=n_ctx, **settings).probes[0] for n_ctx in (512, 96))  # 96: two at a time
    assert [one.prompt for one in narrow.answers] == [one.prompt for one in roomy.answers]
    assert [one.correct for one in narrow.answers] == [one.correct for one in roomy.answers]


def test_a_prompt_that_does_not_fit_is_refused(generate: Generate) -> None:
    with pytest.raises(LabError, match="do not fit in 512 tokens"):
        generate(n_tokens=600)
