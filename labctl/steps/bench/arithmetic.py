"""What generating a token and reading a prompt ask of the machine: bytes of memory read, and operations."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.engines.base import Tensor
from labctl.records.files import ModelShape
from labctl.records.hardware import Work


def token_bytes(tensors: Sequence[Tensor], *, n_expert: int = 0, n_expert_used: int = 0) -> dict[str, float]:
    """Bytes of weights read for one generated token, by tensor type.

    Every tensor once, but of the table of token embeddings (token_embd.weight) one row, unless it also serves as the
    output matrix (a file without output.weight); of a mixture of experts, the share of experts that a token uses.
    """
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    found: dict[str, float] = {}
    for tensor in tensors:
        share = n_expert_used / n_expert if n_expert and "_exps." in tensor.name else 1.0
        n_bytes = tensor.size_bytes * share
        if tensor.name == "token_embd.weight":
            row = tensor.size_bytes / (tensor.n_params // max(1, tensor.shape[0]))
            n_bytes = row + (n_bytes if tied else 0.0)
        found[tensor.tensor_type] = found.get(tensor.tensor_type, 0.0) + n_bytes
    return found


def work_of(
    tensors: Sequence[Tensor],
    shape: ModelShape,
    *,
    n_prompt: int,
    n_gen: int,
    n_expert: int = 0,
    n_expert_used: int = 0,
) -> Work:
    """What llama-bench's two tests ask for with one file.

    Weights of one generated token: see `token_bytes`. Cache: keys and values of all tokens so far, (n_gen + 1) / 2 on
    average. Operations of the prompt: two a weight and token for every matrix, the output matrix for the last token
    only, and 4 n_layer n_head d_head for each pair of a token and one that it looks back at (itself included).
    """
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    flop = 0.0
    for tensor in tensors:
        share = n_expert_used / n_expert if n_expert and "_exps." in tensor.name else 1.0
        rows = tensor.n_params // max(1, tensor.shape[0])
        if tensor.name == "token_embd.weight" and not tied:
            continue
        if len(tensor.shape) > 1 and rows > 1:
            is_output = tensor.name in ("output.weight", "token_embd.weight")
            flop += 2 * tensor.n_params * share * (1 if is_output else n_prompt)
    pairs = n_prompt * (n_prompt + 1) // 2
    flop += 2 * shape.n_layer * shape.n_head * (shape.d_head_k + shape.d_head_v) * pairs
    return Work(
        weight_bytes_per_token=round(
            sum(token_bytes(tensors, n_expert=n_expert, n_expert_used=n_expert_used).values())
        ),
        kv_bytes_per_token=round(shape.kv_bytes(1) * (n_gen + 1) / 2),
        prompt_flop=round(flop),
    )
