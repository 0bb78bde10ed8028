"""GGUF files that people really bring, through the command line: split ones, old ones, other kinds, short contexts."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_gguf import (
    BOOL,
    F32,
    N_EMBD,
    TEXT,
    Small,
    Tensor,
    split,
    string,
    u32,
    with_bpe,
    with_learned_positions,
)

from labctl.engines.llama_cpp.gguf import lengths
from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.engines.llama_cpp.tasks import LoadTask
from labctl.engines.llama_cpp.warned import in_words
from labctl.errors import LabError
from labctl.executors.child import run_task
from labctl.lab.folder import RunFolder
from labctl.lab.heard import keep, notices, was_loaded
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache

SMALL = ("--text", "t.txt", "--ctx", "64", "--chunks", "2", "--formats", "Q8_0", "--threads", "1", "--yes")
ALONE = (*SMALL[:-4], "F16", *SMALL[-3:])  # the baseline only
TOML = "new_tokens = 4\nprobe_items = 1\nbench_rounds = 1\nbench_max_rounds = 1\nkl_chunks = 2\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with a text and the settings of a short lab."""
    (tmp_path / "t.txt").write_text(TEXT * 3, "utf-8")
    (tmp_path / "lab.toml").write_text(TOML, "utf-8")
    return tmp_path


def record(place: Path, name: str, step: str) -> Any:
    return json.loads((place / "outputs" / name / "records" / f"{step}.json").read_text("utf-8"))["record"]


def ppl(place: Path, name: str, label: str) -> float:
    return float(record(place, name, f"perplexity-{label}")["ppl"])


def words(printed: str) -> str:
    """What was printed without frames and line ends."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", printed).split())


def refused(path: Path) -> LabError:
    with pytest.raises(LabError) as caught:
        resolve_model(str(path), path.parent, DigestCache(path.parent / "digests.json"))
    assert caught.value.hint
    return caught.value


# -- parts ------------------------------------------------------------------------------------------------------------


def write_parts(place: Path, parts: list[bytes], stem: str = "m-f16") -> Path:
    for number, data in enumerate(parts, 1):
        (place / f"{stem}-{number:05d}-of-{len(parts):05d}.gguf").write_bytes(data)
    return place / f"{stem}-00001-of-{len(parts):05d}.gguf"


@pytest.mark.slow
def test_a_split_model_gives_the_figures_of_the_whole_one(cli: Any, place: Path) -> None:
    (place / "whole.gguf").write_bytes(Small().bytes())
    write_parts(place, split(Small(), 3))
    for name in ("whole.gguf", "m-f16-00001-of-00003.gguf"):
        done = cli("perplexity", "--model", name, *SMALL, cwd=place)
        assert done.returncode == 0, done.stderr
    for label in ("F16", "Q8_0"):
        assert ppl(place, "m", label) == ppl(place, "whole", label)
    assert record(place, "m", "quantize-Q8_0")["sha256"] == record(place, "whole", "quantize-Q8_0")["sha256"]
    again = cli("perplexity", "--model", "m-f16-00001-of-00003.gguf", *SMALL, "--json", cwd=place)
    assert json.loads(again.stdout)["made"] == 0


@pytest.mark.slow
def test_another_second_part_is_another_model(cli: Any, place: Path) -> None:
    first = write_parts(place, split(Small(), 2))
    other = Small()
    last = list(other.tensors)[-1]
    other.tensors[last].data = bytes(len(other.tensors[last].data))
    digests = DigestCache(place / "d.json")
    found = []
    for small in (Small(), other):
        write_parts(place, split(small, 2))
        found.append(resolve_model(str(first), place, digests).sha256)
        done = cli("perplexity", "--model", first.name, *ALONE, cwd=place)
        assert done.returncode == 0, done.stderr
    assert found[0] != found[1]
    paths = place.glob("outputs/*/records/perplexity-F16.json")
    assert len({json.loads(path.read_text("utf-8"))["record"]["ppl"] for path in paths}) == 2, "each has its folder"


@pytest.mark.slow
def test_a_split_model_is_run_packed_and_checked(cli: Any, place: Path) -> None:
    write_parts(place, split(Small(), 2))
    model = ("--model", "m-f16-00001-of-00002.gguf")
    done = cli("run", *model, *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout.lower()
    packed = cli("submit", *model, *SMALL, "--incomplete", cwd=place)
    assert packed.returncode == 0, packed.stderr
    zips = list((place / "reports").glob("*/submission-*.zip"))
    for file in (place / "outputs/m").glob("*.gguf"):
        file.unlink()
    text = {"LABCTL_TEXT": "t.txt"}
    checked = cli("verify", str(zips[0]), "--model-file", model[1], cwd=place, env=text)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "nats a token" in checked.stdout, checked.stdout
    other = cli("verify", str(zips[0]), "--model-file", "m-f16-00002-of-00002.gguf", cwd=place, env=text)
    assert "is none of the files that were measured" in words(other.stdout), other.stdout


def parts_of(small: Small, count: int = 2) -> dict[str, bytes]:
    return {f"m-{number:05d}-of-{count:05d}.gguf": data for number, data in enumerate(split(small, count), 1)}


TWO = parts_of(Small())
FIRST, SECOND = TWO
THREE = parts_of(Small(), 3)
BAD = {
    "the second part is named": (TWO, SECOND, "is not the first part", f"Give the first part: .*{FIRST}"),
    "a part is missing": ({FIRST: TWO[FIRST]}, FIRST, "1 of 2 parts of m are missing", "one folder"),
    "a part is cut short": ({**TWO, SECOND: TWO[SECOND][:-200]}, FIRST, f"{SECOND} is cut short", "again"),
    "a part is a note of where it is": (
        {**TWO, SECOND: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"},
        FIRST, f"{SECOND} is not a GGUF file", "git lfs pull"),
    "two parts have changed their names": (
        {FIRST: TWO[SECOND], SECOND: TWO[FIRST]}, FIRST, "by its header it is part 2", "back the names"),
    "a part is there twice": ({**TWO, SECOND: TWO[FIRST]}, FIRST, f"{SECOND} has the name of another part", "names"),
    "a part of another split": ({**TWO, SECOND: list(THREE.values())[1]}, FIRST, "no part of 2", "from one place"),
    "a part of a model with fewer tensors": (
        {**TWO, SECOND: split(Small(tensors=dict(list(Small().tensors.items())[:-1])), 2)[1]},
        FIRST, "does not belong to", "from one place"),
    "the first part is renamed": ({"m.gguf": TWO[FIRST]}, "m.gguf", "not named like one", "-00001-of-00002.gguf"),
    "parts joined by cat": ({"m.gguf": TWO[FIRST] + TWO[SECOND]}, "m.gguf", "joined end to end", "gguf-split --merge"),
    "two models joined by cat": ({"m.gguf": Small().bytes() * 2}, "m.gguf", "several GGUF files", "one model"),
    "a half by name part1of2": ({"m.gguf.part1of2": Small().bytes()[:90_000]}, "m.gguf.part1of2", "one piece of a file",
                                r"cat m\.gguf\.part\* > m\.gguf"),
    "a half by name split-b": ({"m.gguf-split-b": Small().bytes()[90_000:]}, "m.gguf-split-b", "one piece of a file",
                               r"cat m\.gguf-split-\* > m\.gguf"),
    "a half by name 001": ({"m.gguf.001": Small().bytes()[:90_000]}, "m.gguf.001", "one piece of a file",
                           r"cat m\.gguf\.\* > m\.gguf"),
    "twelve pieces, numbers without zeros": (
        {f"my m.gguf.part{number}of12": Small().bytes()[:9_000] for number in range(1, 13)}, "my m.gguf.part2of12",
        "one piece of a file", r"cat \$\(ls -v 'my m\.gguf\.part'\*\) > 'my m\.gguf'"),
    "a download under way": ({"m.gguf.crdownload": Small().bytes()[:90_000]}, "m.gguf.crdownload", "not ended", "end"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_parts_with_a_fault_are_named_for_what_they_are(tmp_path: Path, case: str) -> None:
    files, asked, said, hint = BAD[case]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    error = refused(tmp_path / asked)
    assert re.search(said, error.message), error.message
    assert re.search(hint, error.hint), error.hint


def test_pieces_joined_again_are_the_model(tmp_path: Path) -> None:
    data = Small().bytes()
    (tmp_path / "m.gguf").write_bytes(b"".join([data[:70_000], data[70_000:]]))
    assert read_model(tmp_path / "m.gguf")[1] == (tmp_path / "m.gguf",)


def test_a_file_written_over_in_place_is_noticed(tmp_path: Path) -> None:
    path, digests = tmp_path / "m.gguf", DigestCache(tmp_path / "digests.json")
    path.write_bytes(Small().bytes())
    status = path.stat()
    before = digests.sha256(path)
    other = Small()
    other.tensors["output_norm.weight"].data = struct.pack("<f", 0.5) * N_EMBD
    with path.open("r+b") as stream:
        stream.write(other.bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (status.st_size, status.st_mtime_ns, status.st_ino)
    assert DigestCache(tmp_path / "digests.json").sha256(path) != before


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


# -- llama.cpp's warnings ---------------------------------------------------------------------------------------------


def test_a_missing_pre_tokenizer_is_refused_with_the_cure(cli: Any, place: Path) -> None:
    for name, small in (
        ("none", with_bpe(Small(), pre=None)),
        ("empty", with_bpe(Small(), pre="")),
    ):
        (place / f"{name}.gguf").write_bytes(small.bytes())
        done = cli("run", "--model", f"{name}.gguf", *ALONE, cwd=place)
        assert done.returncode == 1 and done.stderr.count("error:") == 1, done.stderr
        assert "tokenizer.ggml.pre" in done.stderr and "gguf-new-metadata" in done.stderr
    done = cli("perplexity", "--model", "none.gguf", *ALONE, "--allow-missing-pre-tokenizer", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "tokenizer.ggml.pre is missing" in words(done.stderr)
    assert "llama.cpp splits by a general rule" in record(place, "none", "source")["notices"][0]


def spoilt(kind: str) -> Small:
    if kind == "end":
        return Small().with_keys({"tokenizer.ggml.eos_token_id": u32(270)})
    if kind == "special":
        return Small().with_keys({"tokenizer.ggml.unknown_token_id": u32(99_999)})
    return with_bpe(Small(), end="<|im_end|>", end_kind=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("end", "is not one that llama.cpp knows as an end of text"),
        ("special", "names tokens that the vocabulary does not have"),
        ("control", "sample texts may end at them"),
    ],
)
def test_what_llama_cpp_warns_of_reaches_every_reader(cli: Any, place: Path, kind: str, said: str) -> None:
    (place / "m.gguf").write_bytes(spoilt(kind).bytes())
    done = cli("perplexity", "--model", "m.gguf", *ALONE, cwd=place)
    assert done.returncode == 0, done.stderr
    assert said in words(done.stderr)
    assert any(said in notice for notice in record(place, "m", "source")["notices"])
    if kind != "control":
        return
    again = cli("report", "--model", "m.gguf", *ALONE, cwd=place)
    assert again.returncode == 0, again.stderr
    sheet = (place / "reports/m/worksheet.md").read_text("utf-8").replace("\\", "")
    assert sum(said in line for line in sheet.splitlines() if line.startswith("> **Note")) == 1
    assert said in (place / "reports/m/perplexity_results.txt").read_text("utf-8")


LINES = {
    "load: missing pre-tokenizer type, using: 'default'": "tokenizer.ggml.pre is missing",
    "load: CONSIDER REGENERATING THE MODEL             ": "tokenizer.ggml.pre is missing",
    "load: special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect": "eos_token_id",
    "done_getting_tensors: model has unused tensor blk.4.nextn.eh_proj.weight (size = 64 bytes) -- ignoring": "nextn",
    "load: bad special token: 'tokenizer.ggml.padding_token_id' = 32000, using default id -1": "padding_token_id",
    "load: empty token at index 7": "number 7",
    "load_arch_hparams: Phi SWA is currently disabled - results might be suboptimal": "sliding window",
    "minimax: flash attention disabled; MSA requires it -> running DENSE attention": "llama.cpp warns: flash attention",
    "load: Mask token is missing in vocab, please reconvert model!": "please reconvert model",
    "llama_context: n_ctx_seq (4096) > n_ctx_train (1024) -- possible training context overflow": "",
    "warning: blk.0.ffn_down.weight - ncols 100 not divisible by 256 (required for q4_K) -> falling back to q8_0": "",
    "init: using full-size SWA cache (ref: an address)": "",
    "load: ************************************        ": "",
    "load:                                             ": "",
}


@pytest.mark.parametrize("line", LINES)
def test_a_warning_in_plain_words(line: str) -> None:
    said = in_words([line, line])
    assert len(said) == bool(LINES[line]) and all(LINES[line] in one for one in said)


def test_many_unknown_warnings_are_cut_and_counted() -> None:
    said = in_words(f"loader: strange thing {number} \x1b[31m" for number in range(40))
    assert len(said) == 7 and "34 further things" in said[-1] and not any("\x1b" in one for one in said)


def test_what_only_one_format_brings_is_said_with_its_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).make()
    assert not was_loaded(folder, "k")
    keep(folder, "k", "load", "F16", ("A general thing.",))
    keep(folder, "k", "perplexity", "F16", ("A general thing.",))
    keep(folder, "k", "perplexity", "Q4_0", ("A general thing.", "A new thing."))
    keep(folder, "k", "memory", "Q4_0", ("A new thing.",))
    assert was_loaded(folder, "k")
    assert notices(folder, "k") == ("A general thing.", "Q4_0 (perplexity), Q4_0 (memory): A new thing.")
    keep(folder, "k", "perplexity", "Q4_0", ())
    assert notices(folder, "k") == ("A general thing.", "Q4_0 (memory): A new thing.")
    assert notices(folder, "another model") == () and not was_loaded(folder, "another model")


# -- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "starcoder"])
def test_learned_positions_end_where_they_end(cli: Any, place: Path, architecture: str) -> None:
    small = with_learned_positions(with_bpe(Small()), architecture, 128)
    (place / "m.gguf").write_bytes(small.bytes())
    arguments = (
        "--model",
        "m.gguf",
        "--text",
        "t.txt",
        "--formats",
        "Q8_0",
        "--threads",
        "1",
        "--yes",
        "--chunks",
        "2",
    )
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
    sides = cli("bench", "--batch", "1,2", *arguments, "--ctx", "128", cwd=place)
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
    reach = lengths.reach_of(read_model(path)[0])
    assert (reach.n_trained, reach.n_positions) == (trained, None)
    reach.require(1 << 20)  # computed positions do not end


@pytest.mark.parametrize("limit", [1, 2, 3, 64, 127, 128, 200, 256, 511, 512, 4096])
def test_no_test_is_longer_than_the_model_allows(limit: int) -> None:
    reach = lengths.Reach(n_trained=limit, n_positions=limit)
    assert max(reach.bench) <= limit and min(reach.bench) >= 1
    if limit > 1:
        assert 2 <= sum(reach.batch) <= limit
    if limit >= 88:
        assert 64 + reach.new_tokens(100) <= max(limit, 65)
    usual = reach.bench == (lengths.N_PROMPT, lengths.N_GEN)
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
