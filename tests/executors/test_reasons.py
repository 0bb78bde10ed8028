"""The line of a log that says why, in plain words where it is a known one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.small_gguf import Small, Tensor

from labctl.engines.llama_cpp.deaths import last_words

PROGRESS = (
    "[  29/  56] blk.2.ffn_up.weight    - [   512,    768,      1,      1], type =    f32, converting to q8_0 .. "
)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            f"{PROGRESS}llama_model_quantize: failed to quantize: quantized data validation failed\n",
            "weights too large for this format's 16-bit scales (blk.2.ffn_up.weight)",
        ),
        (f"{PROGRESS}size = 3.00 MiB -> 0.80 MiB\n", "it gave no reason"),
        (
            "llama_model_load: error loading model: unknown model architecture: 'xy'\n"
            "llama_model_load_from_file_impl: failed to load model\n",
            "this llama.cpp does not know the architecture xy",
        ),
        (
            "llama_model_load: error loading model: missing tensor 'blk.0.attn_q.weight'\nfailed to load model",
            "the tensor blk.0.attn_q.weight is missing",
        ),
        (
            "llama_model_load: error loading model: done_getting_tensors: wrong number of tensors; expected 9, got 8",
            "it holds 9 tensors, and this llama.cpp has a use for 8 of them",
        ),
        (f"{PROGRESS}llama_model_quantize: failed to quantize: stream is bad.", "stream is bad"),
        ("ERROR: No matching distribution found for torch==9\n[notice] a new pip", "No matching distribution found"),
        ("Traceback (most recent call last):\n  File x\nValueError: no such rope\n", "ValueError: no such rope"),
        ("", "it gave no reason"),
    ],
)
def test_the_line_that_says_why_is_taken(log: str, reason: str) -> None:
    assert last_words(log, "it gave no reason").startswith(reason)


def test_weights_beyond_a_formats_scales_are_told_in_words(cli: Any, tmp_path: Path) -> None:
    small = Small()
    large = np.full((64, 128), 2e7, np.float32)
    small.tensors["blk.1.ffn_down.weight"] = Tensor((128, 64), 0, large.tobytes())
    (tmp_path / "huge.gguf").write_bytes(small.bytes())
    done = cli("quantize", "--text", "demo", "--formats", "Q8_0,Q4_0", "--model", "huge.gguf", cwd=tmp_path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: quantize")]
    assert len(errors) == 2
    assert all("weights too large for this format's 16-bit scales (blk.1.ffn_down.weight)" in line for line in errors)
    assert "converting to" not in done.stderr
    assert "nan" not in done.stdout.lower()
