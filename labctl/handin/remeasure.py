"""One chunk of a submission's perplexity measured again: the check that no invented samples pass."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from labctl.engines.llama_cpp.footprint import limit_bytes
from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.machine.cpu import performance_cores
from labctl.pipeline.labs import labs
from labctl.records.arrays import map_array
from labctl.records.digests import model_sha256
from labctl.records.disk import write_bytes
from labctl.records.sources import TextSource
from labctl.records.store import read_record
from labctl.steps.measured import LabRecords
from labctl.steps.perplexity.record import PerplexityRun

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Status = Literal["ok", "wrong", "skipped"]
_CHUNK_NATS = 0.02  # mean of a chunk: another CPU or thread count moves it by far less, an invented one by more


def stored_nll(folder: Path, run: PerplexityRun) -> npt.NDArray[np.float64] | None:
    """NLL of every chunk, if the file holds as much as the record says and no more."""
    import numpy as np

    path = folder / run.nll_path
    try:
        if folder.resolve() not in path.resolve().parents:
            return None
        stored = map_array(path)
    except (OSError, ValueError):
        return None
    if stored is None or stored.shape != (run.n_chunks_text, run.n_scored_per_chunk):
        return None
    whole = all(0 <= start < stop <= len(stored) for start, stop in run.chunks)
    return np.array(stored, dtype=np.float64) if whole else None


def measure_again(
    records: LabRecords, config: LabConfig, model_file: Path | None, chance: random.Random, folder: Path
) -> tuple[Status, str]:
    """Measure one random chunk of one format whose file is at hand.

    Args:
        config: its outputs and lab_data folders are searched for the model and the text.
        model_file: the file to measure with; None to look for one.
        folder: for temporary files.
    Returns: the result, and the two means in nats a token or why nothing was measured.
    """
    if not records.perplexity:
        return "skipped", "no perplexity was measured"
    at_hand = _files_at_hand(records, config, model_file)
    labels = [label for label in records.perplexity if label in at_hand]
    if not labels:
        if model_file is not None:
            return "skipped", f"{model_file.name} is none of the files that were measured"
        return "skipped", "no file of the model is at hand; name one with --model-file"
    label = chance.choice(labels)
    run = records.perplexity[label]
    text = _text_at_hand(run.text, config)
    nll = stored_nll(Path(records.folder), run)
    if text is None:
        return "skipped", f"the text {run.text.name} is not at hand"
    if nll is None or not run.chunks:
        return "wrong", f"{label}: its tokens' values are missing or damaged"
    chunk = chance.choice([chunk for start, stop in run.chunks for chunk in range(start, stop)])
    try:
        found = _nll_again(run, at_hand[label], text, nll, chunk, folder, config)
    except LabError as error:  # a file with the right digest that cannot be measured says nothing against the figures
        return "skipped", f"{label}, chunk {chunk} could not be measured on this computer: {error.message}"
    stated = nll[chunk]
    apart = abs(float(found.mean() - stated.mean()))
    detail = f"{label}, chunk {chunk}: {found.mean():.6f} nats a token, {stated.mean():.6f} handed in"
    return "ok" if apart <= _CHUNK_NATS else "wrong", detail


def _files_at_hand(records: LabRecords, config: LabConfig, model_file: Path | None) -> dict[str, Path]:
    from labctl.lab.sources.models import DEMO_FILE
    from labctl.records.places import brought

    wanted = {(file.size_bytes, file.sha256): label for label, file in records.files.items()}
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
    from labctl.engines.llama_cpp.gguf import parts
    from labctl.engines.llama_cpp.gguf.header import read_model

    if parts.NAME.fullmatch(path.name):
        with contextlib.suppress(LabError):  # then it is none of those that were measured
            return read_model(path)[1]
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
    run: PerplexityRun, model: Path, text: TextSource, nll: npt.NDArray[np.float64], chunk: int, folder: Path,
    config: LabConfig,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """NLL of one chunk by the same task that measures all: every other chunk is given as done."""
    import numpy as np

    from labctl.executors.child import run_task
    from labctl.steps.perplexity.record import PerplexityTask

    done = np.zeros_like(nll)
    done[chunk] = np.nan
    stream = io.BytesIO()
    np.save(stream, done)
    path = folder / "again" / "chunk.npy"
    write_bytes(path, stream.getvalue())
    task = PerplexityTask(
        model_path=str(model.resolve()),
        format=run.format,
        n_threads=config.threads or max(1, min(run.n_threads, performance_cores())),
        text=text,
        n_ctx=run.n_ctx,
        shape=dataclasses.replace(run.shape, n_side=1),  # a single chunk gets all threads
        nll_path=str(path),
        shown_nll_path=path.name,
        provenance=run.provenance,
    )
    run_task(
        task,
        PerplexityRun,
        log_path=folder / "again" / "log.txt",
        hang_s=config.hang_s,
        limit_bytes=limit_bytes(task, config.memory_limit_bytes),
    )
    measured: npt.NDArray[np.float64] = np.load(path, allow_pickle=False)[chunk]
    if measured.shape != nll[chunk].shape or not np.isfinite(measured).all():
        raise LabError("it could not be measured.")
    return measured
