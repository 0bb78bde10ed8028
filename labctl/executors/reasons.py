"""Why a program failed: the line of its log that says so, in plain words where labctl knows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_TAIL_LINES = 12
_IS_ERROR = re.compile(r"\W*([\w.]+: *)?(ERROR|error|([\w.]*)(Error|Exception))\b")
_SOUNDS_BAD = re.compile(r"error|exception|fail|invalid|unknown|unsupported|missing|need|cannot|assert|disabled", re.I)
# Lines that say that something failed and not why: another one is better, if there is any.
_SAYS_NOTHING = re.compile(r"(failed to load model(?: from .*)?|exiting\W*|Traceback.*:)\W*$")
# What stands before the reason: llama-quantize's progress of a tensor, a function's name, a level of severity.
_BEFORE = re.compile(
    r"^(?:.*\bconverting to \w+ *\.\.+ *|(?:ERROR|error)(?::[\w.-]+)?: *|\w*llama_\w+: *|main: *"
    r"|failed to quantize: *)+"
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


def last_words(log: str | Iterable[str], otherwise: str) -> str:
    """The newest line that says what went wrong, without a full stop; in plain words if it is a known one.

    Args:
        log: a text, or its lines.
        otherwise: what to say where no line sounds like an error.
    """
    lines = [line.strip() for line in (log.splitlines() if isinstance(log, str) else log)]
    told = [one for one in lines if _IS_ERROR.match(one)] or [one for one in lines if _SOUNDS_BAD.search(one)]
    line = next((one for one in reversed(told) if not _SAYS_NOTHING.search(one)), (told or [otherwise])[-1])
    for pattern, words in _KNOWN:
        if found := re.search(pattern, line):
            tensor = _TENSOR.search(line)
            said = words.format(*(group for group in found.groups() if group))
            return f"{said} ({tensor[1]})" if tensor else said
    return (_BEFORE.sub("", line) or line).rstrip(". ")[:300]


def log_tail(path: Path, n_lines: int = _TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log, without control characters."""
    try:
        text = path.read_bytes()[-16_384:].decode("utf-8", "replace")
    except OSError:
        return ()
    lines = ["".join(c for c in line if c.isprintable()) for line in text.splitlines()]
    return tuple(line[:300] for line in lines if line.strip())[-n_lines:]
