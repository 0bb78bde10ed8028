"""Does a format fit in so much RAM at such a context size? The arithmetic is part of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from labctl.engines.base import Contents
from labctl.records.units import rate, significant
from labctl.steps.bench.pace import ERROR
from labctl.steps.bench.ratios import visits_speed
from labctl.steps.bench.step import BENCH
from labctl.steps.measured import Measured
from labctl.steps.memory.record import plain_load
from labctl.steps.memory.step import MEMORY
from labctl.steps.quantize.step import QUANTIZE

GIB = 1024**3
SPEED_WORDS = (
    "Tokens/second of generation on this machine; ~: predicted, usually within"
    f" {100 * ERROR:.0f} %, from the weights read for a token and how fast this machine reads each type of them. A"
    " model that the processor's cache holds is faster, a long context slower."
)
COMFORTABLE = 0.9
RAM_GB = (4, 8, 16)

FIT_RULE = (
    "RAM is counted in GiB (1,073,741,824 bytes), as it is sold: an 8 GB computer has 8 GiB. The system keeps 1 GiB and"
    " an eighth of the RAM (1.5 GiB of 4, 2 GiB of 8, 3 GiB of 16). Needed is the measured peak resident memory of the"
    " whole process with mmap off, with the key and value (KV) cache counted at the context size asked. It fits if that"
    " is at most 90 % of what the system leaves, is tight up to 100 %, and does not fit above. Work buffers that grow a"
    " little with the context are not counted."
)

PROGRAM_BYTES = 35_000_000
"""Python with llama.cpp's libraries, where no lab has measured it."""
_LOADED_BYTES, _TOKEN_BYTES, _MERGE_BYTES = 7_500_000, 200, 230
"""What llama.cpp takes beside weights, cache and work: for any model, for a token and for a rule of merging.

Worked out from the measured peaks of five models: the demo, SmolLM2-135M, Gemma 3 270M, Qwen2.5-Coder-1.5B.
"""
_N_UBATCH = 512

KvType = Literal["f16", "q8_0", "q4_0"]
KV_BYTES: dict[KvType, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes that a number of the KV cache takes, by its type. Source: llama.cpp ggml/src/ggml-common.h, the blocks."""

FILE_RULE = (
    "Needed = tensors + KV cache at this context (at full size where a model has sliding windows) + what a batch of 512"
    " tokens works in + the vocabulary as llama.cpp keeps it + the program itself: usually within 5 % of a measured"
    " peak."
)

TOO_LONG: Literal["longer than trained for"] = "longer than trained for"
TOO_LONG_WORDS = "None can be used so: the model was not trained for so long a context, whatever the memory."
FitVerdict = Literal["fits", "tight", "does not fit", "longer than trained for", "not measured", "cannot be made"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """The answer for one format.

    Attributes:
        need_bytes: peak resident memory expected at n_ctx; None if it was not measured, or no such file can be made.
        free_bytes: RAM less what the system keeps.
        arithmetic: how need and free came about, as one line of text.
        tg_tps: tokens per second of generation on this machine: tg_is_measured, or predicted; None if neither.
    """

    format: str
    ram_gib: float
    n_ctx: int
    verdict: FitVerdict
    need_bytes: int | None
    free_bytes: int
    kv_bytes: int | None
    arithmetic: str
    tg_tps: float | None = None
    tg_is_measured: bool = False


def with_speeds(rows: Sequence[FitRow], records: Measured | None, predicted: Mapping[str, float]) -> list[FitRow]:
    """The same with tokens per second: as this lab measured them, else as predicted.

    Args:
        records: of the lab whose model the rows are about; None for another model.
    """
    runs = {} if records is None else records.of(BENCH)
    found = []
    for row in rows:
        run = runs.get(row.format)
        speed = visits_speed(run.visits, "tg", run.n_prompt) if run is not None else None
        tps = speed.tps if speed is not None else predicted.get(row.format)
        found.append(replace(row, tg_tps=tps, tg_is_measured=speed is not None))
    return found


def speed_words(row: FitRow) -> str:
    """A row's tokens per second; "-" where they are not known."""
    if row.tg_tps is None:
        return "-"
    return rate(row.tg_tps) if row.tg_is_measured else f"~{significant(row.tg_tps, 2)}"


def reserve_bytes(ram_gib: float) -> int:
    """What FIT_RULE leaves to the system and other programs."""
    return round(GIB * (1 + ram_gib / 8))


def free_bytes(ram_gib: float) -> int:
    """What the system leaves on a computer with so much RAM."""
    return max(0, round(ram_gib * GIB) - reserve_bytes(ram_gib))


def trained_for(records: Measured) -> int:
    """Tokens of context that a lab's model was trained for; 0 where no file says."""
    return max((file.shape.n_ctx_train for file in records.of(QUANTIZE).values()), default=0)


def judge_context(need_bytes: int, ram_gib: float, n_ctx: int, n_ctx_train: int) -> FitVerdict:
    """FIT_RULE's verdict, where the model can use such a context at all; n_ctx_train is 0 where it is not known."""
    verdict = judge(need_bytes, ram_gib)
    return TOO_LONG if 0 < n_ctx_train < n_ctx and verdict != "does not fit" else verdict


def judge(need_bytes: int, ram_gib: float) -> FitVerdict:
    """FIT_RULE's verdict."""
    free = free_bytes(ram_gib)
    return "fits" if need_bytes <= COMFORTABLE * free else "tight" if need_bytes <= free else "does not fit"


def free_words(need_bytes: int, ram_gib: float) -> str:
    """The second half of the arithmetic: what is free, and the share of it that is needed."""
    free = free_bytes(ram_gib)
    return (
        f"Free: {ram_gib:g} GiB less {gib(reserve_bytes(ram_gib))} for the system = {gib(free)}."
        f" Needed is {_share(need_bytes, free)} of free: {judge(need_bytes, ram_gib)}."
    )


def context_words(n_ctx: int, n_ctx_train: int) -> str:
    """A sentence about a context longer than the model was trained for; empty for others, or if that is not known."""
    if 0 < n_ctx_train < n_ctx:
        return f" The model was trained for {n_ctx_train} tokens of context at most."
    return ""


def gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.3f} GiB"


def kv_bytes_at(records: Measured, name: str, n_ctx: int) -> int | None:
    """Size of a format's KV cache at a context size: from the model's shape, else scaled from the measured one."""
    file = records.of(QUANTIZE).get(name)
    if file is not None:
        return file.shape.kv_bytes(n_ctx)
    run = records.of(MEMORY).get(name)
    load = plain_load(run)
    return None if run is None or load is None else round(load.kv_bytes * n_ctx / run.n_ctx)


def kv_in(f16_bytes: int, kv_type: KvType) -> int:
    """Size of a cache in another type than F16."""
    return round(f16_bytes * KV_BYTES[kv_type] / KV_BYTES["f16"])


def kv_words(kv_type: KvType) -> str:
    """Behind "KV cache": its type, where that is not the usual one."""
    return "" if kv_type == "f16" else f" in {kv_type}"


def need_of_file(file: Contents, n_ctx: int, kv_type: KvType = "f16") -> int:
    """Peak memory of a fresh process that generates with a file, read into memory: by FILE_RULE, in bytes."""
    width = 2 * file.n_ff * max(1, file.n_expert_used) + 3 * file.shape.n_embd
    work = 4 * min(n_ctx, _N_UBATCH) * width
    vocabulary = _TOKEN_BYTES * file.shape.n_vocab + _MERGE_BYTES * file.n_merges
    tensors = sum(share.size_bytes for share in file.types)
    return tensors + kv_in(file.shape.kv_bytes(n_ctx), kv_type) + work + vocabulary + _LOADED_BYTES + PROGRAM_BYTES


def fit_file(label: str, file: Contents, ram_gib: float, n_ctx: int, kv_type: KvType = "f16") -> FitRow:
    """Whether a file that nobody has measured fits, by its header."""
    need, kv = need_of_file(file, n_ctx, kv_type), kv_in(file.shape.kv_bytes(n_ctx), kv_type)
    tensors = sum(share.size_bytes for share in file.types)
    return FitRow(
        format=label,
        ram_gib=ram_gib,
        n_ctx=n_ctx,
        verdict=judge_context(need, ram_gib, n_ctx, file.n_trained),
        need_bytes=need,
        free_bytes=free_bytes(ram_gib),
        kv_bytes=kv,
        arithmetic=(
            f"Needed: {gib(tensors)} tensors + {gib(kv)} KV cache{kv_words(kv_type)} of {n_ctx} tokens +"
            f" {gib(need - tensors - kv)} work, vocabulary and program = {gib(need)}."
            f" {free_words(need, ram_gib)}{context_words(n_ctx, file.n_trained)}"
        ),
    )


def fit_table(records: Measured, ram_gb: float, n_ctx: int | None = None, kv_type: KvType = "f16") -> list[FitRow]:
    """Whether each format of a lab fits, in the lab's order.

    Args:
        records: of one model.
        ram_gb: RAM of the computer in question, in GiB (see FIT_RULE).
        n_ctx: context size in tokens; None takes the one each format was measured at.
        kv_type: of the KV cache.
    Returns: one row a format.
    """
    return [_fit(records, name, ram_gb, n_ctx, kv_type) for name in records.formats]


def _fit(records: Measured, name: str, ram_gib: float, n_ctx: int | None, kv_type: KvType) -> FitRow:
    run = records.of(MEMORY).get(name)
    load = plain_load(run)
    if run is None or load is None:
        return FitRow(
            format=name,
            ram_gib=ram_gib,
            n_ctx=n_ctx or 0,
            verdict="not measured",
            need_bytes=None,
            free_bytes=free_bytes(ram_gib),
            kv_bytes=None,
            arithmetic="Peak memory was not measured.",
        )
    asked = run.n_ctx if n_ctx is None else n_ctx
    kv_measured = kv_bytes_at(records, name, run.n_ctx) or 0
    kv_asked = kv_in(kv_bytes_at(records, name, asked) or 0, kv_type)
    need = load.peak_rss_bytes + kv_asked - kv_measured
    sign = "plus" if kv_asked >= kv_measured else "less"
    change = (
        ""
        if asked == run.n_ctx and kv_type == "f16"
        else f" {sign} {gib(abs(kv_asked - kv_measured))} for the KV cache{kv_words(kv_type)} of {asked} instead of"
        f" {run.n_ctx} tokens{'' if kv_type == 'f16' else ' in f16'} = {gib(need)}"
    )
    n_ctx_train = trained_for(records)
    needed = f"{gib(load.peak_rss_bytes)} peak at {run.n_ctx} tokens of context{change}"
    return FitRow(
        format=name,
        ram_gib=ram_gib,
        n_ctx=asked,
        verdict=judge_context(need, ram_gib, asked, n_ctx_train),
        need_bytes=need,
        free_bytes=free_bytes(ram_gib),
        kv_bytes=kv_asked,
        arithmetic=f"Needed: {needed}. {free_words(need, ram_gib)}{context_words(asked, n_ctx_train)}",
    )


def largest_words(rows: Sequence[FitRow]) -> list[str]:
    """The arithmetic of the largest format that fits, and its name; of the nearest one where none fits."""
    counted = {row.format: row.need_bytes for row in rows if row.need_bytes is not None}
    for verdict, words in (("fits", "Largest that fits"), ("tight", "None fits comfortably; largest that is tight")):
        names = [row.format for row in rows if row.verdict == verdict]
        if names:
            best = max(names, key=lambda name: counted[name])
            return [f"{best}: {_arithmetic(rows, best)}", f"{words}: {best}."]
    reasons = [f"{row.format}: {row.arithmetic}" for row in rows if row.need_bytes is None]
    if not counted:
        return reasons
    least = min(counted, key=lambda name: counted[name])
    if any(row.verdict == TOO_LONG for row in rows):
        return [*reasons, f"{least}: {_arithmetic(rows, least)}", TOO_LONG_WORDS]
    return [*reasons, f"{least}: {_arithmetic(rows, least)}", f"None fits. The smallest is {least}."]


def _arithmetic(rows: Sequence[FitRow], name: str) -> str:
    return next(row.arithmetic for row in rows if row.format == name)


def _share(need: int, free: int) -> str:
    """Percent, never rounded onto a bar that the exact figure does not reach."""
    if free == 0:
        return "more than all"
    share = 100 * need / free
    return f"{share:.1f} %" if round(share, 1) not in (90.0, 100.0) else f"{share:.4f} %"
