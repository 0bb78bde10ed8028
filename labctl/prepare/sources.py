"""Which model a lab is about: `demo`, a GGUF file on this disk, or one from the Hugging Face Hub."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labctl import store
from labctl.errors import LabError
from labctl.prepare import header, hub
from labctl.records import SourceModel

DEMO_FILE = "demo/labllama-f16.gguf"
DEMO_NAME = "labllama-15m"
WAYS = "Give `demo`, the path of a GGUF file, or hf:owner/repo."

_HUB_SPEC = re.compile(r"hf:(?://)?(?P<repo>[^/@:\s]+/[^/@:\s]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<file>.+))?")
_SPLIT = re.compile(r"-(?P<number>\d{5})-of-\d{5}$")
_LABEL = re.compile(r"(?:^|[-_.])(f16|fp16|bf16|f32|fp32)(?=$|[-_.])", re.IGNORECASE)
_LABELS = {"f16": "F16", "fp16": "F16", "bf16": "BF16", "f32": "F32", "fp32": "F32"}


def resolve_model(
    spec: str,
    lab_data: Path,
    digests: store.DigestCache,
    *,
    allow_quantized: bool = False,
    progress: hub.Progress | None = None,
) -> SourceModel:
    """Find the model a user named, fetch it if need be, and check that it can be a lab's baseline.

    Args:
        spec: `demo`, a path, or `hf:owner/repo[@revision][:file]`.
        lab_data: the folder with the demo model.
        allow_quantized: take a source that has already lost precision; the record then says so.
        progress: told how far a download is.
    Raises:
        LabError: no such model, not a whole unquantized GGUF file, or it cannot be downloaded.
    """
    wanted = spec.strip()
    if not wanted:
        raise LabError("No model is named.", WAYS)
    if wanted.lower() == "demo":
        path = lab_data / DEMO_FILE
        if not path.is_file():
            raise LabError(
                f"The demo model is missing: {path}.",
                "Get it back with `git checkout -- lab_data/demo`, or clone again.",
            )
        return _checked(wanted, path, digests, name=DEMO_NAME, origin="demo", allow_quantized=allow_quantized)
    if wanted.startswith("hf:"):
        place = _from_hub(wanted, digests, progress)
        return _checked(
            wanted, place.path, digests, name=place.name, origin="hub", allow_quantized=allow_quantized,
            notices=place.notices,
        )  # fmt: skip
    path = Path(wanted).expanduser()
    _check_path(wanted, path, lab_data)
    name = model_name(path.stem)
    return _checked(wanted, path, digests, name=name, origin="gguf", allow_quantized=allow_quantized)


def model_name(stem: str) -> str:
    """A model's folder name from its file's: without the part number and without the type's name at the end."""
    plain = _SPLIT.sub("", stem)
    return store.safe_name(re.sub(r"[-_.](f16|fp16|bf16|f32|fp32)$", "", plain, flags=re.IGNORECASE))


def _checked(
    spec: str,
    path: Path,
    digests: store.DigestCache,
    *,
    name: str,
    origin: str,
    allow_quantized: bool,
    notices: tuple[str, ...] = (),
) -> SourceModel:
    """The record of a file that is a whole language model, and unquantized unless that is allowed."""
    found, parts = header.read_model(path)
    header.model_shape(found)
    baseline = header.baseline_label(found)
    quantized = header.is_quantized(found)
    if quantized:
        if not allow_quantized:
            raise LabError(
                f"{path.name} is already quantized ({baseline}): what it lost cannot be measured, as there is no"
                " original to compare with.",
                "Take the F16 or BF16 file of the model, or add --allow-quantized-source.",
            )
        notices = (
            *notices,
            f"The source is already quantized ({baseline}): sizes, speed and losses are counted from {baseline}, not"
            " from the original model, and every further quantization adds to what was lost before.",
        )
    hashes = [digests.sha256(part) for part in parts]
    return SourceModel(
        name=name,
        spec=spec,
        path=str(path.absolute()),
        origin=origin,
        size_bytes=found.size_bytes,
        sha256=hashes[0] if len(hashes) == 1 else store.digest({"parts": hashes}),
        baseline=baseline,
        quantized=quantized,
        notices=notices,
    )


def _check_path(spec: str, path: Path, lab_data: Path) -> None:
    """Say what is wrong with a path that is no file.

    Raises:
        LabError: it is a folder, or does not exist.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError):
        is_folder = exists = False
    if is_folder:
        inside = sorted(path.glob("*.gguf"))
        if inside:
            raise LabError(f"{spec} is a folder, not a GGUF file.", f"Name the file: {inside[0]}.")
        raise LabError(
            f"{spec} is a folder: checkpoint folders come with a later version (`labctl convert`).",
            "For now, convert it with llama.cpp's convert_hf_to_gguf.py --outtype f16 and give the GGUF file.",
        )
    if exists and path.is_file():
        return
    if exists:
        raise LabError(f"{spec} is not a file.", WAYS)
    local = sorted(str(file) for file in lab_data.glob("**/*.gguf")) if lab_data.is_dir() else []
    by_name = {Path(file).stem.lower(): file for file in local} | {"demo": "demo"}
    near = difflib.get_close_matches(path.stem.lower(), by_name, n=2, cutoff=0.6)
    meant = f"Did you mean {' or '.join(by_name[name] for name in near)}? " if near else ""
    at_hub = f"For the Hub write hf:{spec}. " if re.fullmatch(r"[\w.-]+/[\w.-]+", spec) else ""
    raise LabError(f"No such model: {spec}.", f"{meant}{at_hub}{WAYS}")


# -- from the Hub -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    name: str
    notices: tuple[str, ...] = ()


def _from_hub(spec: str, digests: store.DigestCache, progress: hub.Progress | None) -> _Place:
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
        return _Place(place.path, place.name, (f"{error.message} The copy in the cache was used.",))
    by_name = {file.name: file for file in repo.files}
    paths = [hub.fetch(repo, by_name[name], digests.sha256, progress) for name in choose(repo_id, by_name, wanted)]
    return _Place(paths[0], _hub_name(repo_id, paths[0]))


def _from_cache(repo_id: str, revision: str | None, wanted: str | None, digests: store.DigestCache) -> _Place | None:
    """The model as an earlier run downloaded it, where the cache leaves no doubt which file that is."""
    found = []
    for folder in hub.cached_files(repo_id, revision).values():
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.glob("**/*.gguf"))]
        try:
            found.append([folder / name for name in choose(repo_id, names, wanted)])
        except LabError:
            continue
    if len(found) != 1:
        return None
    for path in found[0]:
        expected = hub.blob_sha256(path)
        if expected and digests.sha256(path) != expected:
            raise LabError(
                f"The cached copy of {path.name} is damaged.", f"Delete {path.resolve()} and download again."
            )
    return _Place(found[0][0], _hub_name(repo_id, found[0][0]))


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
        checkpoint = any(name.endswith((".safetensors", ".bin")) for name in every)
        raise LabError(
            f"{repo_id} has no GGUF file{', only a checkpoint' if checkpoint else ''}.",
            "Look for a GGUF repository of the model (with an F16 or BF16 file), or convert the checkpoint with"
            " llama.cpp's convert_hf_to_gguf.py.",
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
