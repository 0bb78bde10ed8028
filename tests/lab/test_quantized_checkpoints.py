"""A checkpoint that is quantized already is named, with what can be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit.command import Cli
from kit.made_checkpoints import ASKS, GPTQ, checkpoint, llama_shapes, said_of

BNB = {**llama_shapes(), "model.layers.0.mlp.down_proj.SCB:F32": (8,)}
MLX = {**llama_shapes(), "model.layers.0.mlp.x.weight:U32": (8,), "model.layers.0.mlp.x.scales": (8,)}

QUANTIZED: dict[str, tuple[Any, dict[str, Any], str, bool]] = {
    "bitsandbytes, said": (
        None,
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "bitsandbytes 4-bit",
        False,
    ),
    "bitsandbytes, by its tensors": (BNB, {}, "bitsandbytes 8-bit", False),
    "bitsandbytes of 4 bits, by its tensors": (
        {**llama_shapes(), "model.layers.0.x.weight.absmax:F32": (8,)},
        {},
        "bitsandbytes 4-bit",
        False,
    ),
    "gptq, said": (GPTQ, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq", True),
    "gptq, by its tensors": (GPTQ, {}, "gptq", False),
    "awq": (None, {"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq", False),
    "fp8, said": (None, {"quantization_config": {"quant_method": "fp8"}}, "fp8", True),
    "fp8, by its types": ({**llama_shapes(), "model.layers.0.x.weight:F8_E4M3": (8,)}, {}, "fp8", False),
    "compressed-tensors": (
        None,
        {"compression_config": {"quant_method": "compressed-tensors"}},
        "compressed-tensors",
        False,
    ),
    "in a model in a model": (None, {"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8", True),
    "MLX, said": (MLX, {"quantization": {"group_size": 64, "bits": 4}}, "MLX", False),
    "MLX, by its tensors": (MLX, {}, "MLX", False),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_quantized_weights_are_named_with_what_can_be_done(cli: Cli, tmp_path: Path, case: str) -> None:
    shapes, config, method, unpackable = QUANTIZED[case]
    checkpoint(tmp_path / "m", shapes, config)
    shown = said_of(cli, tmp_path)
    assert f"m is already quantized ({method})" in shown and ASKS not in shown, shown
    assert ("--allow-quantized-source" in shown) == unpackable
    assert ("converter cannot unpack" in shown) != unpackable
