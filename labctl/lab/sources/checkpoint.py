"""Hugging Face checkpoints: what a folder of weights, settings and a tokenizer holds, and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from labctl.engines.safetensors import AGAIN, Tensor, read_pytorch_names, read_safetensors
from labctl.errors import LabError
from labctl.lab.sources import folders, kinds, quantized, wholeness
from labctl.records.encodings import encoding_of, in_words

_MAX_JSON_BYTES = 64 << 20
_MORE_FILES = "Download the tokenizer's files of the model's repository too."
_TOKENIZERS = ("tokenizer.model", "tokenizer.json", "vocab.json", "tekken.json", "vocab.txt", "spiece.model")
_SIDE_FILES = re.compile(r".*\.json|tokenizer\.model|spiece\.model|merges\.txt|vocab\.txt|.*\.tiktoken|.*\.jinja")
# Kinds of models that do not write text word by word, by the name of their class in transformers.
_NO_DECODER = re.compile(
    r"(Bert|Roberta|XLMRoberta|Camembert|DistilBert|Albert|Electra|Deberta|ModernBert|NomicBert|EuroBert|JinaBert|MPNet|T5|MT5"
    r"|UMT5|LongT5|Bart|MBart|Pegasus|Marian|M2M100|Whisper|Wav2Vec2|Hubert|CLIP|Siglip|ViT|Dinov|Dream(Model)?$|LLaDA)"
    r"|.*For(MaskedLM|SequenceClassification|TokenClassification|QuestionAnswering|ImageClassification|RewardModel)$"
    r"|.*BidirectionalModel$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder that can be converted.

    Attributes:
        architecture: as config.json names it, "LlamaForCausalLM".
        files: all that the converter reads, config.json and weights included.
        weight_bytes: size of the weight files.
        dtypes: numeric types of the weights as safetensors names them ("BF16"); empty for PyTorch's own files.
        tensors: weight file -> its tensors; of safetensors files only.
        quantization: method by which the weights were already quantized ("fp8", "gptq"); empty if they were not.
        unpackable: llama.cpp's converter can turn weights quantized so back into numbers.
        notice: what every table must say about it; mostly empty.
    """

    folder: Path
    architecture: str
    files: tuple[Path, ...]
    weight_bytes: int
    dtypes: frozenset[str]
    tensors: Mapping[Path, Mapping[str, Tensor]]
    quantization: str = ""
    unpackable: bool = True
    notice: str = ""

    @property
    def f16_bytes(self) -> int:
        """About the size of the F16 file."""
        return self.weight_bytes // 2 if self.dtypes == {"F32"} else self.weight_bytes


def wanted_files(names: Iterable[str]) -> list[str]:
    """Files of a repository that conversion needs: weights, once, and what describes model and tokenizer.

    No program files are among them, so nothing that a repository ships is ever run.
    """
    top = sorted(name for name in names if "/" not in name)
    weights = [name for name in top if kinds.is_weight_file(name) and name.endswith(".safetensors")]
    # Some repositories hold the weights a second time, as one file or in another precision.
    shards = [name for name in weights if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    if shards:
        weights = shards
    elif "model.safetensors" in weights:
        weights = ["model.safetensors"]
    if not weights:
        weights = [name for name in top if kinds.is_weight_file(name)]
    return weights + [name for name in top if _SIDE_FILES.fullmatch(name)] if weights else []


def read_checkpoint(folder: Path) -> Checkpoint:
    """Check a folder before the converter is started.

    Raises:
        LabError: config.json, weights or tokenizer are missing, damaged, or of a kind that cannot be converted.
    """
    present = {path.name for path in folder.iterdir() if path.is_file()}
    config = _json(folder / "config.json")
    architecture = _architecture(folder, config, present)
    weights, index, weight_map = _weights(folder, present)
    if empty := [path.name for path in weights if path.stat().st_size == 0]:
        raise LabError(f"{folder} holds no weights: {empty[0]} is empty.", AGAIN)
    tensors = {path: read_safetensors(path) for path in weights if path.suffix == ".safetensors"}
    shapes = {name: tensor.shape for found in tensors.values() for name, tensor in found.items()}
    if index:
        wholeness.require_index(folder, index, weight_map, {path.name: found for path, found in tensors.items()})
    elif not tensors:
        shapes = dict.fromkeys((name for path in weights for name in read_pytorch_names(path)), ())
    shapes = shapes or dict.fromkeys(weight_map, ())
    if tensors and not shapes:
        raise LabError(f"{folder} holds no weights: {weights[0].name} is only a header.", AGAIN)
    if any("lora_" in name for name in shapes):
        raise folders.adapter_error(str(folder), "")
    inner = wholeness.text_config(config)
    dtypes = frozenset(tensor.dtype for found in tensors.values() for tensor in found.values())
    method = quantized.method_of(inner, shapes, dtypes, present)
    if shapes:
        wholeness.require_layers(folder, config, shapes)
        wholeness.require_head(folder, config, shapes)
    side = [folder / name for name in sorted(present) if _SIDE_FILES.fullmatch(name)]
    _require_tokenizer(folder, present)
    for path in side:
        _require_plain_json(path)
    return Checkpoint(
        folder=folder,
        architecture=architecture,
        files=(*weights, *side),
        weight_bytes=sum(path.stat().st_size for path in weights),
        dtypes=dtypes,
        tensors=tensors,
        quantization=method,
        unpackable=not method or quantized.can_unpack(method, inner),
        notice=wholeness.doubtful_head(config, tensors),
    )


def check_settings(folder: Path) -> tuple[str, bool]:
    """What config.json alone tells, before any weights are there.

    Returns: how the weights are quantized, empty if it does not say so; and whether the converter can unpack that.
    Raises:
        LabError: config.json is damaged, or names no model that writes text.
    """
    config = _json(folder / "config.json")
    _architecture(folder, config, ())
    inner = wholeness.text_config(config)
    method = quantized.method_of(inner, (), (), ())
    return method, not method or quantized.can_unpack(method, inner)


def _architecture(folder: Path, config: Mapping[str, object], present: Iterable[str]) -> str:
    """The class that config.json names.

    Raises:
        LabError: none, or one that does not write text word by word.
    """
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not architecture:
        other = kinds.other_format(present)
        raise LabError(
            f"{folder} holds {other[0]}." if other else f"{folder / 'config.json'} names no architecture.",
            other[1] if other else "Take the config.json of the model's repository.",
        )
    if _NO_DECODER.match(architecture) or config.get("is_encoder_decoder") is True:
        raise LabError(
            f"{folder} is a {architecture}, which does not write text from left to right: neither perplexity nor text"
            " generation can be measured.",
            "Take a decoder-only language model (its architecture mostly ends in ForCausalLM).",
        )
    return architecture


def _weights(folder: Path, present: set[str]) -> tuple[list[Path], str, dict[str, str]]:
    """The files that the converter reads weights from, as it finds them.

    Returns: files, the index's name, and tensor -> file by the index; without an index "" and nothing.
    Raises:
        LabError: there are none, some are missing, or they are there twice.
    Source: llama.cpp conversion/base.py, index_tensors.
    """
    found = sorted(name for name in present if kinds.is_weight_file(name))
    names = [name for name in found if name.endswith(".safetensors")]
    index = "model.safetensors.index.json" if names or "model.safetensors.index.json" in present else ""
    if not index:
        names, index = found, "pytorch_model.bin.index.json"
    if index in present:
        mapping = _json(folder / index).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise LabError(f"{folder / index} is damaged: it names no weights.", AGAIN)
        weight_map = {str(name): Path(str(part)).name for name, part in mapping.items()}
        wholeness.require_index(folder, index, weight_map, {})
        return [folder / name for name in sorted(set(weight_map.values()))], index, weight_map
    if not names:
        raise LabError(f"{folder} holds no weights (*.safetensors).", AGAIN)
    wholeness.require_parts(folder, names)
    return [folder / name for name in names], "", {}


def _require_tokenizer(folder: Path, present: set[str]) -> None:
    """See that there is a tokenizer that the converter can read.

    Raises:
        LabError: there is none.
    """
    coded = sorted(name for name in present if name.endswith(".tiktoken") or name == "tiktoken.model")
    if not present & set(_TOKENIZERS):
        if coded:
            raise LabError(
                f"{folder} holds a tokenizer that needs program code of its repository, which labctl never runs:"
                f" {coded[0]}.",
                "Take a GGUF file of the model, or a version of it with tokenizer.json.",
            )
        raise LabError(f"{folder} holds no tokenizer ({' or '.join(_TOKENIZERS[:3])}).", _MORE_FILES)
    if not present & (set(_TOKENIZERS) - {"vocab.json"}) and "merges.txt" not in present:
        raise LabError(f"{folder} holds half a tokenizer: vocab.json without merges.txt.", _MORE_FILES)
    for name in sorted(present & set(_TOKENIZERS)):
        if not (folder / name).stat().st_size:
            raise LabError(f"{folder / name} is empty.", AGAIN)


def _require_plain_json(path: Path) -> None:
    """See that a settings file is in the encoding that the converter reads.

    Raises:
        LabError: it begins with a byte order mark, or is in another encoding.
    """
    with path.open("rb") as stream:
        start = stream.read(256)
    encoding = encoding_of(start)
    if not path.name.endswith(".json") or encoding == "utf-8":
        return
    if encoding == "utf-8-sig":
        raise LabError(
            f"{path} begins with a byte order mark, which a JSON file must not have.",
            f"Save it as UTF-8 without one, for example: sed -i '1s/^\\xEF\\xBB\\xBF//' {path}",
        )
    raise LabError(
        f"{path} is in {in_words(encoding)}, and a JSON file must be UTF-8.",
        f"Save it as UTF-8 without a byte order mark, for example: iconv -f {encoding.upper()} -t UTF-8 {path} > NEW",
    )


def _json(path: Path) -> dict[str, object]:
    """A JSON file with an object in it.

    Raises:
        LabError: missing, too large, in another encoding, or damaged.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise LabError(f"{path} is too large for what it should be.", AGAIN)
        _require_plain_json(path)
        loaded = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise LabError(f"{path.parent} holds no {path.name}.", AGAIN) from error
    except json.JSONDecodeError as error:
        near = error.doc[max(0, error.pos - 3) : error.pos + 3]
        comment = " (JSON has no comments)" if re.search(r"//|/\*|#", near) else ""
        raise LabError(
            f"{path} is damaged: it is not JSON, as line {error.lineno}, column {error.colno} shows{comment}.",
            "Correct that place, or download the file again.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} is damaged: it is not JSON.", AGAIN) from error
    if not isinstance(loaded, dict):
        raise LabError(f"{path} is damaged: it holds no settings.", AGAIN)
    return loaded
