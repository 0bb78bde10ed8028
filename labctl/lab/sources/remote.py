"""Models on the Hugging Face Hub: which files of a repository a lab needs, fetched or taken from the cache."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labctl.errors import LabError
from labctl.lab.dialogue import LARGE_BYTES, Dialogue
from labctl.lab.sources import folders, hub, kinds
from labctl.lab.sources.checkpoint import read_checkpoint, wanted_files
from labctl.lab.sources.hubspec import HubSpec
from labctl.lab.sources.wholeness import require_parts
from labctl.records.digests import DigestCache
from labctl.records.disk import safe_name
from labctl.records.units import size_text

_SPLIT = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})$")
_LABEL = re.compile(r"(?:^|[-_.])(f16|fp16|bf16|f32|fp32)(?=$|[-_.])", re.IGNORECASE)
# A name such as BF16-tuned-Q4_K_M says what the file was made from, too.
_QUANTIZED = re.compile(r"(?:^|[-_.])(?:IQ\d|TQ\d|Q[1-8](?=_[0-9K])|MXFP4|NVFP4)", re.IGNORECASE)
_LABELS = {"f16": "F16", "fp16": "F16", "bf16": "BF16", "f32": "F32", "fp32": "F32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model lies on this disk.

    Attributes:
        path: the GGUF file, or the folder of a checkpoint.
        name: of the model.
    """

    path: Path
    name: str
    notices: tuple[str, ...] = ()


def model_name(stem: str) -> str:
    """A model's folder name from its file's: without the part number and without the type's name at the end."""
    plain = _SPLIT.sub("", stem)
    return safe_name(re.sub(r"[-_.](f16|fp16|bf16|f32|fp32)$", "", plain, flags=re.IGNORECASE))


def from_hub(spec: HubSpec, digests: DigestCache, dialogue: Dialogue, check_settings: Callable[[Path], None]) -> Place:
    """The model that a name or address on the Hub means, downloaded unless the cache has it.

    A GGUF file is taken before a checkpoint, since it needs no conversion.

    Args:
        check_settings: given a checkpoint's folder once its config.json is there, before its weights are fetched.
    Raises:
        LabError: no such repository or file, nothing in it fits, refused, or it cannot be downloaded.
    """
    try:
        repo = hub.list_repo(spec.repo_id, spec.revision)
    except hub.HubUnavailableError as error:
        place = _from_cache(spec, digests)
        if place is None:
            raise
        return dataclasses.replace(place, notices=(f"{error.message} The copy in the cache was used.",))
    by_name = {file.name: file for file in repo.files}

    def fetched(name: str) -> Path:
        return hub.fetch(repo, by_name[name], digests.sha256, dialogue.progress)

    try:
        names, folder = _select(spec, list(by_name))
    except NothingFitsError:
        if kinds.is_adapter(by_name):
            settings = "adapter_config.json"
            base = folders.base_model(fetched(settings).parent) if settings in by_name else ""
            raise folders.adapter_error(spec.repo_id, base) from None
        if (other := kinds.other_format(by_name)) is not None:
            raise LabError(f"{spec.repo_id} holds {other[0]}.", other[1]) from None
        raise
    _ask(repo, [by_name[name] for name in names], folder is not None, dialogue)
    if folder is not None:
        _require_whole(spec.repo_id, folder, names)
        check_settings(fetched(f"{folder}config.json").parent)
    paths = [fetched(name) for name in names]
    return _placed(spec, paths[0], is_checkpoint=folder is not None)


def _require_whole(repo_id: str, folder: str, names: Sequence[str]) -> None:
    """See by the list of files that a repository has all parts of a checkpoint.

    Raises:
        LabError: it has not.
    """
    hint = "The repository itself is not whole: take another one of the model."
    if f"{folder}config.json" not in names:
        raise LabError(f"{repo_id} has weights, but no {folder}config.json.", hint)
    weights = [name.removeprefix(folder) for name in names if kinds.is_weight_file(name.removeprefix(folder))]
    try:
        require_parts(repo_id, weights)
    except LabError as error:
        raise LabError(error.message, hint) from error


def _placed(spec: HubSpec, path: Path, *, is_checkpoint: bool) -> Place:
    if is_checkpoint:
        return Place(path=path.parent, name=model_name(spec.repo_id.split("/")[1]))
    return Place(path=path, name=_hub_name(spec.repo_id, path))


class NothingFitsError(LabError):
    """A repository has neither a GGUF file nor a checkpoint."""


def _select(spec: HubSpec, names: Sequence[str]) -> tuple[Sequence[str], str | None]:
    """Files of a repository to take.

    Returns: their names; and of a checkpoint the folder it lies in, as "sub/" ("" for the top), else None.
    Raises:
        LabError: nothing fits, or more than one file does.
    """
    wanted, folder, is_forced = spec.wanted or "", "", False
    if wanted.endswith("/"):
        wanted, folder = "", wanted
    elif wanted in names and not wanted.lower().endswith(".gguf"):
        # The page of one file of a checkpoint: the checkpoint is meant.
        parent = PurePosixPath(wanted).parent.as_posix()
        folder, is_forced = "" if parent == "." else f"{parent}/", True
    inside = [name for name in names if name.startswith(folder)]
    if folder and not inside:
        raise LabError(f"{spec.repo_id} has no folder {folder}", f"See its files at {hub.page(spec.repo_id)}.")
    weights = [f"{folder}{name}" for name in wanted_files(name.removeprefix(folder) for name in inside)]
    if is_forced and weights:
        return weights, folder
    try:
        return choose(spec.repo_id, inside, wanted or None), None
    except LabError:
        if wanted or not weights:
            raise
    return weights, folder


def _ask(repo: hub.HubRepo, files: Sequence[hub.HubFile], is_checkpoint: bool, dialogue: Dialogue) -> None:
    """Ask before a large download.

    Raises:
        LabError: the person refused.
    """
    folder = hub.cached_files(repo.repo_id, repo.commit).get(repo.commit)
    missing = sum(file.size_bytes for file in files if folder is None or not (folder / file.name).is_file())
    if missing > LARGE_BYTES:
        more = ", and about as much again is written to convert it" if is_checkpoint else ""
        dialogue.ask(f"{repo.repo_id} has {size_text(missing)} to download{more}; the lab's own files come on top.")


def _from_cache(spec: HubSpec, digests: DigestCache) -> Place | None:
    """The model as an earlier run downloaded it, where the cache leaves no doubt which file that is."""
    found: list[tuple[list[Path], bool]] = []
    for snapshot in hub.cached_files(spec.repo_id, spec.revision).values():
        listed = [file.relative_to(snapshot).as_posix() for file in sorted(snapshot.glob("**/*")) if file.is_file()]
        try:
            names, folder = _select(spec, listed)
            whole = [snapshot / name for name in names]
            found.append((whole, False) if folder is None else (list(read_checkpoint(snapshot / folder).files), True))
        except LabError:
            continue
    if len(found) != 1:
        return None
    paths, is_checkpoint = found[0]
    for path in paths:
        expected = hub.blob_sha256(path)
        if expected and digests.sha256(path) != expected:
            raise LabError(
                f"The cached copy of {path.name} is damaged.", f"Delete {path.resolve()} and download again."
            )
    return _placed(spec, paths[0], is_checkpoint=is_checkpoint)


def _hub_name(repo_id: str, path: Path) -> str:
    """The file's name, or the repository's where files are just called model or ggml-model."""
    name = model_name(path.stem)
    return model_name(repo_id.split("/")[1]) if name.lower() in ("model", "ggml-model", "f16", "bf16", "f32") else name


def choose(repo_id: str, names: Iterable[str], wanted: str | None) -> Sequence[str]:
    """Which file of a repository to take, with all its parts if it is split.

    Args:
        wanted: the file the user named, or the end of its name ("Q8_0"); without it the only F16 file is taken, else
            the only BF16, else the only F32.
    Raises:
        LabError: nothing fits, or more than one file does.
    """
    models = {_SPLIT.sub("", parts[0][: -len(".gguf")]): parts for parts in grouped(names)}
    listing = ", ".join(parts[0] for parts in list(models.values())[:12]) or "none"
    if wanted:
        for parts in models.values():
            if wanted in parts:
                return _whole(repo_id, parts)
        ends = re.compile(
            rf"(?:.*[-_./])?{re.escape(wanted)}", re.IGNORECASE
        )  # owner/repo:Q8_0, as some programs write it
        fitting = [parts for stem, parts in models.items() if ends.fullmatch(stem)]
        if len(fitting) == 1:
            return _whole(repo_id, fitting[0])
        raise LabError(f"{repo_id} has no GGUF file {wanted}.", f"Its GGUF files: {listing}.")
    if not models:
        raise NothingFitsError(
            f"{repo_id} has neither a GGUF file nor a checkpoint that could be converted (*.safetensors).",
            "Look for another repository of the model.",
        )
    for label in ("F16", "BF16", "F32"):
        fitting = [parts for stem, parts in models.items() if _label(stem) == label]
        if len(fitting) == 1:
            return _whole(repo_id, fitting[0])
        if fitting:
            raise LabError(
                f"{repo_id} has {len(fitting)} {label} files.",
                f"Name one, as hf:{repo_id}:{fitting[0][0]}. They are {', '.join(parts[0] for parts in fitting[:12])}.",
            )
    raise LabError(
        f"{repo_id} has no file called F16, BF16 or F32.",
        f"Name one, as hf:{repo_id}:{next(iter(models.values()))[0]}. Its GGUF files: {listing}.",
    )


def grouped(names: Iterable[str]) -> list[list[str]]:
    """The GGUF models among a repository's files: the parts of each, in order."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.lower().endswith(".gguf") and not re.search(r"mmproj|imatrix", PurePosixPath(name).name, re.IGNORECASE):
            models.setdefault(_SPLIT.sub("", name[: -len(".gguf")]), []).append(name)
    return list(models.values())


def _whole(repo_id: str, parts: Sequence[str]) -> Sequence[str]:
    """The parts of a model, all of them.

    Raises:
        LabError: the repository lacks some.
    """
    match = _SPLIT.search(parts[0][: -len(".gguf")])
    count = int(match["count"]) if match else 1
    if len(parts) != count:
        raise LabError(
            f"{repo_id} has {len(parts)} of the {count} parts of {_SPLIT.sub('', PurePosixPath(parts[0]).stem)}.",
            "Name another file of it, or look for another repository of the model.",
        )
    return parts


def _label(stem: str) -> str:
    """The type in a file's name, or else in its folder's; empty if neither says one."""
    for part in reversed(PurePosixPath(stem).parts):
        if _QUANTIZED.search(part):
            return ""
        found = _LABEL.findall(part)
        if found:
            return _LABELS[found[-1].lower()]
    return ""
