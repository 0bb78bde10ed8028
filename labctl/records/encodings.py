"""How a text file is written down: its encoding, its byte order mark, its line ends. Windows editors vary all three."""

from __future__ import annotations

import codecs
from pathlib import Path

# UTF-32 first: its little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SAMPLE_BYTES = 4096
_LEAST_CHARACTERS = 4
_OTHER_LETTERS = 0.3


def encoding_of(data: bytes) -> str:
    """Python's name of the encoding: as a byte order mark says, or as zero bytes in every other place show.

    Returns: "utf-8-sig", "utf-16" or "utf-32" by the mark, "utf-16-le" or "utf-16-be" without one, else "utf-8".
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    sample = data[:_SAMPLE_BYTES]
    half = len(sample) // 2
    for name, zeros, letters in (("utf-16-le", sample[1::2], sample[::2]), ("utf-16-be", sample[::2], sample[1::2])):
        # Most of a European text's characters have a zero byte; a binary file has them in both places.
        if half >= _LEAST_CHARACTERS and zeros.count(0) > 0.6 * half and letters.count(0) < 0.05 * half:
            return name
    return "utf-8"


def in_words(encoding: str) -> str:
    """UTF-16, UTF-32 or UTF-8."""
    return encoding.upper().removesuffix("-SIG").removesuffix("-LE").removesuffix("-BE")


def is_old_windows(data: bytes) -> bool:
    """Whether bytes that are not UTF-8 read as the one-byte encoding of European Windows: mostly ASCII, no controls."""
    n_high = sum(byte > 0x7F for byte in data[:_SAMPLE_BYTES])
    if n_high > _OTHER_LETTERS * min(len(data), _SAMPLE_BYTES) or any(byte < 9 for byte in data[:_SAMPLE_BYTES]):
        return False
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


def read_settings(path: Path) -> str:
    """A settings file or table as text, in the encoding that its byte order mark names, else UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is in another encoding; the message says which, as far as it can be told.
    """
    data = path.read_bytes()
    encoding = encoding_of(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        older = " (perhaps Windows-1252, of an older Windows program)" if is_old_windows(data) else ""
        where = f"byte {error.start:,} does not fit"
        raise ValueError(f"it is not {in_words(encoding)} text{older}: {where}; save it as UTF-8") from error
