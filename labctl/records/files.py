"""What a GGUF file holds, as its header says."""

from __future__ import annotations

from dataclasses import dataclass

from labctl.records.base import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTypeShare:
    """How much of a file is stored as one ggml type."""

    tensor_type: str
    n_tensors: int
    n_params: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFallback:
    """A tensor that could not get the type its format asks for (its rows are not a multiple of the block)."""

    tensor: str
    row_length: int
    wanted: str
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a model that memory arithmetic needs, from the GGUF header."""

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    d_head_k: int
    d_head_v: int
    n_vocab: int
    n_ctx_train: int

    def kv_bytes(self, n_ctx: int, bytes_per_value: int = 2) -> int:
        """Size of the key and value cache for n_ctx tokens (f16 unless told)."""
        return self.n_layer * n_ctx * self.n_head_kv * (self.d_head_k + self.d_head_v) * bytes_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What a ready-made file tells of its making, in its maker's words; empty where it does not.

    Attributes:
        by: who quantized it.
        imatrix: what its importance matrix was computed on, or the matrix's file.
        file: its name.
    """

    by: str = ""
    imatrix: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """One GGUF file of the lab and what it really contains.

    Attributes:
        format: the label: F16, Q8_0, ...
        path: relative to the model's outputs folder, or absolute for a source that stays where it is.
        tensor_bytes: bytes of tensor data, without the header.
        quantize_s: wall time of llama_model_quantize; None for the baseline.
        imatrix: file name of the importance matrix used, if any.
        ready_made: of a file that somebody else made, what it tells of that; None for one made here, and the source.
    """

    format: str
    path: str
    size_bytes: int
    sha256: str
    n_params: int
    n_tensors: int
    tensor_bytes: int
    types: tuple[TensorTypeShare, ...]
    shape: ModelShape
    provenance: Provenance
    fallbacks: tuple[TensorFallback, ...] = ()
    quantize_s: float | None = None
    imatrix: str = ""
    ready_made: Making | None = None

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors, as llama-quantize prints it."""
        return 8 * self.tensor_bytes / self.n_params

    @property
    def n_fallbacks(self) -> int:
        return len(self.fallbacks)

    @property
    def main_type(self) -> str:
        """The ggml type that holds the most bytes."""
        return max(self.types, key=lambda share: share.size_bytes).tensor_type
