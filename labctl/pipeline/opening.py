"""Opening a lab: the model, the text and this machine's llama.cpp that settings name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path

from labctl import engines
from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab
from labctl.lab.listener import Listener
from labctl.lab.prompts import check_prompts
from labctl.pipeline import labs
from labctl.records.digests import DigestCache
from labctl.records.disk import write_text
from labctl.records.sources import SourceModel, TextSource

_HUB_PAUSE_S = 3600.0


def find_model(config: LabConfig, display: Listener, *, keep: bool = True) -> SourceModel:
    """The model that settings name, under the name of its own folders.

    Args:
        keep: note what was found out; without it no file is written.
    Raises:
        LabError: no such model, or it cannot be a lab's baseline.
    """
    from labctl.lab.sources.models import resolve_model

    outputs = Path(config.outputs)
    model = resolve_model(
        config.model,
        config.lab_data_folder(),
        DigestCache(outputs / ".digests.json", keep=keep),
        allow_quantized=config.allow_quantized_source,
        allow_missing_pre=config.allow_missing_pre_tokenizer,
        llama_cpp=config.llama_cpp,
        dialogue=display.dialogue(config.yes),
    )
    name, why = labs.folder_name(model, outputs, Path(config.reports))
    if why:
        display.note(why)
    return dataclasses.replace(model, name=name)


def open_lab(
    config: LabConfig,
    display: Listener,
    *,
    notices: bool = True,
    keep: bool = True,
    model: SourceModel | None = None,
    text: TextSource | None = None,
    folder: RunFolder | None = None,
) -> Lab:
    """Find the model, the text and this machine's llama.cpp.

    Args:
        notices: show what every reader must know about the model and the text.
        keep: make the lab's folders, and note there what was found out; without it no file is written there.
        model, text: found already.
        folder: of a lab that is only read, and not made.
    Raises:
        LabError: no such model or text, or llama-cpp-python is missing.
    """
    from labctl.machine import cpu
    from labctl.machine.fingerprint import fingerprint

    outputs = Path(config.outputs)
    digests = DigestCache(outputs / ".digests.json", keep=keep)
    lab_data = config.lab_data_folder()
    if text is None and config.text is not None:  # one that is not to be had is told before a model is fetched for it
        text = find_text(config, display, keep=keep)
    model = model or find_model(config, display, keep=keep)
    if folder is None:
        check_prompts(config.prompts)
    place = folder or RunFolder(outputs / model.name)
    text = text or find_text(config, display, keep=keep)
    engine = engines.named(model.engine)
    if strange := [name for name in config.formats if name not in engine.formats]:
        raise LabError(
            f"{', '.join(strange)}: not formats that {engine.title} makes of {model.name}.",
            f"Choose from --formats {','.join(engine.formats)}.",
        )
    for label, path in config.candidate_files.items():
        if label == model.baseline:
            raise LabError(
                f"{label} is the label of a ready-made file, and of the model's own.",
                f"Give the file another label: --candidate {label}-ready={path}",
            )
        if not path.is_file():
            raise LabError(f"There is no file {path}, which is to be measured as {label}.", "Check the path.")
    imatrix = None
    if config.imatrix is not None:
        imatrix = engine.find_imatrix(config.imatrix, model, text, lab_data, place.root, digests)
    if imatrix is not None:
        model = dataclasses.replace(model, notices=tuple(dict.fromkeys((*model.notices, *imatrix.notices))))
    n_threads = config.threads or cpu.performance_cores()
    lab = Lab(
        config=config,
        folder=place.make() if keep and folder is None else place,
        model=model,
        text=text,
        machine=fingerprint(),
        n_threads=n_threads,
        identity=engine.identity(outputs, n_threads, keep=keep),
        digests=digests,
        probes=_probes(lab_data),
        imatrix=imatrix,
    ).with_notices()
    if notices:
        for notice in (*lab.model.notices, text.notice):
            if notice:
                display.notice(notice)
        if model.quantized and model.baseline in config.formats:
            display.notice(
                f"Most of the source's bytes are {model.baseline} already: the source itself stands for that format,"
                " and no other file of it is made."
            )
    return lab


def find_text(config: LabConfig, display: Listener, *, keep: bool = True) -> TextSource:
    """The text to measure on; a Hub that could not be reached is not asked again for an hour.

    Args:
        keep: note that the Hub could not be reached.
    Raises:
        LabError: there is none of that name, or it cannot be measured on.
    """
    from labctl.lab.sources.texts import resolve_text

    mark = Path(config.outputs) / ".hub-unreachable"
    told = "" if config.text is not None else _told_lately(mark)
    say = display.dialogue(config.yes).say
    text = resolve_text(config.text, config.lab_data_folder(), offline=bool(told), say=say)
    if config.text is None and text.kind == "demo":
        if told:
            return dataclasses.replace(text, notice=told)
        if not keep:
            return text
        with contextlib.suppress(LabError, OSError):  # what cannot be noted costs time, not truth
            write_text(mark, text.notice + "\n")
            os.utime(mark)
    return text


def _told_lately(mark: Path) -> str:
    """The notice of a Hub that could not be reached within the last hour; empty if there is none.

    A clock that was set back leaves a note from the future: it does not count.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if 0 <= time.time() - mark.stat().st_mtime < _HUB_PAUSE_S:
            return mark.read_text("utf-8").strip()
    return ""


def _probes(lab_data: Path) -> dict[str, Path]:
    """The questions with known answers: the CSV files in lab_data/demo/probes/, and a student's in lab_data/probes/."""
    from labctl.records.places import every

    own = {path.stem: path for path in sorted(lab_data.glob("probes/*.csv"))}
    return {**every(lab_data, "demo/probes", "*.csv"), **own}
