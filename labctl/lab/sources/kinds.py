"""What files that are no model labctl can take are, by their names: other formats, adapters, halves of downloads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_CONVERTIBLE = re.compile(r"model.*\.safetensors|pytorch_model.*\.bin")
_GGUF_TYPES = (("f16", "fp16"), ("bf16",), ("f32", "fp32"))
HF_FORM = "Take the model's repository in the form of transformers: config.json, *.safetensors and its tokenizer."

# File name -> what a folder with it holds, and what to do; the first that fits counts.
_OTHERS = tuple(
    (re.compile(pattern, re.IGNORECASE), what, hint)
    for pattern, what, hint in (
        (
            r"pytorch_lora_weights\..*",
            "a LoRA adapter of an image model, not a language model",
            "labctl measures language models only.",
        ),
        (
            r"model_index\.json",
            "a diffusers pipeline, which makes images or sound",
            "labctl measures language models only.",
        ),
        (r"mlc-chat-config\.json|params_shard_\d+\.bin", "a model compiled for MLC", HF_FORM),
        (r"weights(\.\d+)?\.npz", "a model in the older form of MLX (Apple)", HF_FORM),
        (
            r"zero_to_fp32\.py|mp_rank_\d+_model_states\.pt|zero_pp_rank_.*\.pt|global_step\d+",
            "the parts of a DeepSpeed training run, not a model's files",
            "Put them together first: python zero_to_fp32.py . FOLDER",
        ),
        (
            r"__\d+_\d+\.distcp",
            "the parts of a distributed training run (FSDP), not a model's files",
            "Put them together first: accelerate merge-weights THIS_FOLDER NEW_FOLDER",
        ),
        (
            r"optimizer\.(pt|bin)|scheduler\.pt|trainer_state\.json",
            "a training run's state without the model's weights",
            "Take a folder that save_pretrained wrote.",
        ),
        (
            r"consolidated\.\d+\.pth|.*\.pth",
            "weights in PyTorch's own form (.pth)",
            "Take the repository in the form of transformers (often named -hf), or make it with transformers' script"
            " convert_llama_weights_to_hf.py.",
        ),
        (r"consolidated.*\.safetensors", "a model in Mistral's own form (consolidated.safetensors)", HF_FORM),
        (r"tf_model.*\.h5|saved_model\.pb|.*\.h5|.*\.keras", "a model for TensorFlow", HF_FORM),
        (r"flax_model.*\.msgpack", "a model for Flax (JAX)", HF_FORM),
        (r"openvino.*\.(xml|bin)", "a model for OpenVINO", HF_FORM),
        (r".*\.onnx(_data|\.data)?", "a model in the ONNX format", HF_FORM),
        (r".*\.(mlmodel|mlpackage|mlmodelc)", "a model for Apple's CoreML", HF_FORM),
        (r".*\.(tflite|litertlm|task)", "a model for LiteRT (TensorFlow Lite)", HF_FORM),
        (r".*\.pte", "a model for ExecuTorch", HF_FORM),
        (r".*\.(engine|plan)", "a model compiled for TensorRT", HF_FORM),
        (r".*\.nemo", "a model for NeMo", HF_FORM),
        (r".*\.(ckpt|pt)", "a training state in PyTorch's own form", f"Save it with save_pretrained first. {HF_FORM}"),
        (r"ggml.*\.bin|.*\.ggml(v\d)?(\..*)?\.bin", "a model in the old GGML format", "Take a GGUF file of the model."),
        (r"model\.bin", "weights in a form of another program (model.bin, as CTranslate2 has them)", HF_FORM),
        (r".*\.llamafile", "a llamafile, a program with a model inside", "Take the GGUF file of the model."),
    )
)
_UNFINISHED = re.compile(r"(?P<name>.*)\.(incomplete|crdownload|part|partial|download|aria2|tmp)", re.IGNORECASE)
_ARCHIVE = re.compile(r".*\.(zip|tar|tgz|(tar|gguf|safetensors|bin)\.(gz|bz2|xz|zst|lz4)|7z|rar)", re.IGNORECASE)


def is_weight_file(name: str) -> bool:
    """Whether llama.cpp's converter takes a file for weights.

    Source: llama.cpp conversion/base.py, index_tensors.
    """
    return _CONVERTIBLE.fullmatch(name) is not None


def is_adapter(names: Collection[str]) -> bool:
    """Whether files are an adapter, without a whole model beside it."""
    marks = [name for name in names if name == "adapter_config.json" or re.match(r"adapters?(_model)?\.", name)]
    return bool(marks) and not any(is_weight_file(name) for name in names)


def other_format(names: Iterable[str]) -> tuple[str, str] | None:
    """What files of another format are, and what to do; None if none of them tells."""
    listed = sorted(names)
    for pattern, what, hint in _OTHERS:
        if any(pattern.fullmatch(name) for name in listed):
            return what, hint
    return None


def unfinished(names: Iterable[str]) -> str:
    """The first file whose download was not finished; empty if there is none."""
    found = sorted(name for name in names if _UNFINISHED.fullmatch(name.rsplit("/", 1)[-1]))
    return found[0] if found else ""


def is_archive(name: str) -> bool:
    """Whether a file must be unpacked first."""
    return _ARCHIVE.fullmatch(name) is not None


def gguf_files(names: Iterable[str]) -> list[str]:
    """GGUF models among files: unquantized ones first, then by name; of a split one its first part only."""

    def rank(name: str) -> tuple[int, str]:
        words = re.split(r"[-_./]", name.lower())
        kind = next((number for number, kinds in enumerate(_GGUF_TYPES) if any(one in words for one in kinds)), 9)
        return kind, name

    models = (name for name in names if name.lower().endswith(".gguf") and not re.search("mmproj|imatrix", name, re.I))
    return sorted((name for name in models if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", name)), key=rank)
