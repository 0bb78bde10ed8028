"""A checkpoint to an unquantized GGUF file, by llama.cpp's own converter in its own environment."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from labctl import engines
from labctl.engines.safetensors import not_numbers, require_numbers
from labctl.errors import LabError
from labctl.executors.reasons import last_words
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources.checkpoint import Checkpoint
from labctl.lab.sources.converter import SCRIPT, Converter, make_ready
from labctl.records.digests import DigestCache, digest
from labctl.records.disk import free_bytes, partial_path, publish, remove_partials, require_space, safe_name, writing

ENGINE = engines.named("llama_cpp")  # whose converter makes the file
_F16_MAX = 65504
_POLL_S = 0.2
_FULL_BYTES = 1 << 20
_ELSEWHERE = "choose another --lab-data folder"
# Names in the converter's environment that could let it reach out or read what is the person's own.
_WITHHELD = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PYTHONPATH", "PYTHONHOME", "NO_LOCAL_GGUF")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A GGUF file made from a checkpoint.

    Attributes:
        outtype: "f16", or "bf16" or "f32" where F16 could not hold every weight.
        made: it was made now; False for one of an earlier run.
        notices: what every table must say about it.
    """

    path: Path
    outtype: str
    made: bool
    notices: tuple[str, ...]


def convert(
    checkpoint: Checkpoint, name: str, converter: Converter, lab_data: Path, digests: DigestCache, dialogue: Dialogue
) -> Converted:
    """Convert, unless the same checkpoint was converted before; F16 unless a weight does not fit into it.

    Args:
        name: of the model, for the file.
    Raises:
        LabError: the converter refused, the disk is too full, or what came out is no whole language model.
    """
    key = digest(
        {
            "convert": 1,
            "files": {file.name: digests.sha256(file) for file in checkpoint.files},
            "converter": converter.key,
        }
    )
    folder = lab_data / "converted" / f"{safe_name(name)}-{key[:12]}"
    wider = "f32" if "F32" in checkpoint.dtypes else "bf16"
    for outtype in ("f16", wider):
        path = folder / f"{safe_name(name)}-{outtype}.gguf"
        if path.is_file():
            return Converted(path=path, outtype=outtype, made=False, notices=_notices(outtype))
    require_numbers(checkpoint.tensors)
    make_ready(converter, dialogue)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    for outtype in ("f16", wider):
        path = folder / f"{safe_name(name)}-{outtype}.gguf"
        partial = partial_path(path)
        size_bytes = checkpoint.f16_bytes * (2 if outtype == "f32" else 1)
        require_space(folder, size_bytes + (64 << 20), f"the {outtype.upper()} file of {name}", _ELSEWHERE)
        try:
            dialogue.say(f"Converting {name} to {outtype.upper()} with {converter.origin} ...")
            _run(checkpoint, converter, partial, outtype, size_bytes, dialogue, lab_data / "converted")
            ENGINE.inspect(partial)  # is it a whole model?
            faults = ENGINE.f16_faults(partial) if outtype == "f16" else {}
            for tensor, fault in faults.items():
                if fault == "NaN":  # in PyTorch's own files, which only the converter reads
                    raise not_numbers(checkpoint.folder.name, tensor, fault)
            if faults:
                dialogue.say(f"{next(iter(faults))} holds weights beyond F16's {_F16_MAX:,}: {wider.upper()} instead.")
                continue
            publish(partial, path)
            return Converted(path=path, outtype=outtype, made=True, notices=_notices(outtype))
        finally:
            partial.unlink(missing_ok=True)
    raise AssertionError  # the second turn returns or raises


def _notices(outtype: str) -> tuple[str, ...]:
    if outtype == "f16":
        return ()
    label = outtype.upper()
    return (
        f"The checkpoint holds weights too large for F16 (beyond {_F16_MAX:,}), so the baseline is {label}: sizes,"
        f" speed and losses are counted from {label}.",
    )


# -- running it -------------------------------------------------------------------------------------------------------


def _run(
    checkpoint: Checkpoint,
    converter: Converter,
    target: Path,
    outtype: str,
    size_bytes: int,
    dialogue: Dialogue,
    logs: Path,
) -> None:
    """Run the converter to its end, watching the file grow.

    Raises:
        LabError: it failed, in one line.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _WITHHELD}
    # The converter needs nothing from the network, and a repository's settings could send it there for program code.
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUTF8": "1", "PYTHONWARNINGS": "ignore"}
    command = [str(converter.python), str(converter.folder / SCRIPT), str(checkpoint.folder.resolve())]
    command += ["--outfile", str(target.absolute()), "--outtype", outtype]
    log_path = logs / f"{target.parent.name}.log"
    with writing(log_path), log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=target.parent
        )
        try:
            while process.poll() is None:
                done = target.stat().st_size if target.exists() else 0
                dialogue.progress(f"{checkpoint.folder.name}, {outtype.upper()}", min(done, size_bytes - 1), size_bytes)
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    dialogue.progress(f"{checkpoint.folder.name}, {outtype.upper()}", size_bytes, size_bytes)
    if process.returncode != 0 or not target.is_file():
        log_text = log_path.read_bytes()[-65_536:].decode("utf-8", "replace")
        message, hint = explain(log_text, process.returncode, checkpoint.quantization)
        if free_bytes(target.parent) < _FULL_BYTES:  # then the log is cut short, too
            message, hint = _FULL
        raise LabError(f"{checkpoint.folder.name} cannot be converted: {message}.", f"{hint} (log: {log_path})")


_FULL = ("the disk is full", f"Free some space, or {_ELSEWHERE}.")
_CAUSES = (
    (
        r"Model (\S+) is not supported|Architecture '?(\S+?)'? not supported",
        "llama.cpp's converter does not know the architecture {}",
        "A newer llama.cpp may know it: update llama-cpp-python, or set LABCTL_LLAMA_CPP to a newer checkout.",
    ),
    (
        r"BPE pre-tokenizer was not recognized",
        "llama.cpp's converter does not know this tokenizer",
        "It knows tokenizers by a fingerprint: a changed tokenizer, or a model newer than this llama.cpp.",
    ),
    (
        r"(?:FileNotFoundError|Error no file named|File not found):?.*?([\w.-]+\.(?:json|model|safetensors|txt|bin))",
        "the file {} is missing",
        "Download the checkpoint again, all files of it.",
    ),
    (
        r"Can ?not map tensor '([^']+)'",
        "llama.cpp's converter does not know the tensor {}",
        "The architecture differs from what its name says: an adapter, or a model newer than this llama.cpp.",
    ),
    (r"Missing tensors?: (.+)", "weights are missing: {}", "Download the checkpoint again, all files of it."),
    (
        r"No module named '([^']+)'",
        "its environment lacks the Python package {}",
        "Delete the folder .convert in lab_data: the environment is then set up again.",
    ),
    (r"No space left on device|File too large", *_FULL),
    (r"MemoryError|Cannot allocate memory|not enough memory", "memory ran out", "Close other programs and try again."),
    (
        r"Quant method is not yet supported: '?([\w.-]+)",
        "its weights are quantized by a method that llama.cpp's converter does not know: {}",
        "Take the unquantized checkpoint of the model.",
    ),
)


def explain(log: str, status: int, quantization: str = "") -> tuple[str, str]:
    """What a converter's log says, in one line, and what to do about it.

    Args:
        status: of the converter's process.
        quantization: method by which the checkpoint's weights are quantized already; empty if they are not.
    """
    # A method comes in many forms; in one that the converter does not know, it stumbles over a tensor or a setting.
    if quantization and re.search(r"Can ?not map tensor|(Key|Assertion|NotImplemented|Runtime)Error", log):
        return (
            f"llama.cpp's converter cannot unpack this form of weights quantized by {quantization}",
            "Take the unquantized checkpoint of the model, or a GGUF file.",
        )
    for pattern, message, hint in _CAUSES:
        match = re.search(pattern, log)
        if match:
            what = next((group for group in match.groups() if group), "") if match.groups() else ""
            return message.format(what.strip()[:120]), hint
    if status == -9:
        return "the converter was killed, most likely because memory ran out", "Close other programs and try again."
    return last_words(log, f"the converter ended with status {status}"), "The log says more."
