"""Weights that are not numbers are found and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Quantized
from kit.bad_gguf import NORM, Q, poisoned
from kit.small_gguf import Small

from labctl.engines.llama_cpp.gguf.reader import read_header
from labctl.engines.llama_cpp.gguf.weights import _SCALES, require_finite
from labctl.errors import LabError

WEIGHTS = {
    "F16 NaN": (Q, 200, b"\x01\x7e"),
    "F16 infinity": (Q, 8190, b"\x00\x7c"),
    "F16 minus infinity": ("token_embd.weight", 0, b"\x00\xfc"),
    "F32 NaN": (NORM, 252, b"\x00\x00\xc0\x7f"),
    "F32 infinity": (NORM, 0, b"\x00\x00\x80\xff"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, case: str) -> None:
    name, at, value = WEIGHTS[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(poisoned(name, at, value)(Small()).bytes())
    with pytest.raises(LabError, match="NaN or infinite") as caught:
        require_finite(path)
    assert name in caught.value.message and "m.gguf" in caught.value.message
    path.write_bytes(poisoned(name, at, bytes(len(value)))(Small()).bytes())
    require_finite(path)


def test_scales_that_are_no_numbers_are_found_in_every_type_of_the_lab(tmp_path: Path, quantized: Quantized) -> None:
    seen = set()
    for label, source in quantized.paths.items():
        found = read_header(source)
        require_finite(source)
        data = bytearray(source.read_bytes())
        for one in found.tensors:
            if one.tensor_type in seen or one.tensor_type not in _SCALES:
                continue
            seen.add(one.tensor_type)
            for column in _SCALES[one.tensor_type]:
                at = found.data_offset + one.offset + column
                kept = bytes(data[at : at + 2])
                data[at : at + 2] = b"\x00\x7e"
                path = tmp_path / f"{label}.gguf"
                path.write_bytes(data)
                with pytest.raises(LabError, match=one.name):
                    require_finite(path)
                data[at : at + 2] = kept
    assert {"q8_0", "q6_K", "q5_K", "q4_K", "q3_K"} <= seen
