"""Perplexity agrees with llama-perplexity, and with a slow computation that shares no code with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labctl.engines.llama_cpp.chunks import _slices
from labctl.errors import LabError
from labctl.records.arrays import load_rows
from labctl.records.sources import TextSource
from labctl.steps.perplexity.record import BatchShape, PerplexityRun
from labctl.steps.perplexity.scorer import chunk_nll, chunk_order, perplexity, read_text

FORMATS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M")
HAVE_WIKITEXT = Path(
    os.environ.get("LABCTL_WIKITEXT")
    or Path(__file__).resolve().parents[4] / "shared/data/wikitext-2-raw/wiki.test.raw"
).is_file()
OTHER_CPU = 0.002
"""Relative difference between two CPUs' kernels that is still the same computation."""

Measure = Callable[..., PerplexityRun]


def running_ppl(path: Path, n_chunks: int) -> np.ndarray:
    """Perplexity over the first 1, 2, ... chunks."""
    nll = load_rows(path)
    assert nll is not None
    return np.exp(np.cumsum(nll[:n_chunks].mean(axis=1)) / np.arange(1, n_chunks + 1))


# -- exact facts ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(2, 400), st.floats(-50, 50))
def test_uniform_logits_give_a_perplexity_of_the_vocabulary(n_tokens: int, n_vocab: int, level: float) -> None:
    nll = chunk_nll(np.full((n_tokens, n_vocab), level, np.float32), np.arange(n_tokens, dtype=np.int32) % n_vocab)
    assert perplexity(nll)[0] == pytest.approx(n_vocab, rel=1e-6)


def test_a_perfect_predictor_has_perplexity_1_and_a_sure_but_wrong_one_its_margin() -> None:
    logits = np.full((3, 10), -100.0, np.float32)
    logits[np.arange(3), [1, 5, 9]] = 100.0
    assert perplexity(chunk_nll(logits, np.array([1, 5, 9]))) == (1.0, 0.0)
    assert chunk_nll(logits, np.array([2, 5, 0])).tolist() == [200.0, 0.0, 200.0]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 40)), elements=st.floats(-60, 60, width=32)),
    st.data(),
)
def test_chunk_nll_is_log_softmax_and_leaves_the_logits_alone(logits: np.ndarray, data: st.DataObject) -> None:
    from scipy.special import log_softmax

    targets = np.array(
        data.draw(st.lists(st.integers(0, logits.shape[1] - 1), min_size=len(logits), max_size=len(logits)))
    )
    before = logits.copy()
    expected = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(logits)), targets]
    assert chunk_nll(logits, targets) == pytest.approx(expected, abs=1e-5)
    assert (logits == before).all()


def test_blocks_of_a_large_vocabulary_do_not_change_a_bit() -> None:
    logits = np.random.default_rng(1).normal(0, 5, (37, 70_001)).astype(np.float32)  # three rows a block
    targets = np.arange(37, dtype=np.int32) * 100
    one_by_one = [chunk_nll(logits[row : row + 1], targets[row : row + 1])[0] for row in range(37)]
    assert chunk_nll(logits, targets).tolist() == one_by_one


def test_standard_error_by_hand_and_unmeasured_chunks_left_out() -> None:
    nll = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan]])
    ppl, se = perplexity(nll)
    assert ppl == pytest.approx(np.exp(2.5))
    assert se == pytest.approx(np.exp(2.5) * np.sqrt((7.5 - 6.25) / 3))
    assert np.isnan(perplexity(np.array([1.0]))[1])
    assert np.isnan(perplexity(np.array([np.nan]))[0])


@pytest.mark.parametrize(
    ("data", "read"), [(b"a\n", b"a"), (b"a\n\n", b"a\n"), (b"a\r\n", b"a\r"), (b"a", b"a"), (b"", b"")]
)
def test_one_trailing_newline_is_stripped_and_nothing_else(tmp_path: Path, data: bytes, read: bytes) -> None:
    (tmp_path / "text").write_bytes(data)
    assert read_text(tmp_path / "text") == read


@given(st.integers(0, 5000), st.integers(1, 5000), st.integers(33, 512))
def test_slices_cover_a_chunk_without_small_rests(start: int, length: int, size: int) -> None:
    found = _slices(start, start + length, size)
    assert [at for at, _ in found] == [start, *(end for _, end in found[:-1])]
    assert found[-1][1] == start + length
    assert all((end - at) % 4 == 0 for at, end in found[:-1])
    assert len(found) == 1 or all(size - 4 < end - at < 2 * size + 4 for at, end in found)
    assert len(found) > 1 or length < 2 * size


# -- against an independent computation -------------------------------------------------------------------------------

_SLOW = """
import sys
import numpy as np
from llama_cpp import Llama
from scipy.special import log_softmax

model, text, out, n_chunks = sys.argv[1:4] + [int(sys.argv[4])]
llama = Llama(model, n_ctx=512, n_batch=512, n_ubatch=512, n_threads=2, logits_all=True, flash_attn=True, verbose=False)
data = open(text, "rb").read()
tokens = llama.tokenize(data[:-1] if data.endswith(b"\\n") else data, add_bos=True, special=False)
rows = []
for chunk in range(n_chunks):
    part = list(tokens[512 * chunk : 512 * (chunk + 1)])
    following = part[257:]
    part[0] = llama.token_bos()
    llama.reset()
    llama.eval(part)
    log_p = log_softmax(np.asarray(llama.scores[256:511], dtype=np.float64), axis=1)
    rows.append(-log_p[np.arange(255), following])
np.save(out, np.array(rows))
"""


@pytest.mark.parametrize("label", [pytest.param("F16", marks=pytest.mark.slow), "Q8_0", "Q4_K_M"])
def test_every_tokens_nll_equals_a_slow_computation(
    label: str, quantized: Any, measure_perplexity: Measure, demo_text: TextSource, tmp_path: Path
) -> None:
    arguments = [str(quantized.paths[label]), demo_text.path, str(tmp_path / "slow.npy"), "3"]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SLOW, *arguments], check=True, capture_output=True, timeout=120
    )
    record = measure_perplexity(label, demo_text, 3, tmp_path / "fast.npy")
    fast = load_rows(tmp_path / "fast.npy")
    assert fast is not None
    assert np.abs(fast[:3] - np.load(tmp_path / "slow.npy")).max() < 1e-6
    assert np.isnan(fast[3:]).all()
    assert (record.chunks, record.n_chunks_text, record.n_scored_per_chunk) == (((0, 3),), len(fast), 255)
    assert record.ppl == float(np.exp(fast[:3].mean()))
    assert (record.n_tokens_evaluated, record.n_ctx) == (3 * 512, 512)
    assert record.wall_s > 0


@pytest.mark.parametrize(
    ("shape", "n_threads"),
    [((1, 256, 256), 1), ((1, 512, 64), 2), ((2, 128, 128), 2), ((2, 256, 64), 3), ((3, 256, 80), 3), ((4, 64, 64), 1)],
)
def test_the_batch_shape_and_the_threads_change_no_bit(
    shape: tuple[int, int, int], n_threads: int, measure_perplexity: Measure, demo_text: TextSource, tmp_path: Path
) -> None:
    n_side, n_ubatch, n_outputs = shape
    other = BatchShape(n_side=n_side, n_ubatch=n_ubatch, n_outputs=n_outputs)
    measure_perplexity("Q4_K_M", demo_text, 5, tmp_path / "a.npy")
    measure_perplexity("Q4_K_M", demo_text, 5, tmp_path / "b.npy", shape=other, n_threads=n_threads)
    a, b = load_rows(tmp_path / "a.npy"), load_rows(tmp_path / "b.npy")
    assert a is not None
    assert b is not None
    assert (a[:5] == b[:5]).all()


# -- against llama-perplexity -----------------------------------------------------------------------------------------


QUICK = ("F16", "Q4_K_M")


@pytest.mark.parametrize(
    "label", [*QUICK, *(pytest.param(label, marks=pytest.mark.slow) for label in FORMATS if label not in QUICK)]
)
def test_wikitext_agrees_with_the_recorded_figures(
    label: str, measure_perplexity: Measure, wikitext: TextSource, reference: dict[str, Any], tmp_path: Path
) -> None:
    record = measure_perplexity(label, wikitext, 16, tmp_path / "nll.npy")
    expected = reference["formats"][label]["running_ppl"]
    found = running_ppl(tmp_path / "nll.npy", 16)
    assert found[7] == pytest.approx(expected[7], rel=OTHER_CPU)
    # Few chunks are a noisier mean: with AVX2 alone llama-perplexity itself is 0.43 % off after two chunks of Q5_K_M.
    assert found == pytest.approx(expected, rel=3 * OTHER_CPU)
    assert record.ppl == pytest.approx(expected[15], rel=OTHER_CPU)
    assert record.n_chunks_text == 648


@pytest.mark.parametrize("label", ("Q3_K_M",) if HAVE_WIKITEXT else FORMATS)
def test_the_demo_text_agrees_with_the_recorded_figures(
    label: str, measure_perplexity: Measure, demo_text: TextSource, reference: dict[str, Any], tmp_path: Path
) -> None:
    assert demo_text.sha256 == reference["demo_text"]["sha256"]
    ppl, se = reference["demo_text"]["ppl_all"][label]
    record = measure_perplexity(label, demo_text, None, tmp_path / "nll.npy")
    assert record.n_chunks == record.n_chunks_text
    assert record.ppl == pytest.approx(ppl, rel=OTHER_CPU)
    assert record.ppl_se == pytest.approx(se, rel=5 * OTHER_CPU)


@pytest.mark.parametrize("label", ["F16", "Q8_0", "Q4_K_M", "Q3_K_M"])
def test_the_demo_text_agrees_with_the_tool_on_this_machine_to_four_decimals(
    label: str,
    measure_perplexity: Measure,
    quantized: Any,
    demo_text: TextSource,
    tmp_path: Path,
    llama_perplexity: str,
) -> None:
    model = ["-m", str(quantized.paths[label]), "-t", "2", "-c", "512"]
    command = [llama_perplexity, *model, "-f", demo_text.path, "--chunks", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    theirs = [float(value) for value in re.findall(r"\[\d+\](\d+\.\d+)", done.stdout + done.stderr)]
    measure_perplexity(label, demo_text, 8, tmp_path / "nll.npy")
    assert [f"{value:.4f}" for value in running_ppl(tmp_path / "nll.npy", 8)] == [f"{value:.4f}" for value in theirs]


# -- what is refused, what goes on ------------------------------------------------------------------------------------


def test_chunks_already_measured_are_not_measured_again(
    measure_perplexity: Measure, demo_text: TextSource, tmp_path: Path
) -> None:
    path = tmp_path / "nll.npy"
    four = measure_perplexity("Q8_0", demo_text, 4, path)
    first = load_rows(path)
    six = measure_perplexity("Q8_0", demo_text, 6, path)
    both = load_rows(path)
    assert first is not None
    assert both is not None
    assert (four.n_tokens_evaluated, six.n_tokens_evaluated) == (4 * 512, 2 * 512)
    assert (first[:4] == both[:4]).all()
    measure_perplexity("Q8_0", demo_text, 6, tmp_path / "fresh.npy")
    fresh = load_rows(tmp_path / "fresh.npy")
    assert fresh is not None
    assert (fresh[:6] == both[:6]).all()


def test_chunks_that_come_after_enough_were_there_are_dropped(
    measure_perplexity: Measure, demo_text: TextSource, tmp_path: Path
) -> None:
    """However slow the decision is: this child is far ahead when it is told to stop."""
    seen: list[int] = []

    def enough(nll: np.ndarray) -> bool:
        seen.append(len(nll))
        time.sleep(0.5)
        return len(nll) == 4

    path = tmp_path / "nll.npy"
    two = measure_perplexity("Q4_K_M", demo_text, 2, path, order_seed=7)
    run = measure_perplexity("Q4_K_M", demo_text, 12, path, order_seed=7, enough=enough)
    assert seen == [3, 4]
    assert (two.n_chunks, run.n_chunks, run.n_tokens_evaluated) == (2, 4, 2 * 512)
    nll = load_rows(path)
    assert nll is not None
    assert sorted(np.flatnonzero(~np.isnan(nll[:, 0]))) == sorted(chunk_order(len(nll), 7)[:4])
    assert run.ppl == perplexity(nll[chunk_order(len(nll), 7)[:4]])[0]
    assert run.wall_s < 12 * 0.5


@pytest.mark.parametrize("text", ["", "word", "CRLF\r\n" * 20])
def test_a_text_of_less_than_two_chunks_is_refused(
    text: str, measure_perplexity: Measure, demo_text: TextSource, tmp_path: Path
) -> None:
    import dataclasses

    path = tmp_path / "short.txt"
    path.write_bytes(text.encode())
    with pytest.raises(LabError, match=r"short\.txt is too short") as caught:
        measure_perplexity("Q8_0", dataclasses.replace(demo_text, path=str(path)), None, tmp_path / "nll.npy")
    assert "--text" in caught.value.hint
    assert caught.value.for_all  # the text is at fault, not the format: the run ends with this one line


def test_weights_that_are_not_numbers_are_refused(
    demo_model: Path,
    demo_text: TextSource,
    measure_perplexity: Measure,
    quantized: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from labctl.engines.llama_cpp.gguf.reader import read_header

    header = read_header(demo_model)
    norm = next(tensor for tensor in header.tensors if tensor.name == "output_norm.weight")
    damaged = bytearray(demo_model.read_bytes())
    start = header.data_offset + norm.offset
    damaged[start : start + 4] = np.array([np.nan], "<f4").tobytes()
    (tmp_path / "nan.gguf").write_bytes(damaged)
    monkeypatch.setitem(quantized.paths, "NaN", tmp_path / "nan.gguf")
    with pytest.raises(LabError, match=r"NaN.* in chunk 0"):
        measure_perplexity("NaN", demo_text, 2, tmp_path / "nll.npy")
    nll = load_rows(tmp_path / "nll.npy")
    assert nll is None or np.isnan(nll).all()
