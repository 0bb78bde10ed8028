"""What a header says about reading text: whether that is enough, and what a reader of figures must know."""

from __future__ import annotations

from labctl.engines.llama_cpp.gguf.reader import GgufHeader
from labctl.engines.llama_cpp.warned import MISSING_PRE
from labctl.errors import LabError

ADDS_END = (
    "The header asks for an end-of-text token behind every text (tokenizer.ggml.add_eos_token). Texts and prompts are"
    " read without it here, as if the key were false: llama.cpp's own tools stop at such a file."
)

# Tokenizers of the kind BPE, which need a pre-tokenizer; gemma4 brings its own. Source: llama.cpp src/llama-vocab.cpp.
_NEEDS_PRE = ("gpt2", "hybriddna", "whitespace")
_ADDS_END = ("t5",)  # unless the header says otherwise


def lacks_pre_tokenizer(header: GgufHeader) -> bool:
    """Whether the header leaves open how text is split into words before tokens are made of it."""
    metadata = header.metadata
    return metadata.get("tokenizer.ggml.model") in _NEEDS_PRE and not metadata.get("tokenizer.ggml.pre")


def adds_end(header: GgufHeader) -> bool:
    """Whether llama.cpp would put an end-of-text token behind every text."""
    by_kind = header.metadata.get("tokenizer.ggml.model") in _ADDS_END
    return header.metadata.get("tokenizer.ggml.add_eos_token", by_kind) is True


def vocabulary_notices(header: GgufHeader, name: str, allow_missing_pre: bool) -> tuple[str, ...]:
    """What must be said about how this model reads text.

    Args:
        name: the file's, for messages.
        allow_missing_pre: take a file that does not name its pre-tokenizer.
    Raises:
        LabError: it does not, and that is not allowed: its perplexities would be wrong, and which format loses least.
    """
    found = []
    if lacks_pre_tokenizer(header):
        if not allow_missing_pre:
            raise LabError(
                f"{name} does not say how its text is split into words (tokenizer.ggml.pre is missing, as in files of"
                " before May 2024): llama.cpp would guess, and every figure could be wrong.",
                f"Convert the model again, or add the key: gguf-new-metadata --pre-tokenizer NAME {name} NEW.gguf (NAME"
                " as in other files of the model: llama-bpe, qwen2, gpt-2, ...). --allow-missing-pre-tokenizer measures"
                " it as it is.",
            )
        found.append(MISSING_PRE)
    if adds_end(header):
        found.append(ADDS_END)
    return tuple(found)
