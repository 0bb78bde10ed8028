"""Which model a lab is about: `demo`, a preset, a GGUF file, a checkpoint folder, or one from the Hugging Face Hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from labctl import engines
from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import folders
from labctl.lab.sources.checkpoint import check_settings, read_checkpoint
from labctl.lab.sources.hubspec import is_address, read_spec
from labctl.lab.sources.presets import PRESETS, packaged_model
from labctl.lab.sources.remote import Place, choose, from_hub, model_name
from labctl.records.digests import DigestCache, model_sha256
from labctl.records.places import need, typed
from labctl.records.sources import SourceModel

__all__ = ["choose", "model_name", "resolve_model"]

DEMO_FILE = "demo/labllama-f16.gguf"
DEMO_NAME = "labllama-15m"
WAYS = (
    "Give `demo`, a name from `labctl models`, the path of a GGUF file or checkpoint folder, hf:owner/repo, or the"
    " address of a model's page on the Hub."
)
_NOBODY = Dialogue()

# Types that some models are trained and released in; a file of such a model called F16 holds them as well.
_RELEASED_AS = frozenset({"mxfp4", "nvfp4", "tq1_0", "tq2_0", "q1_0", "q2_0"})


def resolve_model(
    spec: str,
    lab_data: Path,
    digests: DigestCache,
    *,
    allow_quantized: bool = False,
    allow_missing_pre: bool = False,
    llama_cpp: str | None = None,
    dialogue: Dialogue = _NOBODY,
) -> SourceModel:
    """Find the model a user named, fetch and convert it if need be, and check that it can be a lab's baseline.

    Args:
        spec: `demo`, a preset's name, a path, `hf:owner/repo[@revision][:file]`, or the address of a page of the Hub.
        lab_data: the folder with the demo model; models are kept there.
        allow_quantized: take a source that has already lost precision; the record then says so.
        allow_missing_pre: take a file that does not name its pre-tokenizer; every table then says so.
        llama_cpp: a checkout of llama.cpp whose converter to use for checkpoints.
        dialogue: asked before large downloads, told how far they are.
    Raises:
        LabError: no such model, not a whole unquantized one, refused, or it cannot be downloaded or converted.
    """
    wanted = spec.strip()
    if not wanted:
        raise LabError("No model is named.", WAYS)
    if wanted.lower() == "demo":
        path = need("demo model", lab_data, DEMO_FILE)
        return _checked(wanted, Place(path=path, name=DEMO_NAME), digests, "demo", allow_quantized)
    preset = PRESETS.get(wanted.lower())
    if preset is not None and preset.package is not None:
        path = packaged_model(preset.package, lab_data, digests, dialogue)
        # Choosing it by name is the consent that --allow-quantized-source gives for others: `labctl models` says Q4_1.
        return _checked(wanted, Place(path=path, name=model_name(path.stem)), digests, "package", preset.quantized)
    where = preset.spec if preset is not None else wanted
    if is_address(where) and not _exists(Path(where)):
        at_hub = read_spec(where)
        wanted = wanted if preset is not None else str(at_hub)
        place = from_hub(
            at_hub, digests, dialogue, lambda folder: _check_settings(at_hub.repo_id, folder, allow_quantized)
        )
        origin = "hub"
    else:
        path = typed(where)
        if _is_folder(path):
            folders.require_checkpoint(path, wanted)
            place = Place(path=path, name=model_name(folders.model_name_of(path)))
        else:
            _check_path(wanted, path, lab_data)
            folders.refuse_file(path, wanted)
            place = Place(path=path, name=model_name(path.stem))
        origin = "gguf"
    if place.path.is_dir():
        origin = "checkpoint" if origin == "gguf" else origin
        return _from_checkpoint(wanted, place, lab_data, digests, origin, allow_quantized, llama_cpp, dialogue)
    return _checked(wanted, place, digests, origin, allow_quantized, allow_missing_pre=allow_missing_pre)


def _from_checkpoint(
    spec: str,
    place: Place,
    lab_data: Path,
    digests: DigestCache,
    origin: str,
    allow_quantized: bool,
    llama_cpp: str | None,
    dialogue: Dialogue,
) -> SourceModel:
    """The record of a checkpoint, converted to GGUF."""
    from labctl.lab.sources.convert import convert
    from labctl.lab.sources.converter import find_converter

    checkpoint = read_checkpoint(place.path)
    notices = (*place.notices, *([checkpoint.notice] if checkpoint.notice else []))
    if checkpoint.quantization:
        _require_unpackable(place.name, checkpoint.quantization, checkpoint.unpackable)
        _refuse_quantized(place.name, checkpoint.quantization, allow_quantized)
        notices = (*notices, _quantized_notice(checkpoint.quantization, "the converted file"))
    done = convert(checkpoint, place.name, find_converter(lab_data, llama_cpp), lab_data, digests, dialogue)
    made = Place(path=done.path, name=place.name, notices=(*notices, *done.notices))
    return _checked(spec, made, digests, origin, allow_quantized, was_quantized=bool(checkpoint.quantization))


def _check_settings(name: str, folder: Path, allow_quantized: bool) -> None:
    """Refuse a checkpoint by its config.json alone, before gigabytes of weights are fetched.

    Raises:
        LabError: it is of no use.
    """
    method, unpackable = check_settings(folder)
    if method:
        _require_unpackable(name, method, unpackable)
        _refuse_quantized(name, method, allow_quantized)


def _require_unpackable(name: str, method: str, unpackable: bool) -> None:
    """Refuse weights that llama.cpp's converter cannot turn back into numbers.

    Raises:
        LabError: it cannot.
    """
    if not unpackable:
        raise LabError(
            f"{name} is already quantized ({method}), in a way that llama.cpp's converter cannot unpack.",
            "Take the unquantized checkpoint of the model, or a GGUF file.",
        )


def _refuse_quantized(name: str, kind: str, allowed: bool) -> None:
    """Raise unless a quantized source is allowed.

    Raises:
        LabError: it is not.
    """
    if not allowed and kind.lower() in _RELEASED_AS:
        raise LabError(
            f"{name} holds {kind} weights. Some models (gpt-oss, for example) are released in that type and never were"
            " F16; of others it is a copy that has already lost something.",
            "Take the model's F16 or BF16 file if there is one without such weights; else --allow-quantized-source"
            " counts everything from this file.",
        )
    if not allowed:
        raise LabError(
            f"{name} is already quantized ({kind}): what it lost cannot be measured, as there is no original to compare"
            " with.",
            "Take the F16 or BF16 file of the model, or add --allow-quantized-source.",
        )


def _quantized_notice(kind: str, baseline: str) -> str:
    if kind.lower() in _RELEASED_AS:
        return (
            f"The source is already quantized ({kind}): sizes, speed and losses are counted from this file. Some models"
            f" are released in {kind}, and then it is the original; of others it is a copy that has lost something."
        )
    return (
        f"The source is already quantized ({kind}): sizes, speed and losses are counted from {baseline}, not from the"
        " original model, and what is made from it here adds to what was lost before."
    )


def _checked(
    spec: str,
    place: Place,
    digests: DigestCache,
    origin: str,
    allow_quantized: bool,
    was_quantized: bool = False,
    allow_missing_pre: bool = False,
) -> SourceModel:
    """The record of a file that is a whole language model, and unquantized unless that is allowed."""
    engine = engines.for_file(place.path)
    reading = engine.check_source(place.path, allow_missing_pre=allow_missing_pre)
    holds = engine.inspect(place.path)
    notices = (*place.notices, *reading)
    if holds.quantized:
        _refuse_quantized(place.path.name, holds.quantized, allow_quantized)
        notices = (*notices, _quantized_notice(holds.quantized, holds.label))
    return SourceModel(
        name=place.name,
        spec=spec,
        path=str(place.path.absolute()),
        origin=origin,
        size_bytes=holds.size_bytes,
        sha256=model_sha256(holds.files, digests.sha256),
        baseline=holds.label,
        quantized=bool(holds.quantized) or was_quantized,
        engine=engine.name,
        notices=notices,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a zero character in the name, or one too long
        return False


def _is_folder(path: Path) -> bool:
    return _exists(path) and path.is_dir()


def _check_path(spec: str, path: Path, lab_data: Path) -> None:
    """Say what is wrong with a path that is no file.

    Raises:
        LabError: it is no file, or does not exist.
    """
    if _exists(path):
        if path.is_file():
            return
        raise LabError(f"{spec} is not a file.", WAYS)
    local = sorted(str(file) for file in lab_data.glob("**/*.gguf")) if lab_data.is_dir() else []
    by_name = {Path(file).stem.lower(): file for file in local} | {name: name for name in PRESETS}
    near = difflib.get_close_matches(path.stem.lower(), by_name, n=2, cutoff=0.6)
    meant = f"Did you mean {' or '.join(by_name[name] for name in near)}? " if near else ""
    at_hub = f"For the Hub write hf:{spec}. " if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(?<!\.gguf)", spec) else ""
    raise LabError(f"No such model: {spec}.", f"{meant}{at_hub}{WAYS}")
