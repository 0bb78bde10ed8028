"""Whether a ready-made file holds the same model as another file, in other types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labctl.engines.base import kin_difference
from labctl.engines.llama_cpp.gguf.header import kin, read_model
from labctl.engines.llama_cpp.gguf.reader import GgufHeader, TensorInfo, read_header


def difference(path: Path, source: Path) -> str:
    """Why the two files cannot be compared, as what a reader is told; empty where they hold the same model.

    Two quantizations of one model share its architecture, its tokens and its tensors, and hold the small tensors that
    nobody quantizes (norms and biases, F32) bit by bit alike; training on changes them.

    Raises:
        LabError: a file is damaged or no language model.
    """
    mine, theirs = read_model(path)[0], read_model(source)[0]
    return next(filter(None, _differences(mine, theirs)), "") or _other_values(path, source)


def _differences(mine: GgufHeader, theirs: GgufHeader) -> Iterator[str]:
    yield kin_difference(kin(mine), kin(theirs))
    shapes = [{tensor.name: tensor.shape for tensor in header.tensors} for header in (mine, theirs)]
    for name, shape in shapes[1].items():
        if name in shapes[0] and shapes[0][name] != shape:
            yield f"its tensor {name} has the shape {shapes[0][name]}, and the model's {shape}"
        if name not in shapes[0] and name.startswith("blk."):
            yield f"it has no tensor {name}"


def _other_values(path: Path, source: Path) -> str:
    """Small F32 tensors of the same name that hold other values."""
    mine, theirs = (dict(_small(one)) for one in (path, source))
    both = [name for name in theirs if name in mine]
    other = [name for name in both if mine[name] != theirs[name]]
    if not other:
        return ""
    return (
        f"{len(other)} of the {len(both)} small tensors that are never quantized hold other values than the model's"
        f" ({other[0]}): other weights, such as a fine-tuned or another version"
    )


def _small(path: Path) -> Iterator[tuple[str, bytes]]:
    for part in read_model(path)[1]:
        header = read_header(part)
        with part.open("rb") as stream:
            for tensor in header.tensors:
                if _is_small(tensor):
                    stream.seek(header.data_offset + tensor.offset)
                    yield tensor.name, stream.read(tensor.size_bytes)


def _is_small(tensor: TensorInfo) -> bool:
    return tensor.tensor_type == "f32" and tensor.n_params == max(tensor.shape) and tensor.name.startswith("blk.")
