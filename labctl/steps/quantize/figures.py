"""Figures of the quantized files."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.records.files import GgufFile
from labctl.steps.measured import Measured
from labctl.steps.quantize.step import QUANTIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFigures:
    """What a format's file is, beside the baseline's.

    Attributes:
        compression_ratio: how many times smaller than the baseline's file; None without that file.
    """

    file: GgufFile
    compression_ratio: float | None


def file_figures(records: Measured) -> dict[str, FileFigures]:
    """Format -> its file's figures."""
    base = records.of(QUANTIZE).get(records.formats[0])
    return {
        name: FileFigures(file=file, compression_ratio=base.size_bytes / file.size_bytes if base else None)
        for name, file in records.of(QUANTIZE).items()
    }
