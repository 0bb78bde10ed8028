"""Makes a tiny checkpoint with random weights, and what transformers computes from it. Runs where torch is installed:

    python tiny_checkpoints.py SHAPE FOLDER DTYPE

SHAPE is llama, qwen2 or mistral. Beside the checkpoint it writes logits.npy and tokens.npy, and prints nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers

VOCAB = 320
WORDS = "the cat sat on a mat and looked at seven small birds while rain fell over old stone roofs near green hills"


def tokenizer(folder: Path) -> None:
    """A SentencePiece tokenizer, trained on made-up sentences."""
    generator = np.random.default_rng(1)
    words = WORDS.split()
    lines = [" ".join(generator.choice(words, 9)) + "." for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=VOCAB,
        model_type="bpe",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        hard_vocab_limit=True,
        minloglevel=2,
        num_threads=1,
    )
    (folder / "text.txt").unlink()
    (folder / "tokenizer.vocab").unlink()


def model(shape: str) -> transformers.PreTrainedModel:
    """A model of two layers, rows of 256 and 512."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    if shape == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    if shape == "qwen2":
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes))
    return transformers.MistralForCausalLM(transformers.MistralConfig(**sizes, head_dim=64, sliding_window=None))


def main(shape: str, folder: Path, dtype: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(folder)
    torch.manual_seed(sum(shape.encode()))
    torch.set_num_threads(2)
    made = model(shape)
    with torch.no_grad():
        for weights in made.parameters():  # far from the usual small start, so that logits spread
            if weights.ndim > 1:
                weights.normal_(0, 0.08)
            else:
                weights.add_(torch.randn_like(weights) * 0.05)
        if dtype == "bf16-large":
            made.lm_head.weight[5, 7] = 70000.0
    made = made.to({"f32": torch.float32, "f16": torch.float16}.get(dtype, torch.bfloat16)).eval()
    made.save_pretrained(folder)
    tokens = np.random.default_rng(3).integers(3, VOCAB, 48)
    with torch.no_grad():
        logits = made.float()(torch.tensor(tokens[None])).logits[0].numpy()
    np.save(folder / "tokens.npy", tokens.astype(np.int32))
    np.save(folder / "logits.npy", logits)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
