"""A Llama of random weights, to time a machine with: what it reads is nonsense, and as much as of any other."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from labctl.records.disk import partial_path, publish, writing

_HEAD = 64
_SHARED = 4  # heads that share one key and value
_N_VOCAB = 512


def write_sample(path: Path, *, n_layer: int, width: int) -> None:
    """See labctl.engines.base.Engine. Shapes are Llama's: a feed-forward 2.75 times as wide, four heads to a key."""
    n_head, n_ff = width // _HEAD, 11 * width // 4
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name("speed sample")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(n_layer)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head // _SHARED)
    writer.add_layer_norm_rms_eps(1e-5)
    special = ["<unk>", "<s>", "</s>"]
    letters = [f"<0x{number:02X}>" for number in range(256)]
    others = [f"\u2581w{number}" for number in range(_N_VOCAB - len(special) - len(letters))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2]
    kinds += [gguf.TokenType.BYTE] * len(letters) + [gguf.TokenType.NORMAL] * len(others)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*special, *letters, *others])
    writer.add_token_scores([0.0] * _N_VOCAB)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    draw = np.random.default_rng(1)

    def add(name: str, n_rows: int, n_columns: int) -> None:
        values = draw.standard_normal((n_rows, n_columns), dtype=np.float32) / np.float32(n_columns**0.5)
        writer.add_tensor(name, values.astype(np.float16))

    def add_norm(name: str) -> None:
        writer.add_tensor(name, np.ones(width, dtype=np.float32))

    n_kv = width // _SHARED
    add("token_embd.weight", _N_VOCAB, width)
    for layer in range(n_layer):
        for part, n_rows, n_columns in (
            ("attn_q", width, width),
            ("attn_k", n_kv, width),
            ("attn_v", n_kv, width),
            ("attn_output", width, width),
            ("ffn_gate", n_ff, width),
            ("ffn_up", n_ff, width),
            ("ffn_down", width, n_ff),
        ):
            add(f"blk.{layer}.{part}.weight", n_rows, n_columns)
        add_norm(f"blk.{layer}.attn_norm.weight")
        add_norm(f"blk.{layer}.ffn_norm.weight")
    add_norm("output_norm.weight")
    add("output.weight", _N_VOCAB, width)
    partial = partial_path(path)
    with writing(path):
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        publish(partial, path)
