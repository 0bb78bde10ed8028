"""What the rest of labctl may ask of an engine, which is what quantizes and runs models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from labctl.errors import LabError

if TYPE_CHECKING:
    from labctl.engines.model import Program
    from labctl.executors.base import Report, Task
    from labctl.executors.reasons import Death
    from labctl.records.digests import DigestCache
    from labctl.records.files import Making, ModelShape, TensorTypeShare
    from labctl.records.sources import SourceModel, TextSource

UNQUANTIZED_TYPES = frozenset({"f32", "f16", "bf16"})
"""Types that hold a weight as it was trained, up to rounding of a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format that an engine can quantize a model to.

    Attributes:
        name: as in tables and on the command line.
        tensor_type: the type that most weights get.
        needs_imatrix: it cannot be made without an importance matrix.
        uses_imatrix: an importance matrix changes what is stored.
        aliases: other names that it goes by.
    """

    name: str
    tensor_type: str
    needs_imatrix: bool = False
    uses_imatrix: bool = True
    aliases: tuple[str, ...] = ()

    @property
    def bits(self) -> float:
        """Bits that a weight takes in most tensors, scales included."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a model file.

    Attributes:
        shape: row length first.
        tensor_type: the engine's name of the type that its values are stored in.
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: str
    n_params: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a model's file holds, by its header alone.

    Attributes:
        files: all of its parts in order, where it is split over several.
        size_bytes: of all parts together.
        types: bytes and weights in each type, largest first.
        label: the format that it counts as: F16, BF16 or F32; of a quantized file its main type.
        quantized: what it was quantized to, in words; empty if it was not.
        n_trained: tokens of context that it was trained for, or made fit for by scaling its positions.
        n_positions: rows of its table of learned positions, beyond which nothing can be computed; None without one.
        n_expert, n_expert_used: experts a layer, and how many of them a token uses; 0 for a model without.
        n_ff: numbers between the two matrices of a feed-forward layer, the widest; 0 without one.
        n_merges: rules by which the tokenizer merges; 0 without.
        kin: what all files of one model share, whatever their types: what it is in words -> its value, or a digest.
        making: who made the file and how, as far as it tells.
    """

    files: tuple[Path, ...]
    size_bytes: int
    tensors: tuple[Tensor, ...]
    types: tuple[TensorTypeShare, ...]
    shape: ModelShape
    label: str
    quantized: str
    n_trained: int
    n_positions: int | None
    n_expert: int
    n_expert_used: int
    n_ff: int
    n_merges: int
    kin: Mapping[str, str | int]
    making: Making

    @property
    def n_params(self) -> int:
        return sum(share.n_params for share in self.types)

    @property
    def bpw(self) -> float:
        """Bits per weight over all tensors."""
        return 8 * sum(share.size_bytes for share in self.types) / self.n_params

    def peak_ram_bytes(self, n_ctx: int) -> int:
        """Memory that a process needs to compute with it, n_ctx tokens of context opened."""
        return peak_ram_bytes(self.size_bytes, self.shape.kv_bytes(n_ctx))


def kin_difference(mine: Mapping[str, str | int], theirs: Mapping[str, str | int]) -> str:
    """What of two files' `kin` says that they hold two models, as what a reader is told; empty if nothing does."""
    for words in (word for word in theirs if mine.get(word) != theirs[word]):
        one, other = mine.get(words, ""), theirs[words]
        if isinstance(one, int) and isinstance(other, int):
            return f"it has {one:,} {words}, and the model {other:,}"
        if words.startswith("vocabulary: "):  # digests, which tell a reader nothing
            return f"its vocabulary has other {words.partition(': ')[2]} than the model's"
        return f"its {words} is {one}, and the model's {other}"
    return ""


_OVERHEAD_BYTES = 250 << 20  # Python, compute buffers, logits


def peak_ram_bytes(weights_bytes: int, kv_bytes: int) -> int:
    """About the peak memory of a process that computes with a model: weights, cache, and what any process needs.

    An estimate on the safe side, for what is announced or limited before anything is measured; `labctl fit` counts from
    measured peaks.
    """
    return int(1.03 * weights_bytes) + kv_bytes + _OVERHEAD_BYTES


Role = Literal["token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One matrix of a model that is not at hand: n_rows rows of row_length weights. `layer` is 0 for the two tables."""

    role: Role
    layer: int
    row_length: int
    n_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What else of such a model decides which types its matrices get.

    Attributes:
        n_gqa: how many heads share one key and value.
        tied: the table of token embeddings also serves as the output matrix.
        is_70b: llama.cpp takes it for a 70B model: 80 layers and shared keys.
    """

    n_layer: int
    n_gqa: int
    tied: bool
    is_70b: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Imatrix:
    """Which importance matrix a lab uses; one that is to be computed need not exist yet.

    Attributes:
        key: digest of its content, or of all that its computation depends on.
        shown: what tables call it: the file's name, and the text it was computed on.
        calibration: the text to compute it on; None for a file of the user's.
        notices: what every reader must know about it.
    """

    path: Path
    key: str
    shown: str
    calibration: Path | None = None
    notices: tuple[str, ...] = ()


Ability = Literal["logits", "text", "time", "batch", "memory"]
"""What a step may need of an engine: probabilities, texts, times (batch: of several texts at once), memory by part."""


_LACKING: dict[Ability, str] = {
    "logits": "does not tell how likely each token is",
    "text": "writes no texts",
    "time": "cannot be timed",
    "batch": "does not compute several texts at once",
    "memory": "does not tell what it takes of memory",
}


class Engine(Protocol):
    """What quantizes and runs models: one folder here, and one line in TABLE.

    What an engine may leave out has a default here.

    Attributes:
        name: its key in TABLE.
        title: its name in sentences.
        can: what steps may need of it; the others become gaps with that reason.
        suffix: the end of its files' names: ".gguf".
        formats: by name, largest first, as the worksheet lists them.
        usual_formats: those that a lab measures unless it is asked for others.
    """

    name: str
    title: str
    can: frozenset[Ability]
    suffix: str
    formats: Mapping[str, Format]
    usual_formats: tuple[str, ...]

    def lacks(self, ability: Ability) -> str:
        """Why it cannot do what a step needs, as a sentence; empty if it can."""
        return "" if ability in self.can else f"{self.title} {_LACKING[ability]}."

    # -- the engine itself

    def identity(self, outputs: Path, n_threads: int, *, keep: bool = True) -> dict[str, str]:
        """Its build and what of this machine changes its figures; part of every record's key.

        Args:
            outputs: where the answer is remembered while the engine stays the same.
            keep: remember it.
        Raises:
            LabError: it is not installed, or does not start.
        """
        ...

    def try_out(self, model_path: str, n_threads: int) -> dict[str, str]:
        """Let it compute a little in a child, with a model if one is named.

        Returns: its identity.
        Raises:
            LabError: it does not suit this machine.
        """
        ...

    def versions(self) -> dict[str, str]:
        """Python packages that it comes in, with their versions."""
        return {}

    # -- files

    def takes(self, path: Path) -> bool:
        """Whether a file is one of its kind, by its name or its first bytes."""
        return path.suffix.lower() == self.suffix

    def inspect(self, path: Path) -> Contents:
        """What a model's file holds.

        Raises:
            LabError: it is damaged, or no file of this engine.
        """
        ...

    def inspect_open(self, files: Sequence[tuple[str, BinaryIO, int]]) -> Contents:
        """What a model's file holds that is not on this disk, read from its beginning and no further than it must.

        Args:
            files: name, stream and bytes of each of its parts, in order.
        Raises:
            LabError: it is damaged, or no file of this engine.
        """
        raise LabError(f"{self.title} looks into files on this disk only.", "Download the file and give its path.")

    def parts(self, path: Path) -> tuple[Path, ...]:
        """All files of the model whose (first) file this is, in order.

        Raises:
            LabError: a part is missing or of another model.
        """
        return (path,)

    def check_source(self, path: Path, *, allow_missing_pre: bool = False) -> tuple[str, ...]:
        """Look by its header whether a file can be a lab's source.

        Args:
            allow_missing_pre: take a file that does not name its pre-tokenizer.
        Returns: what every reader must know about how the model reads text.
        Raises:
            LabError: it is damaged, no causal language model, or would be measured wrongly.
        """
        return ()

    def difference(self, path: Path, source: Path) -> str:
        """Why a ready-made file cannot be compared with the source, as what follows "because"; empty if it can.

        Raises:
            LabError: it is damaged, or no language model.
        """
        return f"{self.title} cannot tell whether it holds the same model"

    def f16_faults(self, path: Path) -> dict[str, str]:
        """F16 tensors of a file that hold no finite numbers: name -> "NaN" or "infinity"."""
        return {}

    # -- importance matrices

    def find_imatrix(
        self,
        spec: str | None,
        model: SourceModel,
        text: TextSource | None,
        lab_data: Path,
        folder: Path,
        digests: DigestCache,
    ) -> Imatrix | None:
        """The importance matrix that a setting names; nothing is computed yet.

        Args:
            spec: a file; `auto`, or `auto:TEXT` to compute it on that text; None for none.
            text: what perplexity is measured on, which calibration must not see.
            folder: the model's outputs folder.
        Raises:
            LabError: no such file, made for another model, nothing to compute it with, or the text is the test text.
        """
        if spec is None:
            return None
        raise LabError(f"{self.title} uses no importance matrix.", "Leave --imatrix out.")

    def ensure_imatrix(self, imatrix: Imatrix, model: SourceModel, n_threads: int, log_path: Path) -> Path:
        """The file of an importance matrix, computed now if it is not there.

        Raises:
            LabError: it cannot be computed.
        """
        return imatrix.path

    # -- files that nobody has made

    def planned_types(
        self, format_: str, matrices: Iterable[Matrix], frame: Frame, *, has_imatrix: bool
    ) -> dict[str, int]:
        """Weights by type in a file of this format, the matrices only.

        Raises:
            LabError: the format cannot be made of such a model, or its types are not known beforehand.
        """
        raise LabError(f"{self.title} does not tell the types of a {format_} file before it is made.")

    def type_bytes(self, tensor_type: str, n_params: int) -> int:
        """Bytes of so many weights stored in a type."""
        raise LabError(f"{self.title} does not tell how it stores {tensor_type}.")

    def write_sample(self, path: Path, *, n_layer: int, width: int) -> None:
        """Write an unquantized model of random weights: what a machine reads and computes of it tells its speed.

        Args:
            n_layer, width: layers, and numbers in a hidden state.
        """
        raise LabError(f"{self.title} has no model to time this machine with.")

    # -- in a child

    def start(self, report: Report) -> Program:
        """Load it into this process for the work of a step; its warnings go to the report.

        Raises:
            LabError: it cannot be loaded.
        """
        ...

    def try_file(self, path: Path, n_threads: int, report: Report) -> None:
        """Look whether a file can be measured: its weights are numbers, and a few tokens come out.

        Raises:
            LabError: it cannot; the message says why.
        """
        return

    # -- children that fail

    def footprint(self, task: Task) -> int | None:
        """Address space that a task's process may need; None where that is not known."""
        return None

    def death(self, signal: str, log: Sequence[str]) -> Death:
        """What a child that ended without a result died of.

        Args:
            signal: the name of the signal that ended it; empty if it was none.
            log: the last lines of its log, and what it said of its failure.
        """
        from labctl.executors.reasons import Death

        return Death()

    def warned(self, lines: Iterable[str]) -> tuple[str, ...]:
        """What its warnings mean to a reader of figures, each once; those that mean nothing are left out."""
        return tuple(dict.fromkeys(lines))


def limit_bytes(footprint: Callable[[Task], int | None], task: Task, asked: int | None) -> int:
    """Most address space for a task's child, where the platform can hold it to that; 0 for no limit.

    Args:
        footprint: an engine's.
        asked: the person's own limit, 0 for none; None for one by the model's size.
    """
    if os.name == "nt" or sys.platform == "darwin":  # macOS maps hundreds of GB into every process
        return 0
    return (footprint(task) or 0) if asked is None else asked
