"""One chunk of a submission's perplexity measured again: the check that no invented samples pass."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from labctl import engines
from labctl.engines.base import Engine, limit_bytes
from labctl.errors import LabError
from labctl.executors.base import Rows
from labctl.lab.config import LabConfig
from labctl.machine.cpu import performance_cores
from labctl.pipeline.labs import labs
from labctl.records.digests import model_sha256
from labctl.records.sources import TextSource
from labctl.records.store import read_record
from labctl.steps.measured import Measured
from labctl.steps.perplexity.record import PerplexityRun
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Status = Literal["ok", "wrong", "skipped"]
_CHUNK_NATS = 0.02  # mean of a chunk: another CPU or thread count moves it by far less, an invented one by more


def measure_again(
    records: Measured, config: LabConfig, model_file: Path | None, chance: random.Random, folder: Path
) -> tuple[Status, str]:
    """Measure one random chunk of one format whose file is at hand.

    Args:
        config: its outputs and lab_data folders are searched for the model and the text.
        model_file: the file to measure with; None to look for one.
        folder: for temporary files.
    Returns: the result, and the two means in nats a token or why nothing was measured.
    """
    if not records.of(PERPLEXITY):
        return "skipped", "no perplexity was measured"
    at_hand = _files_at_hand(records, config, model_file)
    labels = [label for label in records.of(PERPLEXITY) if label in at_hand]
    if not labels:
        if model_file is not None:
            return "skipped", f"{model_file.name} is none of the files that were measured"
        return "skipped", "no file of the model is at hand; name one with --model-file"
    from labctl.steps.perplexity.figures import stored_nll

    label = chance.choice(labels)
    run = records.of(PERPLEXITY)[label]
    text = _text_at_hand(run.text, config)
    nll = stored_nll(Path(records.folder), run)
    if text is None:
        return "skipped", f"the text {run.text.name} is not at hand"
    if nll is None or not run.chunks:
        return "wrong", f"{label}: its tokens' values are missing or damaged"
    chunk = chance.choice([chunk for start, stop in run.chunks for chunk in range(start, stop)])
    try:
        engine = engines.named(records.model.engine)
        found = _nll_again(run, engine, at_hand[label], text, nll, chunk, folder, config)
    except LabError as error:  # a file with the right digest that cannot be measured says nothing against the figures
        return "skipped", f"{label}, chunk {chunk} could not be measured on this computer: {error.message}"
    stated = nll[chunk]
    apart = abs(float(found.mean() - stated.mean()))
    detail = f"{label}, chunk {chunk}: {found.mean():.6f} nats a token, {stated.mean():.6f} handed in"
    return "ok" if apart <= _CHUNK_NATS else "wrong", detail


def _files_at_hand(records: Measured, config: LabConfig, model_file: Path | None) -> dict[str, Path]:
    from labctl.lab.sources.models import DEMO_FILE
    from labctl.records.places import brought

    wanted = {(file.size_bytes, file.sha256): label for label, file in records.of(QUANTIZE).items()}
    sizes = {size for size, _ in wanted}
    lab_data = config.lab_data_folder()
    places = (
        [model_file]
        if model_file
        else [
            *Path(config.outputs).glob("*/*.gguf"),
            *(Path(lab.model.path) for lab in labs(Path(config.outputs))),
            *lab_data.glob("*/*.gguf"),
            *lab_data.glob("*.gguf"),
            brought(lab_data, DEMO_FILE),
        ]
    )
    found = {}
    for path in places:
        if not path.is_file():
            continue
        files = _files_of(path)
        size = sum(file.stat().st_size for file in files)
        if size in sizes:
            label = wanted.get((size, model_sha256(files)))
            if label is not None:
                found[label] = path
    return found


def _files_of(path: Path) -> tuple[Path, ...]:
    """The file, and the other parts of its model if it is the first of several."""
    with contextlib.suppress(LabError):  # then it is none of those that were measured
        return engines.for_file(path).parts(path)
    return (path,)


def _text_at_hand(text: TextSource, config: LabConfig) -> TextSource | None:
    from labctl.lab.sources.texts import resolve_text

    kept = (read_record(lab.folder.record_path("text"), TextSource) for lab in labs(Path(config.outputs)))
    known = [one.path for one in kept if one is not None and one.sha256 == text.sha256]
    for spec in dict.fromkeys((text.kind, config.text or "", *known, "wikitext-2", "demo")):
        if not spec or spec == "custom":
            continue
        try:
            found = resolve_text(spec, config.lab_data_folder(), offline=True)
        except LabError:
            continue
        if found.sha256 == text.sha256:
            return found
    return None


def _nll_again(
    run: PerplexityRun,
    engine: Engine,
    model: Path,
    text: TextSource,
    nll: npt.NDArray[np.float64],
    chunk: int,
    folder: Path,
    config: LabConfig,
) -> npt.NDArray[np.float64]:
    """NLL of one chunk by the same task that measures all: every other chunk is given as done."""
    import numpy as np

    from labctl.executors.local import run_task
    from labctl.steps.perplexity.record import PerplexityTask, Scored

    rows: dict[tuple[str, int], bytes] = {}

    def keep(row: Rows) -> bool:
        rows[row.to, row.number] = row.values
        return False

    task = PerplexityTask(
        model_path=str(model.resolve()),
        format=run.format,
        n_threads=config.threads or max(1, min(run.n_threads, performance_cores())),
        text=text,
        n_ctx=run.n_ctx,
        shape=dataclasses.replace(run.shape, n_side=1),  # a single chunk gets all threads
        measured=((0, chunk), (chunk + 1, len(nll))),
    )
    run_task(
        engines.assigned(task, engine.name),
        Scored,
        log_path=folder / "again" / "log.txt",
        hang_s=config.hang_s,
        on_rows=keep,
        limit_bytes=limit_bytes(engine.footprint, task, config.memory_limit_bytes),
        deaths=engine.death,
    )
    measured = np.frombuffer(rows.get(("nll", chunk), b""), dtype="<f8")
    if measured.shape != nll[chunk].shape or not np.isfinite(measured).all():
        raise LabError("it could not be measured.")
    return measured
