"""Is a checkpoint whole? Its file names say how many there are, its index what is in them, config.json what must be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from labctl.engines.safetensors import AGAIN, Tensor
from labctl.errors import LabError

Config = Mapping[str, object]

_STEP_BYTES = 16 << 20

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<ending>\.safetensors|\.bin)")
_NESTED = ("text_config", "llm_config", "lm_config", "thinker_config", "language_config")
# Tensors that are the output head, whatever stands before. Source: llama.cpp gguf-py/gguf/tensor_mapping.py, OUTPUT.
_HEAD = re.compile(
    r"(?:(?:language_model|model|transformer|backbone|thinker)\.)*"
    r"(?:lm_head|lm_head\.linear|embed_out|output|output_layer|head|head\.out|head\.decoder|word_embeddings_for_head|ff_out)"
    r"\.(?:weight|qweight|weight_packed|q_weight|W_q)"
)
_EMBEDDINGS = re.compile(r"(?:.*\.)?(?:embed_tokens|tok_embeddings|wte|word_embeddings|embed_in|embeddings)\.weight")
_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.")
_OTHER_TOWERS = re.compile(r"vision|visual|image|audio|speech|talker|vit\.|vpm\.|code2wav|mtp")
# Models with a head of their own unless config.json says otherwise; config.json of the others often says nothing,
# since transformers leaves out what is usual. Source: transformers, tie_word_embeddings of each configuration class.
_UNTIED = re.compile(
    r"arcee|bitnet|codegen|dbrx|deepseek_v2|deepseek_v3|exaone|exaone4|falcon_h1|glm|glm4|glm4_moe|gpt_neox|"
    r"gpt_oss|gptj|granite|granitemoe|helium|hunyuan_v1_dense|jamba|llama|llama4_text|ministral|ministral3|mistral|"
    r"mixtral|nemotron|olmo|olmo2|olmo3|olmoe|persimmon|phi|phi3|phimoe|qwen2|qwen2_moe|qwen3|qwen3_moe|qwen3_next|"
    r"seed_oss|stablelm"
)


def text_config(config: Config) -> Config:
    """Settings of the language model: those of a model in a model on top of the outer ones.

    Source: llama.cpp conversion/base.py, load_hparams.
    """
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, dict):
            inner = inner.get("text_config", inner) if key == "thinker_config" else inner
            return {**config, **inner} if isinstance(inner, dict) else config
    return config


def is_tied(config: Config) -> bool | None:
    """Whether the output head is the embeddings again; None where neither config.json nor the kind of model says.

    Args:
        config: as it stands in the file.
    """
    inner = text_config(config)
    for key in ("tie_word_embeddings", "tie_embeddings"):
        value = inner.get(key)
        # An outer "false" says nothing of an inner model whose own settings leave out what is usual for it.
        if isinstance(value, bool) and (inner is config or value or _own(config, key) or _usually_untied(inner)):
            return value
    return False if _usually_untied(inner) else None


def _own(config: Config, key: str) -> bool:
    return any(isinstance(inner := config.get(name), dict) and key in inner for name in _NESTED)


def _usually_untied(config: Config) -> bool:
    return _UNTIED.fullmatch(str(config.get("model_type"))) is not None


def require_parts(folder: Path | str, names: Sequence[str]) -> None:
    """See that all parts are there whose number of parts the names tell, and that the weights are there only once.

    Raises:
        LabError: they are not.
    """
    splits: dict[tuple[str, int, str], set[int]] = {}
    for name in names:
        if (match := _PART.fullmatch(name)) is not None:
            splits.setdefault((match["stem"], int(match["count"]), match["ending"]), set()).add(int(match["number"]))
    for (stem, count, ending), found in splits.items():
        first = 0 if 0 in found else 1
        missing = [number for number in range(first, first + count) if number not in found]
        if missing:
            absent = f"{stem}-{missing[0]:05d}-of-{count:05d}{ending}"
            raise LabError(
                f"{len(missing)} of {count} weight files are missing in {folder}, the first of them {absent}.", AGAIN
            )
    forms = len(splits) + sum(_PART.fullmatch(name) is None for name in names)
    if forms > 1:
        raise LabError(
            f"{folder} holds its weights more than once: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}.",
            "Move the files that are left from an earlier save to another folder; the converter would read all.",
        )


def require_index(
    folder: Path, index: str, weight_map: Mapping[str, str], tensors: Mapping[str, Collection[str]]
) -> None:
    """See that every tensor which the index names is in the file where it says, and no other.

    Args:
        tensors: file -> names of its tensors.
    Raises:
        LabError: a file or tensors are missing, or file and index are of different saves.
    """
    parts = sorted(set(weight_map.values()))
    missing = [name for name in parts if not (folder / name).is_file()]
    if missing:
        whole = next((name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()), "")
        moved = f" If {whole} is the whole model, move {index} away." if whole else ""
        raise LabError(
            f"{len(missing)} of {len(parts)} weight files are missing in {folder}, the first of them {missing[0]}.",
            AGAIN + moved,
        )
    for part, found in tensors.items():
        named = {name for name, place in weight_map.items() if place == part}
        for some, what in (
            (named - set(found), f"{index} places {{}} tensors in it that are not there"),
            (set(found) - named, f"it holds {{}} tensors that {index} does not place there"),
        ):
            if some:
                told = what.format(len(some))
                raise LabError(
                    f"{part} is of another save than its index: {told}, the first of them {min(some)}.", AGAIN
                )


def require_layers(folder: Path, config: Config, names: Iterable[str]) -> None:
    """See that every layer which config.json counts has tensors.

    Raises:
        LabError: one has none.
    """
    inner = text_config(config)
    counts = (inner.get(key) for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"))
    n_layers = next((count for count in counts if isinstance(count, int)), 0)
    own = (name for name in names if not _OTHER_TOWERS.search(name))
    found = {int(match[1]) for name in own if (match := _LAYER.match(name)) is not None}
    if not found or "block_configs" in inner:  # some models have layers with nothing in them, and list those
        return
    missing = [layer for layer in range(min(n_layers, 10_000)) if layer not in found]
    if missing:
        raise LabError(
            f"The weights in {folder} are not whole: config.json counts {n_layers} layers, and there are no"
            f" tensors for {len(missing)} of them, the first of them layer {missing[0]}.",
            AGAIN,
        )


def require_head(folder: Path, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """See that a model whose output head is not its embeddings has that head.

    Args:
        shapes: of all tensors by name; empty shapes where they are not known.
    Raises:
        LabError: it has none, so that the converter would take the embeddings in its place.
    """
    if is_tied(config) is not False or any(_HEAD.fullmatch(name) for name in shapes):
        return
    size = next((shape for name, shape in sorted(shapes.items()) if shape and _EMBEDDINGS.fullmatch(name)), ())
    alike = [
        name
        for name, shape in sorted(shapes.items())
        if size and shape == size and not _EMBEDDINGS.fullmatch(name) and not _LAYER.match(name)
    ]
    said = "tie_word_embeddings" in text_config(config)
    why = "config.json says that" if said else f"in models of the kind {text_config(config).get('model_type')}"
    renamed = f" ({alike[0]} has its shape: was it renamed?)" if alike else ""
    raise LabError(
        f"The weights in {folder} are not whole: {why} the output head is not tied to the embeddings, and no"
        f" lm_head.weight is there{renamed}.",
        f'{AGAIN} If the head is tied after all, write "tie_word_embeddings": true into config.json.',
    )


def doubtful_head(config: Config, weights: Mapping[Path, Mapping[str, Tensor]]) -> str:
    """A notice where config.json says that the head is the embeddings, and the weights hold another one; else empty."""
    if is_tied(config) is not True:
        return ""
    listed = [(path, name, tensor) for path, tensors in weights.items() for name, tensor in tensors.items()]
    heads = [(path, name, tensor) for path, name, tensor in listed if _HEAD.fullmatch(name)]
    embeddings = [(path, tensor) for path, name, tensor in listed if _EMBEDDINGS.fullmatch(name)]
    if not heads or not embeddings or _same_bytes((heads[0][0], heads[0][2]), embeddings[0]):
        return ""
    return (
        "config.json says that the output head is the embeddings (tie_word_embeddings), and the weights hold a head of"
        f" their own that differs ({heads[0][1]}). Programs differ in which of the two they take, so the figures may"
        " not be those of the model as it is meant."
    )


def _same_bytes(one: tuple[Path, Tensor], other: tuple[Path, Tensor]) -> bool:
    size = one[1].end - one[1].begin
    if one[1].dtype != other[1].dtype or size != other[1].end - other[1].begin:
        return False
    with one[0].open("rb") as first, other[0].open("rb") as second:
        first.seek(one[1].begin)
        second.seek(other[1].begin)
        for start in range(0, size, _STEP_BYTES):
            step = min(_STEP_BYTES, size - start)
            if first.read(step) != second.read(step):
                return False
    return True
