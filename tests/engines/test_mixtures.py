"""Types that llama.cpp would give each tensor, against its own dry runs and real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labctl.engines.llama_cpp.engine import ENGINE
from labctl.engines.llama_cpp.formats import FORMATS, LAB_FORMATS
from labctl.engines.llama_cpp.gguf.header import model_shape, read_model
from labctl.engines.llama_cpp.mixtures import fit_row, type_bytes
from labctl.errors import LabError
from labctl.report.shapes import SHAPES, KnownShape

# Small and large, tied and not, rows that are no multiple of 256, heads that share keys, biases, 80 layers.
NAMES = ("SmolLM2-135M", "Qwen2.5-0.5B", "TinyLlama-1.1B", "Llama-2-7B", "Llama-3.1-8B", "Qwen2.5-14B", "Llama-2-70B")
LABELS = (*FORMATS, *(f"{name}+" for name, format_ in FORMATS.items() if format_.uses_imatrix))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a file with a hole takes its whole size on this disk")
def test_every_format_of_every_kind_of_shape_is_what_llama_cpp_plans(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "tests" / "kit" / "hollow_models.py"), str(tmp_path), ",".join(NAMES)]
    done = subprocess.run([*command, ",".join(LABELS)], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    planned = json.loads(done.stdout)
    ours = {
        shape.name: {label: tensor_bytes(shape, label) for label in LABELS} for shape in SHAPES if shape.name in NAMES
    }
    assert ours == planned
    assert planned["SmolLM2-135M"]["Q1_0"] is None and None not in planned["Llama-2-7B"].values()


def tensor_bytes(shape: KnownShape, label: str) -> int | None:
    """As a table would count it; a + asks for an importance matrix."""
    try:
        return shape.tensor_bytes(ENGINE, label.rstrip("+"), has_imatrix=label.endswith("+"))
    except LabError:
        return None


def test_real_files_hold_what_the_rules_say(quantized: Any, demo_model: Path) -> None:
    header, _ = read_model(demo_model)
    sizes = model_shape(header)
    shape = KnownShape(
        name="demo",
        source="",
        n_layer=sizes.n_layer,
        n_embd=sizes.n_embd,
        n_head=sizes.n_head,
        n_ff=int(header.metadata["llama.feed_forward_length"]),
        n_head_kv=sizes.n_head_kv,
        d_head=sizes.d_head_k,
        n_vocab=sizes.n_vocab,
        n_ctx_train=sizes.n_ctx_train,
        tied=True,
    )
    for label in LAB_FORMATS:
        record = quantized.records[label]
        assert shape.tensor_bytes(ENGINE, label) == record.tensor_bytes
        assert shape.weights_by_type(ENGINE, label) == {one.tensor_type: one.n_params for one in record.types}


@pytest.mark.parametrize(
    ("wanted", "row_length", "got"),
    [
        ("q4_K", 512, "q4_K"),
        ("q4_K", 576, "q5_0"),
        ("q6_K", 896, "q8_0"),
        ("q5_K", 32, "q5_1"),
        ("q3_K", 96, "q4_0"),
        ("iq4_xs", 96, "iq4_nl"),
        ("q6_K", 100, "f16"),
        ("q8_0", 100, "f16"),
    ],
)
def test_rows_that_are_no_whole_blocks(wanted: str, row_length: int, got: str) -> None:
    assert fit_row(wanted, row_length) == got


def test_bytes_of_a_type() -> None:
    assert [type_bytes(kind, 256) for kind in ("f32", "f16", "q8_0", "q4_K")] == [1024, 512, 272, 144]
