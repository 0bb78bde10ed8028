"""A model's shape from its config.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import LabError
from labctl.report.shape_config import read_shape
from labctl.report.shapes import find_shape

QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def written(folder: Path, value: object) -> Path:
    path = folder / "config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def same(one: Any, other: Any) -> bool:
    return bool(dataclasses.replace(one, name="", source="") == dataclasses.replace(other, name="", source=""))


def test_a_known_models_config_gives_its_known_shape(tmp_path: Path) -> None:
    assert same(read_shape(written(tmp_path, QWEN3)), find_shape("Qwen3-0.6B")[0])
    llama = {
        **{key: value for key, value in QWEN3.items() if key not in ("head_dim", "num_key_value_heads")},
        **{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008},
        **{"num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096},
        "tie_word_embeddings": False,
    }
    assert same(read_shape(written(tmp_path, llama)), find_shape("Llama-2-7B")[0])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "no json",
        "[]",
        "[" * 100_000,
        {},
        {**QWEN3, "model_type": "mamba"},
        {**QWEN3, "model_type": ["llama"]},
        {**QWEN3, "hidden_size": -1},
        {**QWEN3, "hidden_size": "1024"},
        {**QWEN3, "num_hidden_layers": 10**30},
        {key: value for key, value in QWEN3.items() if key != "vocab_size"},
    ],
    ids=str,
)
def test_what_cannot_be_counted_with_is_one_line(value: object, tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        read_shape(written(tmp_path, value))
    assert "\n" not in caught.value.message and "no config.json that can be counted with" in caught.value.message
    with pytest.raises(LabError, match="Cannot read"):
        read_shape(tmp_path / "nowhere.json")
