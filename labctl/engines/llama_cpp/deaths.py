"""Why llama.cpp failed: its crashes, its refusals and the line of its log that says so, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from labctl.executors.reasons import LEVEL, SAYS_NOTHING, TAIL_LINES, Death, error_line

_SIGNALS = {
    "SIGABRT": "llama.cpp stopped itself (a failed assertion)",
    "SIGSEGV": "llama.cpp crashed (segmentation fault)",
    "SIGILL": "this build of llama.cpp uses instructions that this CPU does not have",
    "SIGFPE": "llama.cpp crashed (arithmetic fault)",
}
_HINTS = {
    "SIGILL": "Rebuild it for this machine: make clean-venv lab (README, Troubleshooting).",
    "SIGSEGV": "Rebuild llama.cpp for this machine if it happens again: make clean-venv lab (README, Troubleshooting).",
}
_ASSERTION = re.compile(r"GGML_ASSERT\(.*|(?<=what\(\):  ).*")
# How llama.cpp, C++ and numpy say that memory was refused.
_NO_MEMORY = re.compile(
    r"failed to allocate|unable to allocate|cannot allocate memory|insufficient memory|out of memory|bad_alloc"
    r"|resource temporarily unavailable|failed to map segment|address space and process count|alloc.*failed",
    re.IGNORECASE,
)
# A line that says that loading failed and not why.
_SAYS_NOTHING = re.compile(rf"(?:failed to load model(?: from .*)?\W*$)|{SAYS_NOTHING.pattern}")
# What stands before the reason: llama-quantize's progress of a tensor, a function's name, a level of severity.
_BEFORE = re.compile(
    rf"^(?:.*\bconverting to \w+ *\.\.+ *|{LEVEL.pattern}|\w*llama_\w+: *|main: *|failed to quantize: *)+"
)
_TENSOR = re.compile(r"\[ *\d+/ *\d+\] +(\S+)")
_KNOWN = (
    (r"quantized data validation failed", "weights too large for this format's 16-bit scales"),
    (r"requires an imatrix|Missing importance matrix", "this format needs an importance matrix (--imatrix)"),
    (r"requantizing from type (\w+) is disabled", "its weights are quantized already ({})"),
    (r"unknown model architecture: '?([\w.-]+)", "this llama.cpp does not know the architecture {}"),
    (r"unknown pre-tokenizer type: '?([\w.-]+)", "this llama.cpp does not know the tokenizer {}"),
    (r"missing tensor '([^']+)'|tensor '([^']+)' not found", "the tensor {} is missing"),
    (
        r"wrong number of tensors; expected (\d+), got (\d+)",
        "it holds {0} tensors, and this llama.cpp has a use for {1} of them",
    ),
    (r"tensor '([^']+)' has wrong shape", "the tensor {} has another shape than the header says"),
    (r"key not found in model: (\S+)", "its header lacks {}"),
)


def death(signal: str, log: Sequence[str]) -> Death:
    """What a child that ended without a result died of; see labctl.executors.reasons.Death."""
    tail = log[-TAIL_LINES:]
    said = next((match[0] for line in reversed(tail) if (match := _ASSERTION.search(line))), "")
    return Death(
        reason=_SIGNALS.get(signal, ""),
        said=said or ("" if signal else last_words(tail, "")),
        hint=_HINTS.get(signal, ""),
        out_of_memory=any(_NO_MEMORY.search(line) for line in log),
    )


def last_words(log: str | Iterable[str], otherwise: str) -> str:
    """The newest line that says what went wrong, without a full stop; in plain words if it is a known one.

    Args:
        log: a text, or its lines.
        otherwise: what to say where no line sounds like an error.
    """
    line = error_line(log, otherwise, _SAYS_NOTHING)
    for pattern, words in _KNOWN:
        if match := re.search(pattern, line):
            tensor = _TENSOR.search(line)
            said = words.format(*(group for group in match.groups() if group))
            return f"{said} ({tensor[1]})" if tensor else said
    return (_BEFORE.sub("", line) or line).rstrip(". ")[:300]
