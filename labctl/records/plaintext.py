"""Is a file a text that perplexity can be measured on, and what of it comes from an editor instead of its author?"""

from __future__ import annotations

import re
import shlex
from pathlib import PurePath

from labctl.errors import LabError
from labctl.records.encodings import encoding_of, in_words, is_old_windows

# First bytes -> what such a file is, and what to do. Only what people take for a text.
_BINARIES = (
    (b"PK\x03\x04", "a zip archive (or an Office document)", "Unpack it, or save its text as UTF-8."),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it: gunzip"),
    (b"BZh", "compressed with bzip2", "Unpack it: bunzip2"),
    (b"\xfd7zXZ\0", "compressed with xz", "Unpack it: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it: unzstd"),
    (b"PAR1", "a Parquet table", "Write its column of texts into a UTF-8 text file."),
    (b"ARROW1", "an Arrow table", "Write its column of texts into a UTF-8 text file."),
    (b"%PDF", "a PDF document", "Save its text as UTF-8, for example with pdftotext."),
    (b"{\\rtf", "a document in Rich Text Format", "Save it as plain text in UTF-8."),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "Save it as plain text in UTF-8."),
    (b"GGUF", "a GGUF model", "Give it as --model, and a text file as --text."),
)
_CR_END = re.compile(rb"\r(?!\n)")


def check_text(data: bytes, shown: str) -> str:
    """See that a file is UTF-8 text.

    Args:
        shown: the file as the person named it.
    Returns: what a notice must add about byte order mark and line ends, with the cure; empty for a plain text.
    Raises:
        LabError: it is empty, no text, or in another encoding.
    """
    for start, what, hint in _BINARIES:
        if data.startswith(start):
            raise LabError(f"{shown} is not a text file: it is {what}.", hint)
    encoding = encoding_of(data)
    if encoding not in ("utf-8", "utf-8-sig"):
        raise LabError(
            f"{shown} is not UTF-8 text, which llama.cpp reads, but {in_words(encoding)}.",
            f"Save it as UTF-8, for example: {_iconv(encoding, shown)}",
        )
    if b"\0" in data:
        raise LabError(f"{shown} is not a text file: it has zero bytes in it.", "Give a UTF-8 text.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "Save it as UTF-8 text."
        if is_old_windows(data):
            hint = "It may be Windows-1252, of an older Windows program. Save it as UTF-8, for example:"
            hint += f" {_iconv('windows-1252', shown)}"
        raise LabError(f"{shown} is not UTF-8 text: byte {error.start:,} does not fit.", hint) from error
    if not text.removeprefix("\ufeff").strip():
        raise LabError(f"{shown} is empty.", "Give a UTF-8 text with at least two chunks of words.")
    return _oddities(data, PurePath(shown).name)


def _iconv(encoding: str, shown: str) -> str:
    new = f"{PurePath(shown).stem}-utf8.txt"
    return f"iconv -f {encoding.upper()} -t UTF-8 {shlex.quote(shown)} > {shlex.quote(new)}"


def _oddities(data: bytes, name: str) -> str:
    """Sentences on what an editor added to a text, each with the cure, and a space before; empty if nothing."""
    said = []
    if encoding_of(data) == "utf-8-sig":
        said.append(
            " It begins with a byte order mark, which is read like a character of the text: save it as UTF-8"
            " without one."
        )
    n_crlf, n_cr = data.count(b"\r\n"), len(_CR_END.findall(data))
    n_lf = data.count(b"\n") - n_crlf
    if n_crlf or n_cr:
        what = "Windows line ends (CRLF)" if n_crlf else "old Mac line ends (CR)"
        n_odd, n_all = n_crlf + n_cr, n_crlf + n_cr + n_lf
        some = "Its lines have" if n_odd == n_all else f"{n_odd:,} of its {n_all:,} lines have"
        made = shlex.quote(f"lf-{name}")
        how = "tr -d '\\r'" if n_crlf else "tr '\\r' '\\n'"
        said.append(
            f" {some} {what}, and every CR is read like a character of the text: the figures are not those of the"
            f" same text with plain line ends (LF), which you get with: {how} < {shlex.quote(name)} > {made}"
        )
    return "".join(said)


def plain_form(data: bytes) -> tuple[bytes, str]:
    """What a text was before an editor saved it: UTF-8, no mark, plain line ends.

    Returns: those bytes, and what the editor made of it, in words; the same bytes and "" where it left no trace.
    """
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return data, ""
    said = []
    if encoding == "utf-8-sig":
        said.append("a byte order mark")
    elif encoding != "utf-8":
        said.append(f"the encoding {in_words(encoding)}")
    if "\r" in text:
        said.append("CRLF line ends" if "\r\n" in text else "CR line ends")
    return text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8"), " and ".join(said)
