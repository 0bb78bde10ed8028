"""Bad GGUF files of every class: each ends in one clear line or a clean result, within limits of time and memory."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.bad_gguf import NORM, Q, corrupted, extra, key, poisoned, set_to, tensor, without
from kit.small_gguf import (
    ARRAY,
    F32,
    I32,
    N_EMBD,
    STRING,
    TEXT,
    TOKENS,
    U32,
    U64,
    Small,
    array,
    string,
    text,
    texts,
    u32,
)

from labctl.engines.llama_cpp.gguf.reader import read_header
from labctl.errors import LabError
from labctl.executors.base import ChildError, Rows
from labctl.executors.local import run_task
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache, file_sha256
from labctl.records.sources import TextSource
from labctl.steps.perplexity.record import PerplexityTask, Scored
from labctl.steps.quantize.record import LoadTask

ROOT = Path(__file__).resolve().parents[2]
N_THROUGH_LLAMA_CPP = int(os.environ.get("LABCTL_TEST_CORRUPTIONS", "14"))
HUGE = 2**63


SCORES, KINDS = "tokenizer.ggml.scores", "tokenizer.ggml.token_type"
BAD: dict[str, tuple[Callable[[Small], Small], str]] = {
    # the frame
    "magic": (set_to(magic=b"GGUX"), "not a GGUF file"),
    "version 1": (set_to(version=1), "version 1"),
    "version far ahead": (set_to(version=77), "version 77"),
    "big-endian": (set_to(version=0x03000000), "big-endian"),
    "tensor count beyond all": (set_to(n_tensors=HUGE), "tensors, more than"),
    "tensor count beyond the file": (set_to(n_tensors=100_000), "is cut short"),
    "one tensor too many": (set_to(n_tensors=21), "is damaged"),
    "key count beyond all": (set_to(n_keys=2**64 - 1), "metadata keys, more than"),
    "one key too many": (set_to(n_keys=18), "is damaged"),
    "string without end": (set_to(raw_keys=text("x") + struct.pack("<IQ", STRING, HUGE), n_keys=18), "more than are"),
    "key without end": (set_to(raw_keys=struct.pack("<Q", HUGE) + b"x", n_keys=18), "more than are possible"),
    "value of an unknown type": (key(general__name=(99, bytes(8))), "unknown value type 99"),
    "array of arrays": (key(x=(ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(16))), "unknown value type 9"),
    "array without end": (key(x=array(U64, HUGE, b"")), "more than are possible"),
    "a key of 60 kB twice": (
        set_to(raw_keys=2 * (text("k" * 60_000) + struct.pack("<II", U32, 1)), n_keys=19),
        "comes twice",
    ),
    "alignment 7": (key(general__alignment=u32(7)), "not a power of two"),
    # tensors
    "overlapping tensors": (tensor(Q, offset=0), "overlaps"),
    "misaligned tensor": (tensor(Q, offset=33), "multiple of 32"),
    "tensor behind the end": (tensor("blk.1.ffn_up.weight", offset=1 << 40), "is cut short"),
    "offset that wraps": (tensor("blk.1.ffn_up.weight", offset=2**64 - 32), "is cut short"),
    "size that overflows": (tensor(Q, shape=(1 << 32, 1 << 32)), "impossible shape"),
    "size that wraps to nothing": (tensor(Q, shape=(1 << 33, 1 << 31)), "impossible shape"),
    "no rows": (tensor(Q, shape=(64, 0)), "impossible shape"),
    "nine dimensions": (tensor(Q, shape=(1,) * 9), "9 dimensions"),
    "unknown tensor type": (tensor(Q, kind=222), "type number 222"),
    "rows that fit no block": (tensor(Q, kind=12), "not a multiple of 256"),
    "tensor name too long": (extra("n" * 64), "more than are possible"),
    # the header against itself and its tensors
    "no architecture": (key(general__architecture=None), "general.architecture"),
    "architecture of 60 kB": (key(general__architecture=string("x" * 60_000)), "impossible architecture"),
    "architecture with escape codes": (key(general__architecture=string("ll\x1b[31mama")), "impossible architecture"),
    "unknown general.type of 60 kB": (key(general__type=string("y" * 60_000)), "not a language model"),
    "no layer count": (key(llama__block_count=None), "no llama.block_count"),
    "layer count as 60 kB of text": (key(llama__block_count=string("9" * 60_000)), "impossible llama.block_count"),
    "more layers than tensors": (key(llama__block_count=u32(3)), "layer 2 has no tensors"),
    "fewer layers than tensors": (key(llama__block_count=u32(1)), "tensors of layer 1"),
    "two milliards of layers": (key(llama__block_count=u32(2**31 - 1)), "layers"),
    "width of another model": (key(llama__embedding_length=u32(128)), "disagree"),
    "width zero": (key(llama__embedding_length=u32(0)), "impossible llama.embedding_length"),
    "no context length": (key(llama__context_length=None), "no llama.context_length"),
    "heads that do not divide": (key(llama__attention__head_count_kv=u32(3)), "cannot share"),
    "more key heads than heads": (key(llama__attention__head_count_kv=u32(8)), "cannot share"),
    "heads of another model": (
        key(llama__attention__head_count=u32(8), llama__attention__head_count_kv=u32(8)),
        "disagree",
    ),
    "heads beyond all": (key(llama__attention__head_count=u32(1 << 30)), "heads"),
    "head size beyond all": (key(llama__attention__key_length=u32(1 << 30)), "heads"),
    "feed-forward of another model": (key(llama__feed_forward_length=u32(256)), "disagree"),
    "no vocabulary": (key(tokenizer__ggml__tokens=None), "vocabulary is empty"),
    "zero vocabulary": (key(tokenizer__ggml__tokens=texts([])), "vocabulary is empty"),
    "vocabulary cut": (key(tokenizer__ggml__tokens=texts(TOKENS[:-1])), "disagree"),
    "vocabulary of numbers": (key(tokenizer__ggml__tokens=array(U32, 288, bytes(4 * 288))), "not a list of texts"),
    "no tokenizer": (key(tokenizer__ggml__model=None), "names no tokenizer"),
    "tokenizer that is a number": (key(tokenizer__ggml__model=u32(3)), "names no tokenizer"),
    "too few scores": (lambda small: small.with_keys({SCORES: array(F32, 3, bytes(12))}), "3 entries"),
    "scores as texts": (lambda small: small.with_keys({SCORES: texts(TOKENS)}), "numbers of the right type"),
    "token types as bytes": (lambda small: small.with_keys({KINDS: array(0, 288, bytes(288))}), "right type"),
    "too few token types": (lambda small: small.with_keys({KINDS: array(I32, 1, bytes(4))}), "1 entries"),
    "merges as numbers": (key(tokenizer__ggml__merges=array(U32, 1, bytes(4))), "merges is not a list of texts"),
    "merges as one text": (key(tokenizer__ggml__merges=string("a b")), "merges is not a list of texts"),
    "no embedding": (without("token_embd.weight"), "'token_embd.weight' is missing"),
    "embedding turned round": (tensor("token_embd.weight", shape=(288, 64)), "disagree"),
    "norm of another width": (tensor(NORM, shape=(32,)), "disagree"),
    "query matrix of another shape": (tensor(Q, shape=(64, 32)), "disagree"),
    "output of another vocabulary": (extra("output.weight", (64, 1)), "disagree"),
    "no weights at all": (set_to(tensors={}), "holds no weights"),
}


def refused(path: Path, tmp_path: Path) -> LabError:
    """What a lab says of a model it cannot take: one line that names the file, and a hint, within a second or two."""
    begun = time.monotonic()
    with pytest.raises(LabError) as caught:
        resolve_model(str(path), tmp_path, DigestCache(tmp_path / "digests.json"))
    assert time.monotonic() - begun < 10
    message = caught.value.message
    assert path.name in message and caught.value.hint, message
    assert "\n" not in message and message.isprintable() and len(message) < 400, message
    return caught.value


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    change, said = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(change(Small()).bytes())
    assert said in refused(path, tmp_path).message


def test_the_small_model_itself_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(Small().bytes())
    assert resolve_model(str(path), tmp_path, DigestCache(tmp_path / "digests.json")).baseline == "F16"


def test_a_file_cut_at_any_of_its_structures_is_refused(tmp_path: Path) -> None:
    small = Small()
    whole, head = small.bytes(), small.head()
    ends = [0, 3, 4, 8, 16, 24, len(head) - 1, len(head), len(whole) - 1]
    ends += [head.index(text(name)) + shift for name in (*small.keys, *small.tensors) for shift in (0, 4, 8, 12)]
    ends += [len(head) + share * (len(whole) - len(head)) // 40 for share in range(40)]
    path = tmp_path / "cut.gguf"
    for end in ends:
        path.write_bytes(whole[:end])
        refused(path, tmp_path)


def test_arrays_that_would_fill_the_memory_are_skipped(tmp_path: Path) -> None:
    small = Small()
    small.keys |= {f"x{number}": array(U32, 4096, bytes(4 * 4096)) for number in range(600)}
    path = tmp_path / "m.gguf"
    path.write_bytes(small.bytes())
    found = read_header(path)
    assert sum(len(values) for values in found.arrays.values()) <= 1 << 20
    assert sum(found.array_lengths.values()) > 600 * 4096


# -- chance -----------------------------------------------------------------------------------------------------------


_MANY = """
import random, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from kit.bad_gguf import corrupted
from kit.small_gguf import Small
from labctl.errors import LabError
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache
whole, n_head, chance = Small().bytes(), len(Small().head()), random.Random(20_251)
folder = Path(sys.argv[2])
path, counts, slowest = folder / "m.gguf", {"refused": 0, "taken": 0}, 0.0
for _ in range(2000):
    path.write_bytes(corrupted(whole, n_head, chance))
    begun = time.monotonic()
    try:
        resolve_model(str(path), folder, DigestCache(folder / "none" / "digests.json"), allow_quantized=True)
        counts["taken"] += 1
    except LabError as error:
        assert error.hint and "\\n" not in error.message and len(error.message) < 500, error.message
        counts["refused"] += 1
    slowest = max(slowest, time.monotonic() - begun)
assert slowest < 5, slowest
print(counts["refused"], counts["taken"])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="needs RLIMIT_AS")
def test_two_thousand_random_corruptions_within_limits_of_time_and_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MANY, str(ROOT / "tests"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    n_refused, n_taken = map(int, done.stdout.split())
    assert n_refused + n_taken == 2000
    assert n_refused > 800 and n_taken > 100  # or the corruptions are not worth their name


@pytest.fixture
def sheep(tmp_path: Path) -> TextSource:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, "utf-8")
    return TextSource(name="t", kind="custom", path=str(path), size_bytes=len(TEXT), sha256=file_sha256(path))


def measure(path: Path, source: TextSource) -> float:
    """Load a file and measure a chunk, in real children; the perplexity."""
    folder = path.parent
    load = LoadTask(model_path=str(path), format="F16", n_threads=1)
    run_task(load, bool, log_path=folder / "load.log", hang_s=60)
    task = PerplexityTask(model_path=str(path), format="F16", n_threads=1, text=source, n_ctx=64, n_first=1)
    sent: list[Rows] = []

    def keep(rows: Rows) -> bool:
        sent.append(rows)
        return False

    run_task(task, Scored, log_path=folder / "ppl.log", hang_s=60, on_rows=keep)
    assert [(rows.to, rows.number) for rows in sent] == [("tokens", 0), ("nll", 0)]
    return float(np.exp(np.frombuffer(sent[1].values).mean()))


@pytest.mark.slow
def test_corrupt_files_that_pass_the_header_end_in_a_line_or_a_number(tmp_path: Path, sheep: TextSource) -> None:
    whole, n_head, chance = Small().bytes(), len(Small().head()), random.Random(77)
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    assert measure(path, sheep) == pytest.approx(1032.92, rel=1e-3)
    n_done = 0
    while n_done < N_THROUGH_LLAMA_CPP:
        path.write_bytes(corrupted(whole, n_head, chance))
        try:
            resolve_model(str(path), tmp_path, DigestCache(tmp_path / "d.json"), allow_quantized=True)
        except LabError:
            continue
        n_done += 1
        try:
            ppl = measure(path, sheep)
        except ChildError as error:
            assert "\n" not in error.message and error.hint and " F16: " in error.message, error.message
        else:
            assert np.isfinite(ppl) and ppl > 0


CLI = {
    "NaN": (poisoned(Q, 0, b"\x00\x7e"), "NaN or infinite"),
    "a tensor missing": (without("blk.1.ffn_norm.weight"), "blk.1.ffn_norm.weight"),
    "a tensor too few": (set_to(n_tensors=19), "load F16"),
    "a token twice": (key(tokenizer__ggml__tokens=texts([*TOKENS[:-1], "a"])), "GGML_ASSERT"),
    "weights that overflow": (tensor("output_norm.weight", data=struct.pack("<f", 3e38) * N_EMBD), "NaN"),
}


@pytest.mark.parametrize("case", CLI)
def test_the_command_ends_with_one_line_and_writes_no_figure(cli: Any, tmp_path: Path, case: str) -> None:
    change, said = CLI[case]
    (tmp_path / "bad.gguf").write_bytes(change(Small()).bytes())
    (tmp_path / "t.txt").write_text(TEXT, "utf-8")
    arguments = ("--model", "bad.gguf", "--text", "t.txt", "--ctx", "64", "--chunks", "1", "--formats", "Q8_0", "--yes")
    done = cli("perplexity", *arguments, "--threads", "1", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1, done.stderr
    assert "F16" in done.stderr and said in done.stderr, done.stderr
    assert not list(tmp_path.rglob("records/perplexity-*.json"))
    assert "nan" not in done.stdout.lower()
