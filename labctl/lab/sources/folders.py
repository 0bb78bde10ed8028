"""What a folder or file is that is given as a model: a checkpoint, or something else, called by its name."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from labctl.engines.safetensors import Tensor, read_safetensors
from labctl.errors import LabError
from labctl.lab.sources import kinds
from labctl.lab.sources.quantized import method_of

_CACHED_REPO = re.compile(r"(?P<kind>models|datasets|spaces)--(?P<owner>.+?)--(?P<name>.+)")
_MOST_NAMES = 20_000
_DEPTH = 3
_MAX_SETTINGS_BYTES = 1 << 20
HINT = "Give a checkpoint folder as the Hub has it, or a GGUF file."


def require_checkpoint(folder: Path, shown: str) -> None:
    """See that a folder is a checkpoint, by the files that are in it; their contents are looked at later.

    Args:
        shown: the folder as the person named it.
    Raises:
        LabError: it is something else, which the message names, with what to do.
    """
    names = _names(folder, shown)
    top = [name for name in names if "/" not in name]
    _refuse_cache(folder, shown)
    if broken := [name for name in top if not (folder / name).exists()]:
        raise LabError(
            f"{shown} holds links to files that are gone: {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}.",
            "Download the model again: the cache it lay in was cleared or moved.",
        )
    if pointers := [name for name in top if is_pointer(folder / name)]:
        first = f"{', '.join(pointers[:3])}{', ...' if len(pointers) > 3 else ''}"
        raise LabError(
            f"{shown} holds Git LFS pointers, notes of where a file is kept, in place of {first}.",
            f"Fetch the files themselves: git -C {shown} lfs pull",
        )
    if kinds.is_adapter(top):
        raise adapter_error(shown, base_model(folder))
    if any(kinds.is_weight_file(name) for name in top) and "model_index.json" not in top:
        return
    if part := kinds.unfinished(names):
        raise LabError(f"The download of {shown} is not finished: it holds {part}.", "Finish the download first.")
    _name_what_is_inside(folder, shown, names, top)
    if "config.json" in top:
        raise LabError(f"{shown} holds no weights (model*.safetensors).", "Download the checkpoint again, all of it.")
    listed = ", ".join(top[:4]) + (", ..." if len(top) > 4 else "")
    holds = f"it holds {listed}" if top else "no file that could be one is in it"
    raise LabError(f"{shown} is a folder without a model: {holds}.", HINT)


def _name_what_is_inside(folder: Path, shown: str, names: list[str], top: list[str]) -> None:
    """Raise if GGUF files, another format or a model one folder deeper are there.

    Raises:
        LabError: they are.
    """
    if models := kinds.gguf_files(names):
        more = f" ({len(models)} GGUF files: {', '.join(models[:6])}{', ...' if len(models) > 6 else ''})"
        raise LabError(
            f"{shown} is a folder with GGUF files, not a checkpoint.",
            f"Name the file: {folder / models[0]}{more if len(models) > 1 else ''}",
        )
    if (other := kinds.other_format(top)) is not None:
        raise LabError(f"{shown} holds {other[0]}.", other[1])
    deeper: dict[str, list[str]] = {}
    for name in names:
        sub, _, file = name.rpartition("/")
        if sub:
            deeper.setdefault(sub, []).append(file)
    if whole := [sub for sub, inside in deeper.items() if any(kinds.is_weight_file(name) for name in inside)]:
        newest = max(whole, key=lambda sub: [int(one) for one in re.findall(r"\d+", sub)] or [-1])
        rest = f" ({len(whole)} folders hold models: {', '.join(whole[:6])})" if len(whole) > 1 else ""
        far = "one folder deeper" if "/" not in newest else "some folders deeper"
        raise LabError(f"{shown} holds a model {far}.", f"Name that folder: {folder / newest}{rest}")
    for sub, inside in deeper.items():
        if kinds.is_adapter(inside):
            raise adapter_error(f"{shown}/{sub}", base_model(folder / sub))
        if (other := kinds.other_format(inside)) is not None:
            raise LabError(f"{shown} holds {other[0]}, in the folder {sub}.", other[1])
    for name in names:
        if not name.lower().endswith(".gguf") and _begins_with(folder / name, b"GGUF"):
            raise LabError(f"{shown} holds a GGUF model under another name.", f"Name the file: {folder / name}")
    if unread := [name for name in top if name.endswith(".safetensors")]:
        raise _unread_weights(folder, shown, unread[0], top)
    if archives := [name for name in top if kinds.is_archive(name)]:
        raise LabError(f"{shown} holds an archive, {archives[0]}.", "Unpack it, and name the folder that comes out.")


def _unread_weights(folder: Path, shown: str, name: str, top: list[str]) -> LabError:
    """What is wrong with weights whose file name the converter does not look for."""
    tensors: Mapping[str, Tensor] = {}
    with contextlib.suppress(LabError):
        tensors = read_safetensors(folder / name)
    if any("lora_" in one for one in tensors):
        return adapter_error(shown, "")
    if any(one.startswith(("model.diffusion_model.", "first_stage_model.", "double_blocks.")) for one in tensors):
        return LabError(f"{shown} holds an image model ({name}).", "labctl measures language models only.")
    method = method_of({}, tensors, {one.dtype for one in tensors.values()}, top)
    if method:
        return LabError(
            f"{shown} holds weights that are already quantized ({method}), in a way that llama.cpp's converter cannot"
            f" unpack: {name}.",
            "Take the unquantized checkpoint of the model, or a GGUF file.",
        )
    return LabError(
        f"{shown} holds weights under a name that llama.cpp's converter does not read: {name}.",
        "It reads model.safetensors, or model-00001-of-0000N.safetensors. If this is a language model, rename it.",
    )


def refuse_file(path: Path, shown: str) -> None:
    """Say what a file is that is part of something else; a file that may be a GGUF model is left alone.

    Raises:
        LabError: it is a file of a checkpoint, of another format, an archive, or a pointer.
    """
    if _begins_with(path, b"GGUF"):
        return
    name, folder = path.name, path.parent
    if is_pointer(path):
        raise LabError(f"{shown} is a Git LFS pointer, a note of where the file is kept.", "Fetch it: git lfs pull")
    if kinds.unfinished([name]):
        raise LabError(f"The download of {shown} is not finished.", "Finish the download first.")
    if kinds.is_archive(name):
        raise LabError(f"{shown} is an archive.", "Unpack it, and name the folder or GGUF file that comes out.")
    if kinds.is_adapter([name]):
        raise adapter_error(shown, base_model(folder))
    if name.endswith((".safetensors", ".json")) or kinds.is_weight_file(name) or name == "tokenizer.model":
        raise LabError(f"{shown} is one file of a checkpoint.", f"Name its folder: {folder.absolute()}")
    if (other := kinds.other_format([name])) is not None:
        raise LabError(f"{shown} is {other[0]}.", other[1])


def adapter_error(shown: str, base: str) -> LabError:
    """A LoRA or other adapter is not a model."""
    of = f" of {base}" if base else ""
    at_hub = f": hf:{base}" if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else ""
    return LabError(
        f"{shown} holds an adapter (PEFT, LoRA){of}, which changes a model and is none by itself.",
        f"Merge it into its base model first (peft: model.merge_and_unload().save_pretrained(FOLDER)), or measure the"
        f" base model{at_hub}.",
    )


def model_name_of(folder: Path) -> str:
    """A checkpoint's name: its folder's, or the repository's for a snapshot in the Hub's cache."""
    whole = folder.absolute()
    if whole.parent.name == "snapshots" and (cached := _CACHED_REPO.fullmatch(whole.parent.parent.name)):
        return cached["name"]
    return folder.resolve().name


def is_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer."""
    return _begins_with(path, b"version https://git-lfs")


def _names(folder: Path, shown: str) -> list[str]:
    """Files in a folder and in those inside it, as a/b; hidden ones are left out, apart from the downloader's notes.

    Raises:
        LabError: it cannot be read.
    """
    try:
        if not any(folder.iterdir()):
            raise LabError(f"{shown} is a folder without a model: it is empty.", HINT)
    except OSError as error:
        raise LabError(
            f"Cannot look into {shown}: {(error.strerror or 'unreadable').lower()}.", "Check its permissions."
        ) from error
    found: list[str] = []
    for place, inside, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        inside[:] = sorted(one for one in inside if not one.startswith(".")) if depth < _DEPTH else []
        packed = [one for one in inside if one.endswith((".mlpackage", ".mlmodelc"))]
        links = [one for one in files if not one.startswith(".")]
        found += sorted((Path(place) / one).relative_to(folder).as_posix() for one in (*links, *packed))
        if len(found) > _MOST_NAMES:
            break
    notes = itertools.islice((folder / ".cache").rglob("*.incomplete"), _MOST_NAMES)
    return [*found, *(one.relative_to(folder).as_posix() for one in notes)]


def _refuse_cache(folder: Path, shown: str) -> None:
    """Say that a folder is a place in the Hub's cache above the one with the files.

    Raises:
        LabError: it is.
    """
    cached = sorted(one.name for one in folder.iterdir() if one.name.startswith("models--"))
    if cached and (found := _CACHED_REPO.fullmatch(cached[0])) is not None:
        raise LabError(
            f"{shown} is the Hub's cache, with {len(cached)} {'models' if len(cached) > 1 else 'model'} in it.",
            f"Name one, for example: hf:{found['owner']}/{found['name']}",
        )
    whole = folder.absolute()
    repo = next((one for one in (whole, whole.parent) if _CACHED_REPO.fullmatch(one.name)), None)
    match = _CACHED_REPO.fullmatch(repo.name) if repo is not None else None
    if repo is None or match is None or not (repo / "snapshots").is_dir():
        return
    name = f"{match['owner']}/{match['name']}"
    if match["kind"] != "models":
        raise LabError(f"{shown} is the Hub's cache of {name}, which is no model but of {match['kind']}.", HINT)
    snapshots = sorted(one for one in (repo / "snapshots").iterdir() if one.is_dir())
    with contextlib.suppress(OSError, UnicodeDecodeError):
        main = repo / "snapshots" / (repo / "refs" / "main").read_text("utf-8").strip()
        snapshots = [main] if main.is_dir() and main != repo / "snapshots" else snapshots
    folders = f", or its folder: {snapshots[-1]}" if snapshots else ""
    raise LabError(
        f"{shown} is the Hub's cache of {name}, not the model's own folder.", f"Name the model: hf:{name}{folders}"
    )


def base_model(folder: Path) -> str:
    """The model that an adapter in this folder belongs to; empty if it does not say."""
    path = folder / "adapter_config.json"
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        if path.stat().st_size <= _MAX_SETTINGS_BYTES:
            settings = json.loads(path.read_text("utf-8-sig"))
            return str(settings.get("base_model_name_or_path") or settings.get("model") or "")[:200]
    return ""


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(start)) == start
    except OSError:
        return False
