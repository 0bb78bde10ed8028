"""The quantization formats the lab knows, by the names llama.cpp gives them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from labctl.errors import LabError


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One row of llama-quantize's table of output types.

    Attributes:
        name: as on llama-quantize's command line.
        ftype: value of llama.cpp's enum llama_ftype.
        tensor_type: the ggml type that most weights get, in llama.cpp's spelling.
        needs_imatrix: llama.cpp refuses to make it without an importance matrix.
        uses_imatrix: an importance matrix changes what is stored.

    Source: llama.cpp include/llama.h (enum llama_ftype), src/llama-quant.cpp (llama_ftype_get_default_type,
    tensor_requires_imatrix), ggml/src/ggml-quants.c (quantize_*).
    """

    name: str
    ftype: int
    tensor_type: str
    needs_imatrix: bool = False
    uses_imatrix: bool = True


_TABLE = (
    Format(name="F32", ftype=0, tensor_type="f32", uses_imatrix=False),
    Format(name="F16", ftype=1, tensor_type="f16", uses_imatrix=False),
    Format(name="BF16", ftype=32, tensor_type="bf16", uses_imatrix=False),
    Format(name="Q8_0", ftype=7, tensor_type="q8_0", uses_imatrix=False),
    Format(name="MXFP4_MOE", ftype=38, tensor_type="mxfp4", uses_imatrix=False),
    Format(name="Q6_K", ftype=18, tensor_type="q6_K"),
    Format(name="Q5_K_M", ftype=17, tensor_type="q5_K"),
    Format(name="Q5_K_S", ftype=16, tensor_type="q5_K"),
    Format(name="Q5_1", ftype=9, tensor_type="q5_1"),
    Format(name="Q5_0", ftype=8, tensor_type="q5_0"),
    Format(name="Q4_K_M", ftype=15, tensor_type="q4_K"),
    Format(name="Q4_1", ftype=3, tensor_type="q4_1"),
    Format(name="Q4_K_S", ftype=14, tensor_type="q4_K"),
    Format(name="Q4_0", ftype=2, tensor_type="q4_0"),
    Format(name="IQ4_NL", ftype=25, tensor_type="iq4_nl"),
    Format(name="IQ4_XS", ftype=30, tensor_type="iq4_xs"),
    Format(name="Q3_K_L", ftype=13, tensor_type="q3_K"),
    Format(name="Q3_K_M", ftype=12, tensor_type="q3_K"),
    Format(name="IQ3_M", ftype=27, tensor_type="iq3_s"),
    Format(name="IQ3_S", ftype=26, tensor_type="iq3_s"),
    Format(name="Q3_K_S", ftype=11, tensor_type="q3_K"),
    Format(name="IQ3_XS", ftype=22, tensor_type="iq3_s", needs_imatrix=True),
    Format(name="IQ3_XXS", ftype=23, tensor_type="iq3_xxs", needs_imatrix=True),
    Format(name="Q2_K", ftype=10, tensor_type="q2_K"),
    Format(name="Q2_0", ftype=41, tensor_type="q2_0"),
    Format(name="Q2_K_S", ftype=21, tensor_type="q2_K", needs_imatrix=True),
    Format(name="IQ2_M", ftype=29, tensor_type="iq2_s", needs_imatrix=True),
    Format(name="IQ2_S", ftype=28, tensor_type="iq2_xs", needs_imatrix=True),
    Format(name="IQ2_XS", ftype=20, tensor_type="iq2_xs", needs_imatrix=True),
    Format(name="IQ2_XXS", ftype=19, tensor_type="iq2_xxs", needs_imatrix=True),
    Format(name="TQ2_0", ftype=37, tensor_type="tq2_0", uses_imatrix=False),
    Format(name="TQ1_0", ftype=36, tensor_type="tq1_0", uses_imatrix=False),
    Format(name="IQ1_M", ftype=31, tensor_type="iq1_m", needs_imatrix=True),
    Format(name="IQ1_S", ftype=24, tensor_type="iq1_s", needs_imatrix=True),
    Format(name="Q1_0", ftype=40, tensor_type="q1_0"),
)
FORMATS: dict[str, Format] = {row.name: row for row in _TABLE}

# Source: llama.cpp tools/quantize/quantize.cpp, QUANT_OPTIONS; the last three are names that files go by.
_ALIASES = {
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "MXFP4": "MXFP4_MOE",
    "FP16": "F16",
    "FP32": "F32",
}

LAB_FORMATS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M")
"""The six quantizations of the worksheet, in its order."""

UNQUANTIZED_TYPES = frozenset({"f32", "f16", "bf16"})
"""ggml types that hold a weight as it was trained, up to rounding of a float."""


def parse_format(name: str) -> Format:
    """Look a format up by its llama.cpp name, in any case; Q4_K means Q4_K_M, as for llama-quantize.

    Raises:
        LabError: no such format; the hint names the nearest ones.
    """
    wanted = name.strip().upper().replace("-", "_")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted in FORMATS:
        return FORMATS[wanted]
    nearest = difflib.get_close_matches(wanted, FORMATS, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(nearest)}?" if nearest else f"Formats: {', '.join(LAB_FORMATS)}."
    raise LabError(f"Unknown format {name!r}.", hint)


def parse_formats(names: Iterable[str]) -> tuple[Format, ...]:
    """Look several formats up; repetitions are dropped, largest first as the worksheet lists them."""
    found = {parse_format(name).name for name in names if name.strip()}
    return tuple(row for name, row in FORMATS.items() if name in found)
