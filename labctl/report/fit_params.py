"""Would a model that is not at hand fit? From measured bits per weight and a stated shape, with the arithmetic."""

from __future__ import annotations

import statistics

from labctl.records import LabRecords
from labctl.report.fit import COMFORTABLE, GIB, FitRow, FitVerdict, reserve_bytes
from labctl.report.shapes import SHAPES, KnownShape

PROGRAM_BYTES = 35_000_000
"""Python with llama.cpp's libraries, where no lab has measured it."""

PARAMS_RULE = (
    "Needed = weights x bits per weight / 8 + KV cache of the shape at this context + work buffers of a batch of 512"
    " tokens + the program itself. Bits per weight are those of the lab's own files. Small models keep a larger share"
    " of their weights in the finer types that llama.cpp gives to embeddings and output, so a larger model of the same"
    " format is mostly a little smaller than computed here: the answer errs towards too much memory."
)


def fit_params_table(
    records: LabRecords, ram_gib: float, n_ctx: int, shape: KnownShape, n_params: int
) -> list[FitRow]:  # fmt: skip
    """Whether each format of a model of this shape would fit, in the lab's order.

    Args:
        records: of the lab whose bits per weight are taken; formats without a file are left out.
        ram_gib: RAM of the computer in question, in GiB.
        n_ctx: context size in tokens.
        n_params: weights to count with.
    """
    starts = [load.start_rss_bytes for run in records.memory.values() for load in run.loads if not load.mmap]
    program = round(statistics.median(starts)) if starts else PROGRAM_BYTES
    reserve = reserve_bytes(ram_gib)
    free = max(0, round(ram_gib * GIB) - reserve)
    kv, work = shape.kv_bytes(n_ctx), shape.work_bytes()
    rows = []
    for name in records.formats:
        file = records.files.get(name)
        if file is None:
            continue
        weights = round(n_params * file.bpw / 8)
        need = weights + kv + work + program
        verdict: FitVerdict = "fits" if need <= COMFORTABLE * free else "tight" if need <= free else "does not fit"
        beyond = (
            f" The model was trained for {shape.n_ctx_train} tokens of context at most."
            if n_ctx > shape.n_ctx_train
            else ""
        )
        rows.append(
            FitRow(
                format=name,
                ram_gib=ram_gib,
                n_ctx=n_ctx,
                verdict=verdict,
                need_bytes=need,
                free_bytes=free,
                kv_bytes=kv,
                arithmetic=(
                    f"{n_params / 1e9:.3f} billion weights x {file.bpw:.3f} bits / 8 = {_gib(weights)}; + KV cache"
                    f" 2 x {shape.n_layer} layers x {n_ctx} tokens x {shape.n_head_kv} heads x {shape.d_head} x 2 bytes"
                    f" = {_gib(kv)}; + work buffers {_gib(work)} + program {_gib(program)} = {_gib(need)}. Free:"
                    f" {ram_gib:g} GiB less {_gib(reserve)} for the system = {_gib(free)}: {verdict}.{beyond}"
                ),
            )
        )
    return rows


def other_shapes(shape: KnownShape, n_ctx: int) -> str:
    """How much cache other models of about the same number of weights need; empty where there is none."""
    others = [
        f"{one.name} {_gib(one.kv_bytes(n_ctx))}"
        for one in SHAPES
        if one.name != shape.name and shape.n_params / 1.2 <= one.n_params <= shape.n_params * 1.2
    ]
    if not others:
        return ""
    return f"KV cache of others of this size: {', '.join(others)}; {shape.name} {_gib(shape.kv_bytes(n_ctx))}."


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.3f} GiB"
