"""GGUF files that people really bring, through the command line: other kinds, short contexts, other types."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.gguf_labs import ALONE, SMALL, ppl, record, refused, words
from kit.small_gguf import BOOL, F32, N_EMBD, Small, Tensor, string, u32, with_bpe, with_learned_positions

from labctl.engines.llama_cpp.engine import ENGINE
from labctl.errors import LabError
from labctl.executors.local import run_task
from labctl.lab.reach import N_GEN, N_PROMPT, Reach
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache
from labctl.steps.quantize.record import LoadTask

# -- other kinds ------------------------------------------------------------------------------------------------------


def of_architecture(name: str) -> Small:
    return Small().with_keys({"general.architecture": string(name)})


OTHERS = {
    **{name: (of_architecture(name), "encoder") for name in ("bert", "modern-bert", "t5encoder", "gemma-embedding")},
    "t5": (of_architecture("t5"), "encoder with a decoder"),
    **{name: (of_architecture(name), "diffusion") for name in ("dream", "llada", "rnd1")},
    "eagle3": (of_architecture("eagle3"), "drafts tokens for another"),
    "wavtokenizer-dec": (of_architecture("wavtokenizer-dec"), "sound"),
    "causal attention switched off": (
        Small().with_keys({"llama.attention.causal": (BOOL, b"\0")}),
        "not a causal model",
    ),
    "an embedder": (Small().with_keys({"llama.pooling_type": u32(1)}), "embedding model"),
    "an embedder by the last token": (Small().with_keys({"llama.pooling_type": u32(3)}), "embedding model"),
    "a reranker": (Small().with_keys({"llama.pooling_type": u32(4)}), "reranker"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_causal_decoder_is_one_line(tmp_path: Path, case: str) -> None:
    small, said = OTHERS[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(small.bytes())
    error = refused(path)
    assert said in error.message and "causal decoder" in error.hint


def test_nothing_is_made_of_it(cli: Any, place: Path) -> None:
    (place / "m.gguf").write_bytes(Small().with_keys({"llama.attention.causal": (BOOL, b"\0")}).bytes())
    done = cli("run", "--model", "m.gguf", *SMALL, cwd=place)
    assert done.returncode == 1 and done.stderr.count("error:") == 1 and "GGML_ASSERT" not in done.stderr
    assert not list(place.rglob("*Q8_0*"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"general.architecture": string("superllm9")}, "does not know the architecture superllm9"),
        ({"llama.attention.layer_norm_rms_epsilon": u32(1)}, "llama.attention.layer_norm_rms_epsilon"),
    ],
)
def test_what_no_format_can_be_made_of_is_not_put_down_to_one(
    cli: Any, place: Path, changed: dict[str, tuple[int, bytes] | None], said: str
) -> None:
    small = Small()
    own = {name.replace("llama.", "superllm9."): value for name, value in small.keys.items() if "llama." in name}
    (place / "m.gguf").write_bytes(small.with_keys(own | changed).bytes())
    done = cli("run", "--model", "m.gguf", *SMALL, cwd=place)
    assert done.returncode == 1 and said in words(done.stderr)
    assert "newer llama-cpp-python" in words(done.stderr) and "--formats" not in done.stderr
    assert not list(place.rglob("*Q8_0*"))


def test_a_file_that_ends_in_zeros_is_not_measured(cli: Any, place: Path) -> None:
    """As a download leaves it that reserves its place on disk first."""
    small = Small()
    for tensor in small.tensors.values():
        tensor.data = bytes(len(tensor.data))
    (place / "m.gguf").write_bytes(small.bytes())
    done = cli("perplexity", "--model", "m.gguf", *SMALL, cwd=place)
    assert done.returncode == 1 and "the same probability" in words(done.stderr), done.stderr
    assert "Use Q8_0" not in done.stdout + done.stderr


def test_pooling_of_no_kind_is_a_decoder(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(Small().with_keys({"llama.pooling_type": u32(0), "llama.attention.causal": (BOOL, b"\1")}).bytes())
    assert resolve_model(str(path), tmp_path, DigestCache(tmp_path / "digests.json")).baseline == "F16"


def test_llama_cpp_itself_is_asked(tmp_path: Path) -> None:
    """For architectures that the header's rules do not know."""
    path = tmp_path / "m.gguf"
    path.write_bytes(Small().with_keys({"llama.attention.causal": (BOOL, b"\0")}).bytes())
    task = LoadTask(model_path=str(path), format="F16", n_threads=1)
    with pytest.raises(LabError, match="no causal decoder") as caught:
        run_task(task, bool, log_path=tmp_path / "log.txt", hang_s=60)
    assert caught.value.for_all


# -- end of text ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "steps"),
    [(Small, ("perplexity", "generate")), (lambda: with_bpe(Small()), ("perplexity",))],
    ids=["SentencePiece", "BPE"],
)
def test_a_model_that_asks_for_an_end_token_is_measured_without(
    cli: Any, place: Path, made: Callable[[], Small], steps: tuple[str, ...]
) -> None:
    """As llama-perplexity does once the key is false."""
    for name, value in (("asks", b"\1"), ("plain", b"\0")):
        (place / f"{name}.gguf").write_bytes(made().with_keys({"tokenizer.ggml.add_eos_token": (BOOL, value)}).bytes())
        for step in steps:
            done = cli(step, "--model", f"{name}.gguf", *ALONE, cwd=place)
            assert done.returncode == 0, done.stderr
            assert ("end-of-text token" in done.stderr) == (name == "asks")
    assert ppl(place, "asks", "F16") == ppl(place, "plain", "F16")
    if "generate" in steps:
        texts = [record(place, name, "generate-F16")["generations"] for name in ("asks", "plain")]
        assert texts[0] == texts[1]
    assert "add_eos_token" in record(place, "asks", "source")["notices"][0]


# -- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "starcoder"])
def test_learned_positions_end_where_they_end(cli: Any, place: Path, architecture: str) -> None:
    small = with_learned_positions(with_bpe(Small()), architecture, 128)
    (place / "m.gguf").write_bytes(small.bytes())
    arguments = ("--model", "m.gguf", "--text", "t.txt", "--formats", "Q8_0", "--threads", "1", "--yes")
    for step in ("memory", "run"):
        done = cli(step, *arguments, cwd=place)  # the lab's 512 tokens
        assert done.returncode == 1 and done.stderr.count("error:") == 1, done.stderr
        assert "trained for 128 tokens" in done.stderr and "--ctx 128" in done.stderr
        assert not list(place.rglob("*Q8_0*"))
    done = cli("run", *arguments, "--ctx", "128", cwd=place)
    assert done.returncode == 0, done.stderr
    speed = record(place, "m", "bench-Q8_0")
    assert (speed["n_prompt"], speed["n_gen"]) == (128, 128)
    assert len(record(place, "m", "generate-F16")["generations"][0]["tokens"]) <= 4
    sheet = (place / "reports/m/worksheet.md").read_text("utf-8")
    assert "(pp128, tg128) instead of 512 and 128" in sheet.replace("\\", "")
    if architecture != "gpt2":
        return
    sides = cli("bench", "--batch", "1,2", *arguments, cwd=place)
    assert sides.returncode == 0, sides.stderr
    assert record(place, "m", "batch-F16")["n_prompt"] == 64


def test_a_context_longer_than_trained_is_said(cli: Any, place: Path) -> None:
    (place / "m.gguf").write_bytes(Small().with_keys({"llama.context_length": u32(32)}).bytes())
    done = cli("perplexity", "--model", "m.gguf", *ALONE, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "chunks of 64 tokens, and the model was trained for 32" in words(done.stderr)
    assert any("trained for 32" in notice for notice in record(place, "m", "source")["notices"])


@pytest.mark.parametrize(
    ("keys", "trained"),
    [
        ({}, 256),
        ({"rope.scaling.factor": (F32, struct.pack("<f", 4.0))}, 1024),
        ({"rope.scale_linear": (F32, struct.pack("<f", 2.0))}, 512),
        (
            {
                "rope.scaling.type": string("yarn"),
                "rope.scaling.factor": (F32, struct.pack("<f", 4.0)),
                "rope.scaling.original_context_length": u32(64),
            },
            256,
        ),
        ({"rope.scaling.type": string("none"), "rope.scaling.factor": (F32, struct.pack("<f", 4.0))}, 256),
        ({"rope.scaling.factor": (F32, struct.pack("<f", float("inf")))}, 256),
    ],
)
def test_scaling_of_positions_counts(tmp_path: Path, keys: dict[str, tuple[int, bytes]], trained: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(Small().with_keys({f"llama.{name}": value for name, value in keys.items()}).bytes())
    holds = ENGINE.inspect(path)
    reach = Reach(n_trained=holds.n_trained, n_positions=holds.n_positions)
    assert (reach.n_trained, reach.n_positions) == (trained, None)
    reach.require(1 << 20)  # computed positions do not end


@pytest.mark.parametrize("limit", [1, 2, 3, 64, 127, 128, 200, 256, 511, 512, 4096])
def test_no_test_is_longer_than_the_model_allows(limit: int) -> None:
    reach = Reach(n_trained=limit, n_positions=limit)
    assert max(reach.bench) <= limit and min(reach.bench) >= 1
    if limit > 1:
        assert 2 <= sum(reach.batch) <= limit
    if limit >= 88:
        assert 64 + reach.new_tokens(100) <= max(limit, 65)
    usual = reach.bench == (N_PROMPT, N_GEN)
    assert usual == (limit >= 512) and usual == (not reach.bench_notice)
    with pytest.raises(LabError, match="no positions beyond"):
        reach.require(limit + 1)


# -- released in another type -----------------------------------------------------------------------------------------


def test_weights_in_a_type_that_models_are_released_in(tmp_path: Path) -> None:
    small = Small()
    n_rows = 128
    small.tensors["blk.0.ffn_up.weight"] = Tensor(
        (N_EMBD, n_rows), 39, bytes([118, *[17] * 16]) * (n_rows * N_EMBD // 32)
    )
    path = tmp_path / "m.gguf"
    path.write_bytes(small.bytes())
    error = refused(path)
    assert "MXFP4" in error.message and "never were F16" in error.message
    assert "--allow-quantized-source" in error.hint and "if there is one" in error.hint
    model = resolve_model(str(path), tmp_path, DigestCache(tmp_path / "d.json"), allow_quantized=True)
    assert model.quantized and model.baseline == "MXFP4" and "released in MXFP4" in model.notices[0]
