"""What a lab starts from: the model and the text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """The model a lab is about, as an unquantized GGUF file on this disk.

    Attributes:
        name: folder name under outputs/ and reports/; letters, digits, dot, dash, underscore.
        spec: what the user typed for --model.
        path: the GGUF file (the first part of a split one).
        origin: "demo", "gguf", "checkpoint", "hub", or "package" (out of a Python package).
        baseline: the label of the unquantized file: F16, BF16 or F32 (or its own type for a quantized source).
        quantized: the source was already quantized; every table then carries a warning.
    """

    name: str
    spec: str
    path: str
    origin: str
    size_bytes: int
    sha256: str
    baseline: str = "F16"
    quantized: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """The text perplexity is measured on.

    Attributes:
        name: as printed in tables: "WikiText-2 (raw, test split)", "demo text", or a file's name.
        kind: "wikitext-2", "demo" or "custom".
        notice: what every table and chart must say about this text; empty for official WikiText-2.
    """

    name: str
    kind: str
    path: str
    size_bytes: int
    sha256: str
    notice: str = ""
