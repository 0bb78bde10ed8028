"""Peak memory is a fresh process's own, and llama.cpp's buffers add up to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.machine.memory import current_rss_bytes, peak_rss_bytes, status_bytes
from labctl.steps.memory.record import MemoryLoad, MemoryTask

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def load(child: Callable[..., Any], quantized: Any) -> Callable[..., MemoryLoad]:
    known: dict[tuple[object, ...], MemoryLoad] = {}

    def measure(label: str, mmap: bool = False, n_ctx: int = 512) -> MemoryLoad:
        if (label, mmap, n_ctx) not in known:
            known[label, mmap, n_ctx] = child(
                MemoryTask(model_path=str(quantized.paths[label]), format=label, n_threads=1, n_ctx=n_ctx, mmap=mmap),
                MemoryLoad,
            )
        return known[label, mmap, n_ctx]

    return measure


@pytest.mark.parametrize("n_ctx", [128, 512, 2048])
def test_the_cache_is_as_large_as_arithmetic_says(load: Callable[..., MemoryLoad], quantized: Any, n_ctx: int) -> None:
    found = load("Q8_0", n_ctx=n_ctx)
    # llama.cpp rounds the context up to 256 tokens, and the log to a hundredth of a MiB
    assert found.kv_bytes == quantized.records["Q8_0"].shape.kv_bytes(max(256, n_ctx))


def test_buffers_hold_the_weights_and_the_peak_holds_the_buffers(
    load: Callable[..., MemoryLoad], quantized: Any
) -> None:
    for label in ("Q8_0", "Q4_K_M"):
        found = load(label)
        weights = sum(found.model_bytes.values())
        assert weights == pytest.approx(quantized.records[label].tensor_bytes, rel=0.01)
        assert found.start_rss_bytes + weights < found.peak_rss_bytes < found.start_rss_bytes + weights + 80e6


@linux
def test_a_smaller_file_needs_less(load: Callable[..., MemoryLoad], quantized: Any, demo_model: Path) -> None:
    large, small = load("F16").peak_rss_bytes, load("Q4_K_M").peak_rss_bytes
    saved = demo_model.stat().st_size - quantized.records["Q4_K_M"].size_bytes
    assert large - small == pytest.approx(saved, rel=0.25)


@linux
def test_mmap_is_what_it_says(load: Callable[..., MemoryLoad]) -> None:
    read, mapped = load("Q8_0"), load("Q8_0", mmap=True)
    assert (read.mmap, mapped.mmap) == (False, True)
    assert "CPU_Mapped" in mapped.model_bytes
    assert "CPU_Mapped" not in read.model_bytes
    assert read.anonymous_bytes is not None
    assert mapped.anonymous_bytes is not None
    assert read.file_bytes is not None
    assert mapped.file_bytes is not None
    assert read.anonymous_bytes - mapped.anonymous_bytes > 10e6
    assert mapped.file_bytes - read.file_bytes > 10e6


@linux
def test_the_peak_is_not_inherited_from_a_large_parent(child: Callable[..., Any], quantized: Any) -> None:
    large = bytearray(300_000_000)
    large[::4096] = b"x" * len(large[::4096])
    assert peak_rss_bytes() > 300_000_000
    found = child(
        MemoryTask(model_path=str(quantized.paths["Q3_K_M"]), format="Q3_K_M", n_threads=1, n_ctx=512, mmap=False),
        MemoryLoad,
    )
    assert found.peak_rss_bytes < 200_000_000
    del large


@linux
def test_the_peak_stays_after_memory_is_given_back() -> None:
    code = (
        "from labctl.steps.memory.work import *\n"
        "a = b'x' * 100_000_000; del a\n"
        "print(peak_rss_bytes() - current_rss_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80_000_000


def test_status_fields_are_kibibytes_and_missing_ones_none(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t    1234 kB\nVmBad:\n", "ascii")
    assert status_bytes("VmHWM", status) == 1234 * 1024
    assert status_bytes("VmRSS", status) is None
    assert status_bytes("VmBad", status) is None
    assert status_bytes("VmHWM", tmp_path / "none") is None
    assert current_rss_bytes() > 1_000_000
