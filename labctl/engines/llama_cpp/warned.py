"""llama.cpp's warnings in plain words, with the cure; those that mean nothing for a figure are left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from labctl.records.printable import printable

MISSING_PRE = (
    "The file does not say how its text is split into words before tokens are made of it (tokenizer.ggml.pre is"
    " missing), so llama.cpp splits by a general rule: every perplexity here may be far from the model's true one."
    " Convert the model again, or add the key: gguf-new-metadata --pre-tokenizer NAME."
)

_MOST_UNKNOWN = 6
_MOST_NAMES = 3
_FUNCTION = re.compile(r"^(?:\w+: )*(?:warning: )?", re.IGNORECASE)


def _names(matches: Sequence[re.Match[str]]) -> str:
    """The first few names, and how many more there are."""
    names = list(dict.fromkeys(match["name"] for match in matches))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _control_tokens(matches: Sequence[re.Match[str]]) -> str:
    return (
        f"llama.cpp takes tokens for control tokens that the file does not mark as such ({_names(matches)}): sample"
        " texts may end at them. Convert the model again if that looks wrong."
    )


def _special(matches: Sequence[re.Match[str]]) -> str:
    return (
        f"The header names tokens that the vocabulary does not have ({_names(matches)}), and llama.cpp takes others or"
        " none in their place. Convert the model again, or correct the keys with gguf-set-metadata."
    )


def _unused(matches: Sequence[re.Match[str]]) -> str:
    return (
        f"llama.cpp does not use some tensors of the file ({_names(matches)}): they count in its size, and in nothing"
        " else that is measured."
    )


def _empty(matches: Sequence[re.Match[str]]) -> str:
    return f"Some tokens of the vocabulary are empty (number {_names(matches)}). Convert the model again."


def _always(text: str) -> Callable[[Sequence[re.Match[str]]], str]:
    return lambda _matches: text


# What a warning means to a reader of figures. Source: llama.cpp src/, LLAMA_LOG_WARN.
_KNOWN: tuple[tuple[re.Pattern[str], Callable[[Sequence[re.Match[str]]], str]], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"missing pre-tokenizer type|QUALITY WILL BE DEGRADED|CONSIDER REGENERATING", _always(MISSING_PRE)),
        (r"control-looking token:\s+\d+ (?P<name>'.*') was not control-type", _control_tokens),
        (
            r"special_(?P<name>eo[smt])_id is not in special_eog_ids",
            _always(
                "The token that ends a text, by the header or by default where the header names none, is not one that"
                " llama.cpp knows as an end of text: sample texts may break off early or run on. Check"
                " tokenizer.ggml.eos_token_id."
            ),
        ),
        (r"(?:bad|default) special token:? '(?P<name>[^']*)'", _special),
        (r"model has unused tensor (?P<name>\S+)", _unused),
        (r"empty token at index (?P<name>\d+)", _empty),
        (
            r"Phi SWA is currently disabled",
            _always(
                "llama.cpp computes this model without its sliding window: figures of contexts longer than the window"
                " may differ from the original's."
            ),
        ),
    )
)

# About speed, about the log, or said by labctl itself in its own words (lengths, types that rows do not fill).
_HARMLESS = re.compile(
    r"n_ctx_seq \(\d+\) > n_ctx_train|n_ctx is not divisible|using full-size SWA cache|setting new yarn_attn_factor"
    r"|graph reuse disabled|does not match expectation|not supported, set to disabled|is assigned to device"
    r"|padding V cache|flash_attn is not compatible|newline token|removing (?:it|'<\|end\|>' token) from EOG list"
    r"|attribute to USER_DEFINED|override '.*' to 'true' for Gemma4|falling back to|must use F16 due to unusual shape"
    r"|required fallback quantization|will require an imatrix|m(?:un)?map|madvise|fadvise|mlock|buffered I/?O|prefetch"
    r"|unknown type \S+$|sharing with layer|^[\s*]*$",
    re.IGNORECASE,
)


def in_words(lines: Iterable[str]) -> tuple[str, ...]:
    """What llama.cpp's warnings mean, each kind once, in the order they came; unknown ones in its own words."""
    known: dict[Callable[[Sequence[re.Match[str]]], str], list[re.Match[str]]] = {}
    unknown: dict[str, None] = {}
    for line in lines:
        for pattern, words in _KNOWN:
            if match := pattern.search(line):
                known.setdefault(words, []).append(match)
                break
        else:
            said = printable(_FUNCTION.sub("", line).strip())[:200]
            if not _HARMLESS.search(said) and not _HARMLESS.search(line):
                unknown.setdefault(said)
    told = [words(matches) for words, matches in known.items()]
    told += [f"llama.cpp warns: {said}" for said in list(unknown)[:_MOST_UNKNOWN]]
    if len(unknown) > _MOST_UNKNOWN:
        told.append(f"llama.cpp warns of {len(unknown) - _MOST_UNKNOWN} further things: see the log.")
    return tuple(told)
