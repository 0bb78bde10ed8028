"""By which method the weights of a checkpoint are quantized, and whether llama.cpp's converter can unpack it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Methods that the converter turns back into numbers. Source: llama.cpp conversion/base.py, dequant_model; gpt_oss.py.
_UNPACKED = frozenset({"bitnet", "fp8", "gptq", "compressed-tensors", "modelopt", "mxfp4"})

# Ends of tensor names that only one method writes.
_MARKS = (
    (re.compile(r"\.(SCB|absmax|quant_map|nested_absmax|quant_state\..*)$"), "bitsandbytes"),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
    (re.compile(r"\.weight_scale_inv$"), "fp8"),
    (re.compile(r"\.(q_weight|q_perm|q_scale)$"), "exl2"),
    (re.compile(r"\.(trellis|suh|svh)$"), "exl3"),
    (re.compile(r"\.W_q$"), "hqq"),
    (re.compile(r"\.(weight\._data|weight_qtype)$"), "quanto"),
    (re.compile(r"\.(codebooks|codes)$"), "aqlm"),
    (re.compile(r"_blocks$"), "mxfp4"),
)


def method_of(config: Mapping[str, object], names: Iterable[str], dtypes: Iterable[str], side: Iterable[str]) -> str:
    """The method: as config.json says, else as tensors and side files show; empty for unquantized weights.

    Args:
        config: config.json's settings, those of the text model on top.
        names: of the tensors.
        dtypes: of the tensors, as safetensors names them.
        side: names of the other files in the folder.
    """
    for key in ("quantization_config", "compression_config"):
        settings = config.get(key)
        if isinstance(settings, dict) and settings:
            return _in_words(settings)
    if isinstance(config.get("quantization"), dict):
        return "MLX"
    return _by_tensors(frozenset(names), frozenset(dtypes)) or ("gptq" if "quantize_config.json" in side else "")


def can_unpack(method: str, config: Mapping[str, object]) -> bool:
    """Whether the converter knows the method, and config.json names it: it looks nowhere else."""
    return method.split(" ", maxsplit=1)[0] in _UNPACKED and isinstance(config.get("quantization_config"), dict)


def _in_words(settings: Mapping[str, object]) -> str:
    method = str(settings.get("quant_method") or settings.get("quant_algo") or "")
    bits = next((number for number in (4, 8) if settings.get(f"load_in_{number}bit")), None)
    if method == "bitsandbytes" or (not method and bits):
        return f"bitsandbytes {bits}-bit" if bits else "bitsandbytes"
    return method or "by an unnamed method"


def _by_tensors(names: frozenset[str], dtypes: frozenset[str]) -> str:
    for pattern, method in _MARKS:
        marked = sorted(name for name in names if pattern.search(name))
        if marked:
            eight = method == "bitsandbytes" and any(name.endswith(".SCB") for name in marked)
            return f"bitsandbytes {'8' if eight else '4'}-bit" if method == "bitsandbytes" else method
    if any(name.endswith(".qweight") for name in names):
        return "gptq" if any(name.endswith(".g_idx") for name in names) else "gptq or awq"
    if any(dtype.startswith("F8_") for dtype in dtypes):
        return "fp8"
    if "U32" in dtypes and any(name.endswith(".scales") for name in names):
        return "MLX"
    return ""
