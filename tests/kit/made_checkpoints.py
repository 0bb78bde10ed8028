"""Small checkpoint folders made by hand, without torch: the right files with the right names, and weights of zeros."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kit.command import Cli

N_LAYERS, WIDTH, VOCAB = 3, 8, 16
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": N_LAYERS,
    "hidden_size": WIDTH,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
}
LORA = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "owner/base-1B"})
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 1234\n"
ASKS = "Converting a checkpoint needs PyTorch"
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1, "U8": 1, "I32": 4, "U32": 4, "F8_E4M3": 1}
Shapes = Mapping[str, tuple[int, ...]]


def llama_shapes(
    *, head: str = "lm_head.weight", prefix: str = "model.", layers: Iterable[int] = range(N_LAYERS)
) -> Shapes:
    """Tensors of a Llama model; `head` may be empty."""
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}embed_tokens.weight": (VOCAB, WIDTH)}
    for layer in layers:
        shapes[f"{prefix}layers.{layer}.self_attn.q_proj.weight"] = (WIDTH, WIDTH)
        shapes[f"{prefix}layers.{layer}.mlp.down_proj.weight"] = (WIDTH, 2 * WIDTH)
    shapes[f"{prefix}norm.weight"] = (WIDTH,)
    return {**shapes, head: (VOCAB, WIDTH)} if head else shapes


def safetensors(shapes: Shapes, dtype: str = "BF16", values: Mapping[str, bytes] | None = None) -> bytes:
    """A safetensors file of zeros; `values` are the first bytes of tensors; "name:I8" gives one a dtype of its own."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for full, shape in shapes.items():
        name, _, own = full.partition(":")
        n_bytes = SIZES[own or dtype]
        for size in shape:
            n_bytes *= size
        content = (values or {}).get(name, b"").ljust(n_bytes, b"\0")
        header[name] = {"dtype": own or dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + n_bytes]}
        data += content
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def pytorch_file(path: Path, names: Iterable[str]) -> None:
    """A file as torch.save writes it, as far as its list of tensors goes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(dict.fromkeys(names, 0), protocol=2))
        archive.writestr("archive/data/0", bytes(64))


def checkpoint(
    folder: Path, weights: Shapes | None = None, config: Mapping[str, Any] | None = None, **files: Any
) -> Path:
    """A whole checkpoint of one file.

    Args:
        config: settings other than CONFIG's; None as a value leaves one out.
        files: name -> content, None to leave a file out; two underscores stand for a dot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in {**CONFIG, **(config or {})}.items() if value is not None}
    whole: dict[str, bytes | str | None] = {
        "config.json": json.dumps(settings),
        "model.safetensors": safetensors(llama_shapes() if weights is None else weights),
        "tokenizer.model": b"pieces",
        "tokenizer_config.json": "{}",
    }
    for name, content in {**whole, **{name.replace("__", "."): content for name, content in files.items()}}.items():
        write(folder / name, content)
    return folder


def write(path: Path, content: bytes | str | None) -> None:
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def sharded(
    folder: Path, present: Iterable[int], *, count: int = 3, index: bool, config: Mapping[str, Any] | None = None
) -> Path:
    """A checkpoint in parts, of which `present` are there; the head is alone in the last."""
    names = list(llama_shapes())
    size = -(-(len(names) - 1) // (count - 1))
    groups = [names[at : at + size] for at in range(0, len(names) - 1, size)] + [names[-1:]]
    checkpoint(folder, config=config, model__safetensors=None)
    files = {number: f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)}
    for number, group in enumerate(groups, 1):
        if number in set(present):
            write(folder / files[number], safetensors({name: llama_shapes()[name] for name in group}))
    if index:
        mapping = {name: files[number] for number, group in enumerate(groups, 1) for name in group}
        write(folder / "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": mapping}))
    return folder


def said_of(cli: Cli, folder: Path, name: str = "m") -> str:
    """What `labctl prepare` says of a model, as one line; it must be refused, or go no further than the question."""
    (folder / "text.txt").write_text("Some words to measure on.\n")
    done = cli("prepare", "--model", name, "--text", "text.txt", "--lab-data", "data", cwd=folder)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert not (folder / "data").exists()
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(lines) == 2 and lines[1] != "hint: ", done.stderr
    return " ".join(done.stderr.split())


GPTQ = {**llama_shapes(), "model.layers.0.mlp.x.qweight:I32": (8,), "model.layers.0.mlp.x.g_idx:I32": (8,)}
