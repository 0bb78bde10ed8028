"""Would a model that is not at hand fit? From a stated shape and llama.cpp's rules for types, with the arithmetic."""

from __future__ import annotations

import contextlib
import statistics

from labctl import engines
from labctl.errors import LabError
from labctl.report.fit import (
    KV_BYTES,
    PROGRAM_BYTES,
    FitRow,
    KvType,
    context_words,
    free_bytes,
    free_words,
    gib,
    judge_context,
    kv_in,
)
from labctl.report.shapes import SHAPES, KnownShape
from labctl.steps.bench.pace import Pace, predicted_tps
from labctl.steps.measured import Measured
from labctl.steps.memory.record import plain_load
from labctl.steps.memory.step import MEMORY
from labctl.steps.quantize.step import QUANTIZE

PARAMS_RULE = (
    "Needed = weights + KV cache of the shape at this context + work buffers of a batch of 512 tokens, at most + the"
    " program itself. Weights are counted matrix by matrix, each in the type that llama.cpp gives it in a file of this"
    " format: the output matrix and some layers get finer types, so bits per weight of a large model are not those of"
    " this lab's files, where such matrices are a larger share. A file's header (below 1 %) is left out."
)


def fit_params_table(
    records: Measured, ram_gib: float, n_ctx: int, shape: KnownShape, n_params: int, kv_type: KvType = "f16"
) -> list[FitRow]:
    """Whether each format of a model of this shape would fit, in the lab's order.

    Args:
        records: of the lab whose formats are asked about; its measured bits per weight stand beside the computed ones.
        ram_gib: RAM of the computer in question, in GiB.
        n_ctx: context size in tokens.
        n_params: weights to count with.
        kv_type: of the KV cache.
    """
    loads = [load for run in records.of(MEMORY).values() if (load := plain_load(run)) is not None]
    program = round(statistics.median(load.start_rss_bytes for load in loads)) if loads else PROGRAM_BYTES
    return [
        _row(records, name, ram_gib, n_ctx, shape, n_params, program, kv_type)
        for name in records.formats
        if name in engines.formats() or name in records.of(QUANTIZE)
    ]


def predicted_speeds(records: Measured, shape: KnownShape, n_params: int, pace: Pace) -> dict[str, float]:
    """Format -> tokens per second of such a model on the machine of this pace; without formats that cannot be told.

    Args:
        n_params: weights to count with, in the shape's proportions.
    """
    found = {}
    for name in records.formats:
        engine = engines.named(records.model.engine)
        if name not in engine.formats:
            continue
        with contextlib.suppress(LabError):  # the table says why such a file cannot be made
            tps = predicted_tps(
                pace, shape.token_bytes(engine, name, has_imatrix=engine.formats[name].needs_imatrix), shape.n_layer
            )
            if tps is not None:
                found[name] = tps * shape.n_params / n_params
    return found


def _row(
    records: Measured,
    name: str,
    ram_gib: float,
    n_ctx: int,
    shape: KnownShape,
    n_params: int,
    program: int,
    kv_type: KvType,
) -> FitRow:
    kv, work = kv_in(shape.kv_bytes(n_ctx), kv_type), shape.work_bytes()
    try:
        weights, bits = _weights(records, name, shape, n_params)
    except LabError as error:
        return FitRow(
            format=name,
            ram_gib=ram_gib,
            n_ctx=n_ctx,
            verdict="cannot be made",
            need_bytes=None,
            free_bytes=free_bytes(ram_gib),
            kv_bytes=kv,
            arithmetic=error.message,
        )
    need = weights + kv + work + program
    return FitRow(
        format=name,
        ram_gib=ram_gib,
        n_ctx=n_ctx,
        verdict=judge_context(need, ram_gib, n_ctx, shape.n_ctx_train),
        need_bytes=need,
        free_bytes=free_bytes(ram_gib),
        kv_bytes=kv,
        arithmetic=(
            f"Weights: {n_params / 1e9:.3f} billion x {bits} / 8 = {gib(weights)}; + KV cache 2 x"
            f" {shape.n_layer} layers x {n_ctx} tokens x {shape.n_head_kv} heads x {shape.d_head} x"
            f" {KV_BYTES[kv_type]:g} bytes = {gib(kv)}; + work buffers {gib(work)} + program {gib(program)} ="
            f" {gib(need)}. {free_words(need, ram_gib)}{context_words(n_ctx, shape.n_ctx_train)}"
        ),
    )


def _weights(records: Measured, name: str, shape: KnownShape, n_params: int) -> tuple[int, str]:
    """Bytes of all weights, and the bits per weight they come from in words.

    Raises:
        LabError: llama.cpp refuses to make that format of such a model.
    """
    file = records.of(QUANTIZE).get(name)
    engine = engines.named(records.model.engine)
    if name not in engine.formats:  # a source that was quantized by other rules: its own figure is all that is known
        assert file is not None
        return round(n_params * file.bpw / 8), f"{file.bpw:.3f} bits (as in this lab's file)"
    has_imatrix = engine.formats[name].needs_imatrix or bool(file is not None and file.imatrix)
    by_type = shape.weights_by_type(engine, name, has_imatrix=has_imatrix)
    n_bytes = sum(engine.type_bytes(*item) for item in by_type.items())
    shares = ", ".join(
        f"{kind} {100 * n / shape.n_params:.0f} %"
        for kind, n in by_type.items()
        if kind != "f32" or 2 * n > shape.n_params
    )
    measured = f"; this lab's file: {file.bpw:.3f}" if file is not None else ""
    return round(n_bytes * n_params / shape.n_params), f"{8 * n_bytes / shape.n_params:.3f} bits ({shares}{measured})"


def other_shapes(shape: KnownShape, n_ctx: int) -> str:
    """How much cache other models of about the same number of weights need; empty where there is none."""
    others = [
        f"{one.name} {gib(one.kv_bytes(n_ctx))}"
        for one in SHAPES
        if one.name != shape.name and shape.n_params / 1.2 <= one.n_params <= shape.n_params * 1.2
    ]
    if not others:
        return ""
    return f"KV cache of others of this size: {', '.join(others)}; {shape.name} {gib(shape.kv_bytes(n_ctx))}."
