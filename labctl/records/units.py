"""Figures in people's units."""

from __future__ import annotations


def size_text(size_bytes: float) -> str:
    """Bytes in people's units, powers of ten: 30.7 MB, 14.0 GB; a dash for a size that is not known."""
    if size_bytes != size_bytes:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return (
                f"{size_bytes / factor:.3g} {unit}"
                if size_bytes < 999.5 * factor
                else f"{size_bytes / factor:.0f} {unit}"
            )
    return f"{size_bytes:.0f} bytes"


def time_text(seconds: float) -> str:
    """Seconds in people's units: 0.4 s, 48 s, 6 min 40 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole % 3600 >= 60 else f"{whole // 3600} h"
