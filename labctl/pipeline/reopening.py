"""A lab opened again with what it was asked before: by single steps, which go on with it, and by what only reads."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from labctl.engines import in_order
from labctl.errors import LabError
from labctl.lab.config import LabConfig, candidate
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.lab.listener import Listener
from labctl.lab.values import Source, checked_value, merged, sources
from labctl.pipeline import asked, labs, opening
from labctl.pipeline.plan import STEPS
from labctl.records.digests import DigestCache
from labctl.records.places import typed
from labctl.records.sources import TextSource
from labctl.records.store import read_record
from labctl.steps.quantize.step import formats_made

Sources = tuple[Source, Source, Source]
"""Of lab.toml, variables and flags."""


def to_measure(flags: Mapping[str, object], display: Listener, names: Sequence[str], *, keep: bool = True) -> Lab:
    """The lab that a measuring command works on.

    The whole run asks anew. A single step takes what is not said now from what the lab was asked before, its model,
    too, and adds its formats to the lab's. Speed is timed over all of these: only figures of the same rounds compare.

    Args:
        names: the steps that are asked for; none to prepare a whole run.
        keep: as in opening.open_lab.
    Raises:
        LabError: a setting is wrong, or the model or the text cannot be had.
    """
    whole = set(STEPS) <= set(names) or not names
    found = _with_files(sources(flags), display, keep=keep)
    if whole and _is_given("candidates", found) and not _is_given("model", found):
        found = _of_best(found, display)
    config = merged({}, *found)
    known = _known_as(config) if whole or _is_given("model", found) else _newest(config, display)
    before = asked.read(known.folder) if known is not None and not whole else None
    if before is not None:
        of_model = {name: before.of_lab[name] for name in asked.OF_MODEL if name in before.of_lab}
        config = merged({"formats": before.formats, **of_model}, *found)
    named = config.text
    text = None if named is None else opening.find_text(config, display, keep=keep)  # before a model is fetched for it
    model = opening.find_model(_with_spec(config, known), display, keep=keep)
    folder = RunFolder(Path(config.outputs) / model.name)
    _say_unreadable(folder, display)
    before = asked.read(folder)
    standing = {name: _plain(value) for one in found[:2] for name, value in one.values.items()}
    if before is not None and not whole:
        remembered = _of_steps(before, names)
        found = (_news(found[0], before, remembered), _news(found[1], before, remembered), found[2])
        config = merged(_without_clash(remembered, found), *found)
        wanted = config.formats if _is_given("formats", found) else before.formats
        others = [name for name in before.formats if name not in wanted]
        if others and any("formats" in asked.OF_STEP[name] for name in names):
            display.note(f"Speed is timed over all formats of the lab, against each other: {', '.join(others)}, too.")
            wanted = in_order((*wanted, *others))
        files = _candidates(before) | config.candidate_files
        config = dataclasses.replace(
            config,
            candidates=tuple(f"{name}={path}" for name, path in files.items()),
            formats=tuple(name for name in wanted if name not in files),
        )
    text = text if config.text == named else None
    lab = opening.open_lab(config, display, keep=keep, model=model, text=text)
    return dataclasses.replace(lab, asked={} if before is None else before.steps, standing=standing)


def to_read(flags: Mapping[str, object], display: Listener, *, notices: bool = True) -> Lab:
    """The lab that a command reads, with the settings it was measured with; nothing is made.

    Without --model it is the only lab in the outputs folder, or the one measured last. A flag asks for other settings;
    variables and lab.toml only for those of the report, since they cannot change what was measured.

    Raises:
        LabError: a setting is wrong, or there is no such lab and no such model.
    """
    toml, said, given = _with_files(sources(flags), display, keep=False)
    config = merged({}, toml, said, given)
    known = _known_as(config) if _is_given("model", (toml, said, given)) else _newest(config, display)
    keep = bool(labs.labs(Path(config.outputs)))
    if known is not None and Path(known.model.path).is_file():
        model, folder = known.model, known.folder
    else:
        # What a lab was measured with was allowed then; of another model nothing is shown anyway.
        allowed = dataclasses.replace(config, allow_quantized_source=True, allow_missing_pre_tokenizer=True)
        model = opening.find_model(_with_spec(allowed, known), display, keep=keep)
        folder = RunFolder(Path(config.outputs) / model.name) if known is None else known.folder
    _say_unreadable(folder, display)
    before = asked.read(folder)
    if before is None:
        return opening.open_lab(config, display, notices=notices, keep=keep, model=model, folder=folder)
    settings = before.settings(asked.OF_STEP)
    measured = {name: settings[name] for name in asked.MEASURING if settings.get(name) is not None}
    if not Path(str(measured.get("lab_data", "."))).is_dir():  # moved since
        del measured["lab_data"]
    if given.values.get("chunks", "auto") != "auto":
        measured |= {"budget_s": None, "settle": False}
    _say_differences(before, (toml, said), display)
    report = {name: before.of_lab[name] for name in asked.OF_REPORT if name in before.of_lab}
    config = merged(report, toml, said, Source(_without_clash(measured, (given,)), str), given)
    text = None if "text" in given.values else read_record(folder.record_path("text"), TextSource)
    lab = opening.open_lab(config, display, notices=notices, model=model, text=text, folder=folder)
    return dataclasses.replace(lab, asked=asked.flags_over(before.steps, given.values))


def _with_files(found: Sources, display: Listener, *, keep: bool) -> Sources:
    """The same with the files of repositories and folders in the place of their names, downloaded if need be.

    Args:
        keep: without it nothing is downloaded.
    Raises:
        LabError: as offers.ready_made, or they would have to be downloaded.
    """
    from labctl.lab.sources.offers import is_many, ready_made

    if not any(is_many(text) for source in found for text in _candidates_of(source)):
        return found
    rest = [Source({k: v for k, v in source.values.items() if k != "candidates"}, source.before) for source in found]
    config = merged({}, *rest)
    digests = DigestCache(Path(config.outputs) / ".digests.json", keep=keep)

    def expanded(source: Source) -> Source:
        if not (texts := _candidates_of(source)):
            return source
        files = ready_made(texts, digests, display.dialogue(config.yes), download=keep)
        return Source({**source.values, "candidates": checked_value("candidates", files, "")}, source.before)

    try:
        toml, said, given = map(expanded, found)
    finally:
        display.end()
    return toml, said, given


def _candidates_of(source: Source) -> tuple[str, ...]:
    """The ready-made files that one place names."""
    given = source.values.get("candidates", ())
    return given if isinstance(given, tuple) else ()


def _of_best(found: Sources, display: Listener) -> Sources:
    """The settings of a lab of ready-made files alone: the best of them is the model, the others stand beside it.

    Raises:
        LabError: none of them can be the model.
    """
    from labctl.lab.sources.offers import is_original, looked_into, offers, reference_of

    texts = _candidates_of(next(source for source in reversed(found) if "candidates" in source.values))
    best = reference_of([looked_into(offer) for offer in offers(texts, look=False)])
    original = (
        "" if is_original(best) else ": the best of these files, not the original model. What it lost is not seen"
    )
    display.note(f"No model is named, so everything is counted from {best.label} ({best.name}){original}.")
    made = {
        "model": str(best.path),
        "allow_quantized_source": True,
        "candidates": tuple(text for text in texts if candidate(text)[1] != best.path),
        **({} if _is_given("formats", found) else {"formats": ()}),
    }
    return found[0], found[1], Source({**found[2].values, **made}, found[2].before)


def _candidates(before: asked.Asked) -> dict[str, Path]:
    """Label -> ready-made file that a lab has."""
    texts = before.of_lab.get("candidates")
    return dict(candidate(str(text)) for text in texts) if isinstance(texts, (list, tuple)) else {}


def _of_steps(before: asked.Asked, names: Sequence[str]) -> dict[str, object]:
    """What steps were asked with; of another step nothing that is these steps' own: their first time is not its."""
    own = {setting for name in names for setting in asked.OF_STEP.get(name, ())}
    others = {name: value for name, value in before.settings(asked.OF_STEP).items() if name not in own}
    return others | before.settings(names)


def _news(source: Source, before: asked.Asked, remembered: Mapping[str, object]) -> Source:
    """What lab.toml or variables say, less what they said when the lab was last asked, by flags perhaps otherwise.

    What these steps were not asked with yet is news, too.
    """
    old = {
        name
        for name, value in source.values.items()
        if name in (*asked.MEASURING, "limit") and name in remembered and before.standing.get(name) == _plain(value)
    }
    return Source({name: value for name, value in source.values.items() if name not in old}, source.before)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def require_measured(lab: Lab) -> None:
    """Refuse where nothing was measured, and name the labs that there are.

    Raises:
        LabError: the lab's folder holds no record.
    """
    if formats_made(lab.folder):
        return
    command = "labctl run" if lab.is_demo else shlex.join(["labctl", "run", "--model", lab.model.spec])
    there = labs.listed(Path(lab.config.outputs))
    raise LabError(f"Nothing is measured for {lab.model.name} yet.", f"Measure first: {command}{there}")


def _is_given(name: str, found: Sequence[Source]) -> bool:
    return any(name in source.values for source in found)


def _without_clash(settings: Mapping[str, object], found: Sequence[Source]) -> dict[str, object]:
    """What was asked before, less what does not go together with what is asked now."""
    spending = ("budget_s", "settle")
    dropped: tuple[str, ...] = spending if _is_given("chunks", found) else ()
    if any(_is_given(name, found) for name in spending):
        dropped = ("chunks",)
    return {name: value for name, value in settings.items() if name not in dropped or value is None}


def _newest(config: LabConfig, display: Listener) -> labs.Known | None:
    """The only lab of the outputs folder, or the one measured last."""
    found = labs.labs(Path(config.outputs))
    others = ", ".join(lab.name for lab in found[1:])
    if others:
        display.note(f"This is {found[0].name}, measured last. Others, for --model: {others}.")
    elif found and found[0].model.origin != "demo":
        display.note(f"This is {found[0].name}, the lab in {config.outputs}.")
    return next(iter(found), None)


def _known_as(config: LabConfig) -> labs.Known | None:
    """The lab that --model names: by its folder's name, or by what was typed when it was measured."""
    from labctl.lab.sources.hubspec import is_address, read_spec

    found = labs.labs(Path(config.outputs))
    spec = config.model.strip()
    try:
        path = typed(spec)
        is_file, exists = path.is_file(), path.exists()
    except (OSError, ValueError):  # no name for a file
        is_file = exists = False
    if is_file:  # what is in it decides, not what it is called
        return None
    if not exists and is_address(spec):
        spec = str(read_spec(spec))
    by_spec = next((lab for lab in found if lab.model.spec == spec), None)
    return by_spec or (None if exists else next((lab for lab in found if lab.name == spec), None))


def _with_spec(config: LabConfig, known: labs.Known | None) -> LabConfig:
    """The settings with a known lab's model in place of what was typed."""
    if known is None:
        return config
    here = known.model.origin == "gguf" and Path(known.model.path).is_file()
    return dataclasses.replace(config, model=known.model.path if here else known.model.spec)


def _say_unreadable(folder: RunFolder, display: Listener) -> None:
    if not asked.is_readable(folder):
        display.warn(
            f"{folder.root / asked.NAME} cannot be read: what the lab was asked is taken from its records. The next"
            " command that measures writes it anew."
        )


def _say_differences(before: asked.Asked, found: Sequence[Source], display: Listener) -> None:
    """Name settings of lab.toml and variables that what was measured does not have."""
    for source in found:
        for name, value in source.values.items():
            had = [settings[name] for settings in before.steps.values() if name in settings]
            if name in asked.MEASURING - {"text", "formats", "candidates", "imatrix"} and had and value not in had:
                display.note(f"{source.before(name)}{value}: not yet measured; the figures are with {had[0]}.")
