"""Importance matrices: how much each column of a weight matrix matters, as llama-imatrix measured it on a text."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from labctl.engines.base import Imatrix
from labctl.engines.llama_cpp.deaths import last_words
from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.gguf.reader import AGAIN, GgufHeader, read_header
from labctl.engines.llama_cpp.gguf.soundness import adds_end
from labctl.engines.model import FloatArray
from labctl.errors import LabError
from labctl.executors.reasons import log_tail
from labctl.records.digests import DigestCache, digest
from labctl.records.disk import partial_path, publish, safe_name, writing
from labctl.records.places import brought, typed
from labctl.records.plaintext import check_text
from labctl.records.sources import SourceModel, TextSource

CHUNKS = 100
"""Most chunks of 512 tokens that `auto` reads; llama.cpp's authors find little gain beyond."""

_CALIBRATION = "demo/demo_text.txt"
_SUMS, _COUNTS = ".in_sum2", ".counts"
_TOOL_VARIABLE = "LABCTL_LLAMA_IMATRIX"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImatrixData:
    """A GGUF importance matrix read into memory.

    Attributes:
        entries: weight name -> (n_columns * n_experts,) float32, mean square of each input column.
        datasets: the texts it was computed on, as llama-imatrix noted them.
        n_chunks: how many chunks it was computed on.
    """

    entries: Mapping[str, FloatArray]
    datasets: tuple[str, ...]
    n_chunks: int

    def metadata(self, file_name: str) -> tuple[tuple[str, str | int], ...]:
        """What llama-quantize notes in a file made with it.

        Source: llama.cpp tools/quantize/quantize.cpp, main (LLM_KV_QUANTIZE_IMATRIX_*).
        """
        noted: list[tuple[str, str | int]] = [("quantize.imatrix.file", file_name)]
        if self.datasets:
            noted.append(("quantize.imatrix.dataset", self.datasets[0]))
        noted.append(("quantize.imatrix.entries_count", len(self.entries)))
        if self.n_chunks > 0:
            noted.append(("quantize.imatrix.chunks_count", self.n_chunks))
        return tuple(noted)


def read_imatrix(path: Path) -> ImatrixData:
    """Read a GGUF importance matrix, normalised as llama-quantize does it.

    Raises:
        LabError: not an importance matrix, of the older .dat kind, damaged, or with values that are not finite.
    Source: llama.cpp common/imatrix-loader.cpp, common_imatrix_load; tools/quantize/quantize.cpp, load_imatrix.
    """
    header = _checked_header(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    entries: dict[str, FloatArray] = {}
    with path.open("rb") as stream:

        def values(name: str) -> FloatArray:
            tensor = tensors[name]
            if tensor.tensor_type != "f32":
                raise LabError(f"{path.name}: {name} is not stored as f32.", AGAIN)
            stream.seek(header.data_offset + tensor.offset)
            return np.frombuffer(stream.read(tensor.size_bytes), dtype="<f4").astype(np.float32)

        for name in sorted(tensors):
            if not name.endswith(_SUMS):
                continue
            weight = name.removesuffix(_SUMS)
            if weight + _COUNTS not in tensors:
                raise LabError(f"{path.name}: {weight} has sums but no counts.", AGAIN)
            sums, counts = values(name), np.rint(values(weight + _COUNTS))
            if sums.size % counts.size:
                raise LabError(f"{path.name}: sums and counts of {weight} do not fit together.", AGAIN)
            rows = sums.reshape(counts.size, -1)
            # An expert that no token reached says nothing: all its columns count alike.
            means = np.where(counts[:, None] > 0, rows / np.maximum(counts, 1)[:, None], np.float32(1))
            if not np.isfinite(means).all():
                raise LabError(f"{path.name}: {weight} holds values that are not finite.", "Compute it again.")
            entries[weight] = means.astype(np.float32).ravel()
    if not entries:
        raise LabError(f"{path.name} holds no importance matrix.", "Make one with llama.cpp's llama-imatrix.")
    n_chunks = header.metadata.get("imatrix.chunk_count", 0)
    return ImatrixData(entries=entries, datasets=_datasets(path), n_chunks=int(n_chunks))


def _checked_header(path: Path) -> GgufHeader:
    """The header of a GGUF importance matrix.

    Raises:
        LabError: it is something else.
    """
    try:
        header = read_header(path)
    except LabError as error:
        if "is not a GGUF file" not in error.message:
            raise
        raise LabError(
            f"{path.name} is not a GGUF importance matrix.",
            "An older one (.dat) is turned into GGUF by: llama-imatrix --in-file OLD -o NEW.gguf",
        ) from error
    if header.metadata.get("general.type") != "imatrix" and "imatrix.chunk_count" not in header.metadata:
        raise LabError(
            f"{path.name} is a GGUF file, but not an importance matrix.", "Make one with llama.cpp's llama-imatrix."
        )
    return header


def _datasets(path: Path) -> tuple[str, ...]:
    """Names of the texts, which the header reader skips; the header is checked already."""
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("imatrix.datasets")
    if field is None:
        return ()
    return tuple(bytes(field.parts[index]).decode("utf-8", "replace") for index in field.data)


# -- which one --------------------------------------------------------------------------------------------------------


def find_imatrix(
    spec: str | None, model: SourceModel, text: TextSource | None, lab_data: Path, folder: Path, digests: DigestCache
) -> Imatrix | None:
    """The importance matrix that `--imatrix` names; nothing is computed yet.

    Args:
        spec: a GGUF file; `auto`, or `auto:TEXT` to compute it on that text; None for none.
        text: what perplexity is measured on, which calibration must not see.
        folder: the model's outputs folder.
    Raises:
        LabError: no such file, made for another model, llama-imatrix is missing, or the text is the test text.
    """
    if spec is None or not spec.strip():
        return None
    wanted = spec.strip()
    if wanted == "auto" or wanted.startswith("auto:"):
        return _automatic(wanted.removeprefix("auto").removeprefix(":"), model, text, lab_data, folder, digests)
    path = typed(wanted)
    if not path.is_file():
        raise LabError(f"No such importance matrix: {wanted}.", "Give a GGUF imatrix file, or --imatrix auto.")
    data = read_imatrix(path)
    require_fit(data, path.name, Path(model.path))
    notices: tuple[str, ...] = ()
    # Both kinds of path separators: the matrix may come from another system.
    names = [PurePosixPath(name.replace("\\", "/")).name for name in data.datasets]
    if text is not None and Path(text.path).name in names:
        notices = (
            f"The importance matrix {path.name} says that it was computed on {Path(text.path).name}, the text that"
            " perplexity is measured on: formats made with it look better here than they are.",
        )
    made_on = f" (computed on {', '.join(names)})" if any(names) else ""
    return Imatrix(path=path, key=digests.sha256(path), shown=f"{path.name}{made_on}", notices=notices)


def require_fit(data: ImatrixData, name: str, model_path: Path) -> None:
    """Refuse an importance matrix of another model.

    Raises:
        LabError: it names none of the model's weights, or one with another number of columns.
    """
    header, _ = read_model(model_path)
    n_fitting = 0
    for tensor in header.tensors:
        entry = data.entries.get(tensor.name)
        if entry is None or "token_embd" in tensor.name:
            continue
        wanted = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        if entry.size != wanted:
            raise LabError(
                f"The importance matrix {name} belongs to another model: {tensor.name} has {entry.size} columns in it,"
                f" {wanted} in {model_path.name}.",
                "Compute one for this model: --imatrix auto",
            )
        n_fitting += 1
    if not n_fitting:
        raise LabError(
            f"The importance matrix {name} belongs to another model: it names no weight of {model_path.name}.",
            "Compute one for this model: --imatrix auto",
        )


def _automatic(
    named: str, model: SourceModel, text: TextSource | None, lab_data: Path, folder: Path, digests: DigestCache
) -> Imatrix:
    calibration = typed(named) if named else brought(lab_data, _CALIBRATION)
    if not calibration.is_file():
        raise LabError(f"No such text to compute an importance matrix on: {calibration}.", "For example: auto:book.txt")
    oddities = check_text(calibration.read_bytes(), str(calibration))
    sha256 = digests.sha256(calibration)
    if text is not None and sha256 == text.sha256:
        raise LabError(
            f"{calibration.name} is the text that perplexity is measured on: an importance matrix computed on it would"
            " flatter every format made with it.",
            "Name another text: --imatrix auto:FILE, or measure on WikiText-2: --text wikitext-2",
        )
    key = digest({"imatrix": 1, "model": model.sha256, "text": sha256, "chunks": CHUNKS})
    path = folder / f"imatrix-{safe_name(calibration.stem)}-{key[:8]}.gguf"
    return Imatrix(
        path=path,
        key=key,
        shown=f"{path.name} (computed on {calibration.name} by llama-imatrix)",
        calibration=calibration,
        notices=(f"The importance matrix is computed on {calibration.name}.{oddities}",) if oddities else (),
    )


# -- computing one ----------------------------------------------------------------------------------------------------


def imatrix_tool() -> str:
    """llama.cpp's llama-imatrix: LABCTL_LLAMA_IMATRIX, or the one on the PATH.

    Raises:
        LabError: there is none.
    """
    named = os.environ.get(_TOOL_VARIABLE, "").strip()
    tool = shutil.which(named or "llama-imatrix")
    if tool is None:
        raise LabError(
            f"{named} cannot be run." if named else "llama.cpp's tool llama-imatrix is not on the PATH.",
            f"Install llama.cpp's tools, set {_TOOL_VARIABLE} to the tool, or give a ready one: --imatrix FILE",
        )
    return tool


def ensure_imatrix(imatrix: Imatrix, model: SourceModel, n_threads: int, log_path: Path) -> Path:
    """The file of an importance matrix, computed now if it is an automatic one that is not there.

    Args:
        log_path: where llama-imatrix's own messages go.
    Raises:
        LabError: the tool is missing or failed.
    """
    if imatrix.calibration is None or imatrix.path.is_file():
        return imatrix.path
    tool = imatrix_tool()
    partial = partial_path(imatrix.path)
    command = [tool, "-m", model.path, "-f", str(imatrix.calibration), "-o", str(partial), "--output-format", "gguf"]
    command += ["--chunks", str(CHUNKS), "-c", "512", "-b", "512", "-t", str(n_threads), "--no-ppl"]
    if adds_end(read_model(Path(model.path))[0]):  # the tool stops at such a vocabulary
        command += ["--override-kv", "tokenizer.ggml.add_eos_token=bool:false"]
    try:
        with writing(log_path):
            log_path.parent.mkdir(parents=True, exist_ok=True)
            imatrix.path.parent.mkdir(parents=True, exist_ok=True)
            log = log_path.open("wb")
        with log:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode != 0 or not partial.is_file():
            said = last_words(log_tail(log_path), "it said nothing")
            raise LabError(
                f"llama-imatrix failed (status {done.returncode}): {said}.",
                f"See {log_path}; a text of at least 512 tokens is needed.",
            )
        require_fit(read_imatrix(partial), imatrix.path.name, Path(model.path))
        publish(partial, imatrix.path)
    except OSError as error:
        raise LabError(f"{tool} cannot be run: {error.strerror}.", f"Check {_TOOL_VARIABLE}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return imatrix.path
