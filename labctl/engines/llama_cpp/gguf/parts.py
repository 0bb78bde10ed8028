"""A model in several files: parts as llama-gguf-split makes them, and files cut or joined as plain bytes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from labctl.engines.llama_cpp.gguf.reader import AGAIN, GgufHeader, shown
from labctl.errors import LabError

NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""Name of a part. Source: llama.cpp src/llama.cpp, llama_split_path."""

_PIECE = re.compile(
    r"(?P<stem>.+?)(?P<word>[.-](?:part|split|piece)[-_]?)(?:\d{1,3}(?:[-_]?of[-_]?\d{1,3})?|[a-z]{1,2})(?:\.gguf)?"
    r"|(?P<plain>.+\.gguf)\.(?:\d{3}|(?!gz|xz|7z|bz|lz)[a-z]{2})",
    re.IGNORECASE,
)
_UNFINISHED = re.compile(r".+\.(?:part|partial|crdownload|incomplete|download|tmp|aria2)", re.IGNORECASE)


def explained(error: LabError, path: Path) -> LabError:
    """Why a file that is no whole GGUF file is none, where its name tells; else the error as it was."""
    if not path.is_file():
        return error
    if _UNFINISHED.fullmatch(path.name):
        return LabError(f"{path.name} is a download that has not ended: {error.message}", "Let it end, then try again.")
    match = _PIECE.fullmatch(path.name)
    if match is None:
        return error
    whole = match["plain"] or match["stem"]
    begin = f"{whole}{match['word'] or '.'}"
    pieces = f"{shlex.quote(begin)}*"
    if _numbers_lack_zeros(path.parent, begin):
        pieces = f"$(ls -v {pieces})"
    whole = shlex.quote(whole if whole.lower().endswith(".gguf") else f"{whole}.gguf")
    return LabError(
        f"{path.name} is one piece of a file that was cut, not a whole model.",
        f"Join all pieces in their order, then name the whole: cat {pieces} > {whole}",
    )


def _numbers_lack_zeros(folder: Path, begin: str) -> bool:
    """Whether a shell puts pieces in another order than that of their numbers: part10 before part2."""
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith(begin))
    return names != sorted(names, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name[len(begin) :])])


def files_of(path: Path, header: GgufHeader) -> tuple[Path, ...]:
    """All files of a model whose (first) file is `path`, in order.

    Raises:
        LabError: a part is missing, `path` is not the first one or not named like one, or holds several GGUF files.
    """
    _refuse_joined(path, header)
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return (path,)
    match = NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise LabError(
            f"{path.name} is one of {count} parts of a model, but is not named like one.",
            f"Give it back its name: it ends in -{_number(header) + 1:05d}-of-{count:05d}.gguf.",
        )
    parts = tuple(path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1))
    if _number(header) != int(match["number"]) - 1:
        raise _wrong_place(path, header)
    if _number(header) != 0:
        raise LabError(f"{path.name} is not the first part of its model.", f"Give the first part: {parts[0]}.")
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise LabError(
            f"{len(missing)} of {count} parts of {match['stem']} are missing, the first of them {missing[0]}.",
            f"Put all parts in one folder: {path.parent}.",
        )
    return parts


def check_parts(parts: Sequence[Path], headers: Sequence[GgufHeader]) -> None:
    """Check that the parts belong together.

    Raises:
        LabError: one has another place, or is of another model.
    Source: llama.cpp src/llama-model-loader.cpp, llama_model_loader; its messages name no file.
    """
    first = headers[0]
    tensors = [tensor.name for header in headers for tensor in header.tensors]
    for number, (part, header) in enumerate(zip(parts, headers, strict=True)):
        if header.metadata.get("split.count") != len(parts):
            raise _stranger(part, parts[0], f"it says that it is no part of {len(parts)}")
        if _number(header) != number:
            raise _wrong_place(part, header)
        for key, value in header.metadata.items():
            if not key.startswith("split.no") and first.metadata.get(key, value) != value:
                raise _stranger(part, parts[0], f"{key} is {shown(value)}, and {shown(first.metadata[key])} there")
    if len(set(tensors)) != len(tensors):
        raise LabError(f"The parts of {parts[0].name} hold the same tensor twice.", AGAIN)
    total = first.metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise LabError(
            f"The parts of {parts[0].name} hold {len(tensors):,} tensors together, and their header says {total:,}:"
            " some part is of another model.",
            "Download all parts again, from one place.",
        )


def _number(header: GgufHeader) -> int:
    number = header.metadata.get("split.no", 0)
    return number if isinstance(number, int) else 0


def _wrong_place(part: Path, header: GgufHeader) -> LabError:
    return LabError(
        f"{part.name} has the name of another part: by its header it is part {_number(header) + 1}.",
        "Give the parts back the names that they were made with.",
    )


def _stranger(part: Path, first: Path, why: str) -> LabError:
    return LabError(f"{part.name} does not belong to {first.name}: {why}.", "Download all parts again, from one place.")


def _refuse_joined(path: Path, header: GgufHeader) -> None:
    """Raise where a second GGUF file begins behind the first one's tensors.

    Raises:
        LabError: it does.
    """
    end = header.data_offset + max((tensor.offset + tensor.size_bytes for tensor in header.tensors), default=0)
    padded = -(-end // header.alignment) * header.alignment
    if header.size_bytes < padded + 4 and header.size_bytes < end + 4:
        return
    with path.open("rb") as stream:
        for place in (end, padded):
            stream.seek(place)
            if stream.read(4) == b"GGUF":
                break
        else:
            return
    if "split.count" in header.metadata:
        raise LabError(
            f"{path.name} is the parts of a split model joined end to end: only the first of them would be read.",
            "Use the parts as they were and name the first, or join them with llama-gguf-split --merge.",
        )
    raise LabError(f"{path.name} is several GGUF files joined end to end.", "Give the file of one model.")
