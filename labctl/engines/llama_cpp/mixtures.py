"""Which type llama.cpp gives each tensor of a dense model, format by format: files that nobody has made yet.

A format's name stands for a mixture: embeddings, output matrix and some layers get finer types, so bits per weight of
one model are not those of another. Tests hold these rules to llama.cpp's own dry run.
"""

from __future__ import annotations

from collections.abc import Iterable

from labctl.engines.base import UNQUANTIZED_TYPES, Format, Frame, Matrix
from labctl.engines.llama_cpp.gguf.reader import tensor_types
from labctl.errors import LabError


def matrix_type(format_: Format, matrix: Matrix, frame: Frame, *, has_imatrix: bool = False) -> str:
    """The type of a matrix in a file of this format.

    Raises:
        LabError: llama.cpp refuses to make that format of it.
    Source: llama.cpp src/llama-quant.cpp, llama_tensor_get_type.
    """
    if format_.tensor_type in UNQUANTIZED_TYPES:
        return format_.tensor_type
    return fit_row(_wanted(format_, matrix, frame, has_imatrix), matrix.row_length)


# Source: llama.cpp src/llama-quant.cpp, tensor_type_fallback.
_FALLBACK = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_0", "q2_K", "q3_K", "tq1_0", "tq2_0"), "q4_0"),
    "q4_K": "q5_0",
    "q5_K": "q5_1",
    "q6_K": "q8_0",
}


def fit_row(wanted: str, row_length: int) -> str:
    """The type itself where rows are whole blocks of it, else the one that llama.cpp takes instead.

    Raises:
        LabError: llama.cpp knows none.
    """
    blocks = _blocks()
    block, _ = blocks[wanted]
    if row_length % block == 0:
        return wanted
    if wanted not in _FALLBACK and block > 32:
        raise LabError(
            f"llama.cpp cannot store rows of {row_length} weights as {wanted}, nor has it another type for them.",
            "Leave that format out.",
        )
    instead = _FALLBACK.get(wanted, wanted)
    return instead if row_length % blocks[instead][0] == 0 else "f16"


def type_bytes(tensor_type: str, n_params: int) -> int:
    """Bytes of so many weights in whole blocks of a type."""
    block, block_bytes = _blocks()[tensor_type]
    return -(-n_params // block) * block_bytes


def mixture(format_: Format, matrices: Iterable[Matrix], frame: Frame, *, has_imatrix: bool = False) -> dict[str, int]:
    """Weights by type in a file of this format, the matrices only: vectors stay float32."""
    by_type: dict[str, int] = {}
    for matrix in matrices:
        name = matrix_type(format_, matrix, frame, has_imatrix=has_imatrix)
        by_type[name] = by_type.get(name, 0) + matrix.row_length * matrix.n_rows
    return by_type


def _blocks() -> dict[str, tuple[int, int]]:
    return {name: (block, block_bytes) for name, block, block_bytes in tensor_types().values()}


# -- the rules, in llama.cpp's order ----------------------------------------------------------------------------------

_LOWEST = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M"})
_IQ2_FINER = frozenset({"IQ2_S", "IQ2_M"})


def _wanted(format_: Format, matrix: Matrix, frame: Frame, has_imatrix: bool) -> str:
    name, usual, role = format_.name, format_.tensor_type, matrix.role
    if role == "output" or (role == "token_embd" and frame.tied):
        return _output(name, usual, matrix.row_length)
    if name == "MXFP4_MOE":
        return "q8_0"
    if role == "token_embd":
        return _table(name, usual)
    if name in _LOWEST:
        return _lowest(name, usual, matrix, frame)
    match role:
        case "attn_v":
            value_type = _values(name, usual, matrix.layer, frame, has_imatrix)
            return "q5_K" if frame.is_70b and value_type in ("q3_K", "q4_K") else value_type
        case "attn_q" | "attn_k":
            return {"IQ3_XS": "iq3_xxs", "IQ3_XXS": "iq2_s"}.get(name, usual)
        case "ffn_down":
            return _down(name, usual, matrix.layer, frame.n_layer, has_imatrix)
        case "attn_output":
            finer = {"Q2_K": "q3_K", "IQ3_XXS": "iq3_s", "Q3_K_M": "q4_K", "Q3_K_L": "q5_K", "IQ3_M": "q4_K"}
            return finer.get(name, usual)
        case _:
            middle = frame.n_layer // 8 <= matrix.layer < 7 * frame.n_layer // 8
            return "iq3_xxs" if name == "IQ3_XS" and middle else usual


def _output(name: str, usual: str, row_length: int) -> str:
    if name == "MXFP4_MOE" or row_length % _blocks()[usual][0]:
        return "q8_0"
    if name in _LOWEST or name == "IQ3_XXS":
        return "q5_K"
    return "q8_0" if usual == "q8_0" else "q6_K"


def _table(name: str, usual: str) -> str:
    if name in ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"):
        return "q2_K"
    if name in _IQ2_FINER or name == "IQ3_XXS":
        return "iq3_s"
    return "q4_K" if name in ("TQ1_0", "TQ2_0", "Q2_0") else usual


def _lowest(name: str, usual: str, matrix: Matrix, frame: Frame) -> str:
    finer = "iq3_s" if name in _IQ2_FINER else "q2_K"
    if matrix.role == "attn_v":
        return "q4_K" if frame.n_gqa >= 4 else finer
    if matrix.role == "ffn_down" and matrix.layer < frame.n_layer // 8:
        return finer
    if matrix.role == "attn_output":
        return "iq2_xxs" if name in ("IQ1_S", "IQ1_M") else "iq3_s" if name in _IQ2_FINER else usual
    return usual


def _values(name: str, usual: str, layer: int, frame: Frame, has_imatrix: bool) -> str:
    shared = frame.n_gqa >= 4
    match name:
        case "Q2_K":
            return "q4_K" if shared else "q3_K"
        case "IQ3_XXS":
            return "q4_K" if shared else "iq3_xxs" if has_imatrix else "iq3_s"
        case "Q2_K_S" | "IQ3_XS" | "IQ3_S" if shared:
            return "q4_K"
        case "IQ3_M":
            return "q4_K"
        case "Q3_K_M":
            return "q5_K" if layer < 2 else "q4_K"
        case "Q3_K_L":
            return "q5_K"
        case "IQ4_NL" | "IQ4_XS" if shared:
            return "q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more_bits(layer, frame.n_layer):
            return "q6_K"
        case "Q4_K_S" if layer < 4:
            return "q5_K"
        case _:
            return usual


def _down(name: str, usual: str, layer: int, n_layer: int, has_imatrix: bool) -> str:
    early = layer < n_layer // 8
    match name:
        case "Q2_K":
            return "q3_K"
        case "Q2_K_S" | "IQ3_M" if early:
            return "q4_K"
        case "IQ3_XXS" if not has_imatrix:
            return "q4_K" if early else "q3_K"
        case "Q3_K_M":
            return "q5_K" if layer < n_layer // 16 else "q4_K"
        case "Q3_K_L":
            return "q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more_bits(layer, n_layer):
            return "q6_K"
        case "IQ4_NL" | "IQ4_XS" if early and not has_imatrix:
            return "q5_K"
        case "Q4_K_S" if early:
            return "q5_K"
        case "Q4_0" | "Q5_0" if early and has_imatrix:
            return "q4_1" if name == "Q4_0" else "q5_1"
        case _:
            return usual


def _more_bits(layer: int, n_layer: int) -> bool:
    """The first eighth of the layers, the last eighth, and every third between."""
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2
