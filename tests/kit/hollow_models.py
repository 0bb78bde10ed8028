"""Asks llama.cpp what it would make of models whose weights are not there. Runs in a process of its own:

    python hollow_models.py FOLDER NAME,NAME,... FORMAT,FORMAT,...

For each shape of labctl.report.shapes it writes a GGUF header with every tensor of the model and a hole where the
weights would be, has llama.cpp quantize it as a dry run, and prints JSON: name -> format -> bytes of all tensors, or
null where llama.cpp refuses. A format that ends in + is asked for with an importance matrix.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np

from labctl.engines.llama_cpp.binding import Llama
from labctl.engines.llama_cpp.formats import FORMATS
from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.quantizer import planned_bytes, quantize_file
from labctl.errors import LabError
from labctl.report.shapes import SHAPES, KnownShape


def write_hollow(shape: KnownShape, path: Path) -> None:
    """A GGUF file of this shape, float16, without its weights: on most file systems it takes a few kilobytes."""
    architecture = "qwen2" if shape.qkv_bias else "llama"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.d_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    total = 0

    def add(name: str, sizes: tuple[int, ...], kind: type[np.generic]) -> None:
        nonlocal total
        n_bytes = int(np.prod(sizes)) * np.dtype(kind).itemsize
        writer.add_tensor_info(name, sizes, np.dtype(kind), n_bytes)
        total += -(-n_bytes // 32) * 32

    for matrix in shape.matrices():
        place = "" if matrix.role in ("token_embd", "output") else f"blk.{matrix.layer}."
        add(f"{place}{matrix.role}.weight", (matrix.n_rows, matrix.row_length), np.float16)
        if shape.qkv_bias and matrix.role in ("attn_q", "attn_k", "attn_v"):
            add(f"{place}{matrix.role}.bias", (matrix.n_rows,), np.float32)
    for layer in range(shape.n_layer):
        add(f"blk.{layer}.attn_norm.weight", (shape.n_embd,), np.float32)
        add(f"blk.{layer}.ffn_norm.weight", (shape.n_embd,), np.float32)
    add("output_norm.weight", (shape.n_embd,), np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + total + 64)


def main() -> None:
    folder, names, labels = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3].split(",")
    found: dict[str, dict[str, int | None]] = {}
    for shape in SHAPES:
        if shape.name not in names:
            continue
        path = folder / f"{shape.name}.gguf"
        write_hollow(shape, path)
        header, _ = read_model(path)
        found[shape.name] = {}
        for label in labels:
            lines: list[str] = []
            imatrix = {"blk.0.attn_q.weight": np.ones(shape.n_embd, np.float32)} if label.endswith("+") else None
            try:
                quantize_file(
                    Llama(log_line=lines.append),
                    path,
                    folder / "never.gguf",
                    FORMATS[label.rstrip("+")].ftype,
                    n_threads=1,
                    dry_run=True,
                    imatrix=imatrix,
                )
            except LabError:
                found[shape.name][label] = None
            else:
                found[shape.name][label] = planned_bytes(header, lines)
        path.unlink()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
