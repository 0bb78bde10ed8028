"""Opening a lab: the model, the text and this machine's llama.cpp that settings name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

from labctl.config import LabConfig
from labctl.console import Display
from labctl.engine import engine_info
from labctl.errors import LabError
from labctl.records import TextSource
from labctl.steps import Lab
from labctl.store import DigestCache, RunFolder, write_text

_HUB_PAUSE_S = 3600.0


def open_lab(config: LabConfig, display: Display, *, notices: bool = True, keep: bool = True) -> Lab:
    """Find the model, the text and this machine's llama.cpp.

    Args:
        notices: show what every reader must know about the model and the text.
        keep: make the lab's folders, and note there what was found out; without it no file is written there.
    Raises:
        LabError: no such model or text, or llama-cpp-python is missing.
    """
    from labctl import cpu, machine
    from labctl.prepare.sources import resolve_model

    outputs = Path(config.outputs)
    digests = DigestCache(outputs / ".digests.json", keep=keep)
    lab_data = config.lab_data_folder()
    # A text that is not to be had is told before a model is fetched or converted for it.
    say = display.dialogue(config.yes).say
    named = _find_text(config, lab_data, outputs, say, keep=keep) if config.text is not None else None
    model = resolve_model(
        config.model,
        lab_data,
        digests,
        allow_quantized=config.allow_quantized_source,
        allow_missing_pre=config.allow_missing_pre_tokenizer,
        llama_cpp=config.llama_cpp,
        dialogue=display.dialogue(config.yes),
    )
    text = named or _find_text(config, lab_data, outputs, say, keep=keep)
    imatrix = None
    if config.imatrix is not None:
        from labctl.prepare.imatrix import find_imatrix

        imatrix = find_imatrix(config.imatrix, model, text, lab_data, outputs / model.name, digests)
    if imatrix is not None:
        model = dataclasses.replace(model, notices=(*model.notices, *imatrix.notices))
    n_threads = config.threads or cpu.performance_cores()
    folder = RunFolder(outputs / model.name)
    lab = Lab(
        config=config,
        folder=folder.make() if keep else folder,
        model=model,
        text=text,
        machine=machine.fingerprint(),
        n_threads=n_threads,
        engine=engine_info(outputs, n_threads, keep=keep),
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


def _find_text(
    config: LabConfig, lab_data: Path, outputs: Path, say: Callable[[str], None], *, keep: bool
) -> TextSource:
    """The text to measure on; a Hub that could not be reached is not asked again for an hour."""
    from labctl.prepare.texts import resolve_text

    mark = outputs / ".hub-unreachable"
    told = "" if config.text is not None else _told_lately(mark)
    text = resolve_text(config.text, lab_data, offline=bool(told), say=say)
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
    places = (lab_data / "demo" / "probes", lab_data / "probes")
    return {path.stem: path for place in places for path in sorted(place.glob("*.csv"))}
