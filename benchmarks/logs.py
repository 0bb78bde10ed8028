"""Reading what llama.cpp's tools print: pure functions on text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RUNNING = re.compile(r"\[(\d+)\](-?\d+\.\d+|-?nan|-?inf),")
_FINAL = re.compile(r"Final estimate: PPL = (\S+) \+/- (\S+)")
_DIVERGENCE = {
    "mean": r"Mean\s+KLD:\s+(\S+)",
    "median": r"Median\s+KLD:\s+(\S+)",
    "90 %": r"90\.0%\s+KLD:\s+(\S+)",
    "99 %": r"99\.0%\s+KLD:\s+(\S+)",
    "maximum": r"Maximum KLD:\s+(\S+)",
    "same top token, %": r"Same top p:\s+(\S+)",
}
_VERSION = re.compile(r"^version:\s*(\S+)", re.MULTILINE)
_FEATURE = re.compile(r"(\w+) = (\d+)")
_BUILD = re.compile(r"^\[\s*(?:(?P<done>\d+)/(?P<total>\d+)|(?P<percent>\d+)%)\]")


def running_perplexity(text: str) -> tuple[str, ...]:
    """Perplexity after each chunk as llama-perplexity prints it: [1]14.0688,[2]14.6422,...

    Raises:
        ValueError: the numbers of the chunks are not 1, 2, 3, ...
    """
    found = _RUNNING.findall(text)
    if [int(number) for number, _ in found] != list(range(1, len(found) + 1)):
        raise ValueError("llama-perplexity's running values are not in order")
    return tuple(value for _, value in found)


def final_perplexity(text: str) -> tuple[str, str]:
    """Perplexity and standard error from llama-perplexity's last line, as printed.

    Raises:
        ValueError: there is no such line.
    """
    match = _FINAL.search(text)
    if match is None:
        raise ValueError("llama-perplexity printed no final estimate")
    return match[1], match[2]


def divergence_figures(text: str) -> dict[str, float]:
    """KL divergence in nats and equal top tokens in percent, from `llama-perplexity --kl-divergence`.

    Raises:
        ValueError: a figure is missing.
    """
    found = {}
    for name, pattern in _DIVERGENCE.items():
        match = re.search(pattern, text)
        if match is None:
            raise ValueError(f"llama-perplexity printed no {name} of the KL divergence")
        found[name] = float(match[1])
    return found


def chunks_done(text: str) -> int:
    """How many chunks llama-perplexity has finished so far."""
    found = _RUNNING.findall(text)
    return int(found[-1][0]) if found else 0


def printed_running(nll: NDArray[np.float64]) -> tuple[str, ...]:
    """Perplexity after each chunk in llama-perplexity's form.

    Args:
        nll: (n_chunks, n_scored) nats, of whole chunks from the start of the text.
    Source: llama.cpp tools/perplexity/perplexity.cpp: running sums in double, printed with %.4lf.
    """
    counts = np.arange(1, len(nll) + 1) * nll.shape[1]
    means = np.cumsum(nll.sum(axis=1)) / counts
    return tuple(f"{value:.4f}" for value in np.exp(means))


def bench_speeds(text: str) -> dict[str, tuple[float, ...]]:
    """Tokens per second of each repetition from `llama-bench -o json`: {"pp512": (...), "tg128": (...)}.

    Raises:
        ValueError: not llama-bench's JSON, or a test is not a plain pp or tg test.
    """
    try:
        rows = json.loads(text)
        speeds: dict[str, tuple[float, ...]] = {}
        for row in rows:
            n_prompt, n_gen = int(row["n_prompt"]), int(row["n_gen"])
            if (n_prompt > 0) == (n_gen > 0):
                raise ValueError("a llama-bench test that mixes prompt and generation")
            name = f"pp{n_prompt}" if n_prompt else f"tg{n_gen}"
            speeds[name] = tuple((n_prompt + n_gen) * 1e9 / float(ns) for ns in row["samples_ns"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"llama-bench printed no results: {error}") from error
    return speeds


def tool_version(text: str) -> str:
    """llama.cpp's version from a tool's --version; empty if it says none."""
    match = _VERSION.search(text)
    return match[1] if match else ""


def system_features(text: str) -> dict[str, str]:
    """CPU features from a line of llama.cpp's system information; thread counts left out."""
    line = next((one for one in text.splitlines() if "system_info" in one), text)
    return dict(_FEATURE.findall(line.partition("CPU :")[2]))


def build_progress(line: str) -> tuple[int, int] | None:
    """(done, total) from a line of ninja or of make as CMake writes it; None for other lines."""
    match = _BUILD.match(line)
    if match is None:
        return None
    return (int(match["percent"]), 100) if match["percent"] else (int(match["done"]), int(match["total"]))


def last_error(lines: Sequence[str]) -> str:
    """The first line of a build log that names an error, else its last line."""
    for line in lines:
        if re.search(r"\berror\b|CMake Error|FAILED", line, re.IGNORECASE):
            return line.strip()[:200]
    return lines[-1].strip()[:200] if lines else "it printed nothing"
