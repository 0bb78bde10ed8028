"""Figures in people's units."""

from __future__ import annotations

import math


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent: 0.0307, 12.8, 2918.

    Digits before the decimal point are never rounded away.
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def size_text(n_bytes: float) -> str:
    """Bytes in people's units, powers of ten: 30.7 MB, 14.0 GB; a dash for a size that is not known."""
    if math.isnan(n_bytes):
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n_bytes) >= factor:
            return f"{significant(n_bytes / factor)} {unit}"
    return f"{n_bytes:.0f} bytes"


def gigabytes(n_bytes: float) -> str:
    """10^9 bytes, three significant digits, without the unit."""
    return significant(n_bytes / 1e9)


def signed(value: float, digits: int = 2) -> str:
    """A change with its sign; what rounds to nothing has none, and thousands need no decimals."""
    if abs(value) >= 1000:
        return f"{value:+,.0f}" if abs(value) < 1e6 else f"{'over +' if value > 0 else 'under -'}1,000,000"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def percent(value: float, digits: int = 2) -> str:
    """A change in percent, with its sign."""
    return f"{signed(value, digits)} %"


def rate(value: float) -> str:
    """Tokens per second: 2918, 45.3, 4.53."""
    return significant(value) if abs(value) < 100 else f"{value:.0f}"


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
