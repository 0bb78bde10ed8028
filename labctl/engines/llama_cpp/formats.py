"""The quantization formats that llama.cpp makes, by the names it gives them."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.engines.base import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFormat(Format):
    """One row of llama-quantize's table of output types.

    Attributes:
        ftype: value of llama.cpp's enum llama_ftype.

    Source: llama.cpp include/llama.h (enum llama_ftype), src/llama-quant.cpp (llama_ftype_get_default_type,
    tensor_requires_imatrix), ggml/src/ggml-quants.c (quantize_*). Aliases: tools/quantize/quantize.cpp, QUANT_OPTIONS,
    and names that files go by.
    """

    ftype: int

    @property
    def bits(self) -> float:
        from labctl.engines.llama_cpp.gguf.reader import tensor_types

        return next(8 * n_bytes / n for name, n, n_bytes in tensor_types().values() if name == self.tensor_type)


_TABLE = (
    GgufFormat(name="F32", ftype=0, tensor_type="f32", uses_imatrix=False, aliases=("FP32",)),
    GgufFormat(name="F16", ftype=1, tensor_type="f16", uses_imatrix=False, aliases=("FP16",)),
    GgufFormat(name="BF16", ftype=32, tensor_type="bf16", uses_imatrix=False),
    GgufFormat(name="Q8_0", ftype=7, tensor_type="q8_0", uses_imatrix=False),
    GgufFormat(name="MXFP4_MOE", ftype=38, tensor_type="mxfp4", uses_imatrix=False, aliases=("MXFP4",)),
    GgufFormat(name="Q6_K", ftype=18, tensor_type="q6_K"),
    GgufFormat(name="Q5_K_M", ftype=17, tensor_type="q5_K", aliases=("Q5_K",)),
    GgufFormat(name="Q5_K_S", ftype=16, tensor_type="q5_K"),
    GgufFormat(name="Q5_1", ftype=9, tensor_type="q5_1"),
    GgufFormat(name="Q5_0", ftype=8, tensor_type="q5_0"),
    GgufFormat(name="Q4_K_M", ftype=15, tensor_type="q4_K", aliases=("Q4_K",)),
    GgufFormat(name="Q4_1", ftype=3, tensor_type="q4_1"),
    GgufFormat(name="Q4_K_S", ftype=14, tensor_type="q4_K"),
    GgufFormat(name="Q4_0", ftype=2, tensor_type="q4_0"),
    GgufFormat(name="IQ4_NL", ftype=25, tensor_type="iq4_nl"),
    GgufFormat(name="IQ4_XS", ftype=30, tensor_type="iq4_xs"),
    GgufFormat(name="Q3_K_L", ftype=13, tensor_type="q3_K"),
    GgufFormat(name="Q3_K_M", ftype=12, tensor_type="q3_K", aliases=("Q3_K",)),
    GgufFormat(name="IQ3_M", ftype=27, tensor_type="iq3_s"),
    GgufFormat(name="IQ3_S", ftype=26, tensor_type="iq3_s"),
    GgufFormat(name="Q3_K_S", ftype=11, tensor_type="q3_K"),
    GgufFormat(name="IQ3_XS", ftype=22, tensor_type="iq3_s", needs_imatrix=True),
    GgufFormat(name="IQ3_XXS", ftype=23, tensor_type="iq3_xxs", needs_imatrix=True),
    GgufFormat(name="Q2_K", ftype=10, tensor_type="q2_K"),
    GgufFormat(name="Q2_0", ftype=41, tensor_type="q2_0"),
    GgufFormat(name="Q2_K_S", ftype=21, tensor_type="q2_K", needs_imatrix=True),
    GgufFormat(name="IQ2_M", ftype=29, tensor_type="iq2_s", needs_imatrix=True),
    GgufFormat(name="IQ2_S", ftype=28, tensor_type="iq2_xs", needs_imatrix=True),
    GgufFormat(name="IQ2_XS", ftype=20, tensor_type="iq2_xs", needs_imatrix=True),
    GgufFormat(name="IQ2_XXS", ftype=19, tensor_type="iq2_xxs", needs_imatrix=True),
    GgufFormat(name="TQ2_0", ftype=37, tensor_type="tq2_0", uses_imatrix=False),
    GgufFormat(name="TQ1_0", ftype=36, tensor_type="tq1_0", uses_imatrix=False),
    GgufFormat(name="IQ1_M", ftype=31, tensor_type="iq1_m", needs_imatrix=True),
    GgufFormat(name="IQ1_S", ftype=24, tensor_type="iq1_s", needs_imatrix=True),
    GgufFormat(name="Q1_0", ftype=40, tensor_type="q1_0"),
)
FORMATS: dict[str, GgufFormat] = {row.name: row for row in _TABLE}

LAB_FORMATS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M")
"""The six quantizations of the worksheet, in its order."""
