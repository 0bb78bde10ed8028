"""Are a file's weights numbers? One NaN in a matrix makes every probability NaN, and infinity soon does the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.gguf.reader import TensorInfo, read_header, tensor_types
from labctl.engines.safetensors import PLAIN, STEP_BYTES, fault_of
from labctl.errors import LabError

# type -> where in a block its F16 scales are, in bytes. Source: llama.cpp ggml/src/ggml-common.h, block_*.
_SCALES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("q1_0", "q2_0", "q4_0", "q5_0", "q8_0", "iq4_nl", "iq4_xs"), (0,)),
    **dict.fromkeys(("iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"), (0,)),
    **dict.fromkeys(("q4_1", "q5_1", "q8_1", "q4_K", "q5_K"), (0, 2)),
    **{"q2_K": (80, 82), "q3_K": (108,), "q6_K": (208,), "tq1_0": (52,), "tq2_0": (64,)},
}


def require_finite(path: Path) -> None:
    """Look at every weight of a model, all parts of it; of a quantized type at the scale of every block.

    Raises:
        LabError: one is NaN or infinite; or the file cannot be read.
    Source: llama.cpp ggml/src/ggml-quants.c, ggml_validate_row_data.
    """
    for part in read_model(path)[1]:
        header = read_header(part)
        data = np.memmap(part, dtype=np.uint8, mode="r")
        for tensor in header.tensors:
            begin = header.data_offset + tensor.offset
            if not _finite(data[begin : begin + tensor.size_bytes], tensor):
                raise LabError(
                    f"{part.name} holds weights that are not numbers: tensor {tensor.name!r} ({tensor.tensor_type}) has"
                    " NaN or infinite values, so nothing can be measured with it.",
                    "Download or make the file again; if it was converted to F16, BF16 or F32 may hold its weights.",
                )


def f16_faults(path: Path) -> dict[str, str]:
    """F16 tensors of a GGUF file that hold no finite numbers: name -> "NaN" or "infinity"."""
    header, _ = read_model(path)
    data = np.memmap(path, dtype=np.uint8, mode="r")
    faults = {}
    for tensor in header.tensors:
        begin = header.data_offset + tensor.offset
        if tensor.tensor_type == "f16" and (fault := fault_of(data[begin : begin + tensor.size_bytes], "f16")):
            faults[tensor.name] = fault
    return faults


def _finite(data: NDArray[np.uint8], tensor: TensorInfo) -> bool:
    if tensor.tensor_type in PLAIN:
        kind, exponent = PLAIN[tensor.tensor_type]
        whole, columns = data.view(kind), None
    elif tensor.tensor_type in _SCALES:
        _, _, block_bytes = next(kind for kind in tensor_types().values() if kind[0] == tensor.tensor_type)
        whole, exponent = data.reshape(-1, block_bytes), PLAIN["f16"][1]
        columns = _SCALES[tensor.tensor_type]
    else:
        return True
    step = max(1, STEP_BYTES // whole.dtype.itemsize // (whole.shape[1] if whole.ndim > 1 else 1))
    for start in range(0, len(whole), step):
        values = whole[start : start + step]
        for part in [values] if columns is None else [_half(values, column) for column in columns]:
            if ((part & exponent) == exponent).any():
                return False
    return True


def _half(blocks: NDArray[np.uint8], column: int) -> NDArray[np.uint16]:
    """The 16-bit field at a byte of every block."""
    return np.ascontiguousarray(blocks[:, column : column + 2]).view("<u2")[:, 0]
