"""Models on the Hugging Face Hub: which files of a repository a lab needs, fetched or taken from the cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labctl import store
from labctl.errors import LabError
from labctl.prepare import hub
from labctl.prepare.checkpoint import read_checkpoint, wanted_files
from labctl.prepare.dialogue import LARGE_BYTES, Dialogue

_HUB_SPEC = re.compile(
    r"hf:(?://)?(?P<repo>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[^:\s]+))?(?::(?P<file>.+))?"
)
_SPLIT = re.compile(r"-(?P<number>\d{5})-of-\d{5}$")
_LABEL = re.compile(r"(?:^|[-_.])(f16|fp16|bf16|f32|fp32)(?=$|[-_.])", re.IGNORECASE)
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
    return store.safe_name(re.sub(r"[-_.](f16|fp16|bf16|f32|fp32)$", "", plain, flags=re.IGNORECASE))


def from_hub(spec: str, digests: store.DigestCache, dialogue: Dialogue) -> Place:
    """The model that hf:owner/repo[@revision][:file] names, downloaded unless the cache has it.

    A GGUF file is taken before a checkpoint, since it needs no conversion.

    Raises:
        LabError: no such repository or file, nothing in it fits, refused, or it cannot be downloaded.
    """
    match = _HUB_SPEC.fullmatch(spec)
    if match is None:
        raise LabError(
            f"Cannot read {spec!r}.", "Write hf:owner/repo, hf:owner/repo:file.gguf or hf:owner/repo@revision."
        )
    repo_id, revision, wanted = match["repo"], match["revision"], match["file"]
    if wanted:
        hub.check_name(wanted)
    try:
        repo = hub.list_repo(repo_id, revision)
    except hub.HubUnavailableError as error:
        place = _from_cache(repo_id, revision, wanted, digests)
        if place is None:
            raise
        return Place(
            path=place.path, name=place.name, notices=(f"{error.message} The copy in the cache was used.",)
        )  # fmt: skip
    by_name = {file.name: file for file in repo.files}
    weights = wanted_files(by_name)
    try:
        names = choose(repo_id, by_name, wanted)
    except LabError:
        if wanted or not weights:
            raise
        names = weights
    is_checkpoint = names is weights
    _ask(repo, [by_name[name] for name in names], is_checkpoint, dialogue)
    paths = [hub.fetch(repo, by_name[name], digests.sha256, dialogue.progress) for name in names]
    if is_checkpoint:
        return Place(path=paths[0].parent, name=model_name(repo_id.split("/")[1]))
    return Place(path=paths[0], name=_hub_name(repo_id, paths[0]))


def _ask(repo: hub.HubRepo, files: Sequence[hub.HubFile], is_checkpoint: bool, dialogue: Dialogue) -> None:
    """Ask before a large download.

    Raises:
        LabError: the person refused.
    """
    folder = hub.cached_files(repo.repo_id, repo.commit).get(repo.commit)
    missing = sum(file.size_bytes for file in files if folder is None or not (folder / file.name).is_file())
    if missing > LARGE_BYTES:
        more = ", and about as much again is written to convert it" if is_checkpoint else ""
        dialogue.ask(f"{repo.repo_id} has {missing / 1e9:.1f} GB to download{more}; the lab's own files come on top.")


def _from_cache(repo_id: str, revision: str | None, wanted: str | None, digests: store.DigestCache) -> Place | None:
    """The model as an earlier run downloaded it, where the cache leaves no doubt which file that is."""
    found: list[tuple[list[Path], bool]] = []
    for folder in hub.cached_files(repo_id, revision).values():
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.glob("**/*.gguf"))]
        try:
            found.append(([folder / name for name in choose(repo_id, names, wanted)], False))
        except LabError:
            try:
                if not wanted:
                    found.append((list(read_checkpoint(folder).files), True))
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
    if is_checkpoint:
        return Place(path=paths[0].parent, name=model_name(repo_id.split("/")[1]))
    return Place(path=paths[0], name=_hub_name(repo_id, paths[0]))


def _hub_name(repo_id: str, path: Path) -> str:
    """The file's name, or the repository's where files are just called model or ggml-model."""
    name = model_name(path.stem)
    return model_name(repo_id.split("/")[1]) if name.lower() in ("model", "ggml-model", "f16", "bf16", "f32") else name


def choose(repo_id: str, names: Iterable[str], wanted: str | None) -> Sequence[str]:
    """Which file of a repository to take, with all its parts if it is split.

    Args:
        wanted: the file the user named; without it the only F16 file is taken, else the only BF16, else the only F32.
    Raises:
        LabError: nothing fits, or more than one file does.
    """
    every = sorted(names)
    models: dict[str, list[str]] = {}
    for name in every:
        if name.lower().endswith(".gguf") and not re.search(r"mmproj|imatrix", PurePosixPath(name).name, re.IGNORECASE):
            models.setdefault(_SPLIT.sub("", name[: -len(".gguf")]), []).append(name)
    listing = ", ".join(parts[0] for parts in list(models.values())[:12]) or "none"
    if wanted:
        for parts in models.values():
            if wanted in parts:
                return parts
        raise LabError(f"{repo_id} has no GGUF file {wanted}.", f"Its GGUF files: {listing}.")
    if not models:
        raise LabError(
            f"{repo_id} has neither a GGUF file nor a checkpoint that could be converted (*.safetensors).",
            "Look for another repository of the model.",
        )
    for label in ("F16", "BF16", "F32"):
        fitting = [parts for stem, parts in models.items() if _label(stem) == label]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise LabError(
                f"{repo_id} has {len(fitting)} {label} files.",
                f"Name one, as hf:{repo_id}:{fitting[0][0]}. They are {', '.join(parts[0] for parts in fitting[:12])}.",
            )
    raise LabError(
        f"{repo_id} has no file called F16, BF16 or F32.",
        f"Name one, as hf:{repo_id}:{next(iter(models.values()))[0]}. Its GGUF files: {listing}.",
    )


def _label(stem: str) -> str:
    """The type in a file's name, or else in its folder's; empty if neither says one."""
    for part in reversed(PurePosixPath(stem).parts):
        found = _LABEL.findall(part)
        if found:
            return _LABELS[found[-1].lower()]
    return ""
