"""What a lab starts from: the model and the text."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """The model a lab is about, as an unquantized GGUF file on this disk.

    Attributes:
        engine: what runs it, by its name in labctl.engines.TABLE.
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
    engine: str = "llama_cpp"  # the only one that there was before records named it
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

    @property
    def slug(self) -> str:
        """Short name of the text in names of files; empty for WikiText-2 and for the demo text in its place.

        It ends with a dash and a digest, so it is no part of a format's name, and no other text of that name has it.
        """
        if self.kind != "custom":
            return ""
        words = re.sub(r"[^a-z0-9]+", "_", self.name.rpartition(".")[0].lower() or self.name.lower()).strip("_")
        return f"{words[:24] or 'text'}-{self.sha256[:8]}"
