"""What llama.cpp warns of is said in plain words, to every reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit.gguf_labs import ALONE, record, words
from kit.small_gguf import Small, u32, with_bpe

from labctl.engines.llama_cpp.warned import in_words
from labctl.lab.folder import RunFolder
from labctl.lab.heard import keep, notices, was_loaded


@pytest.mark.slow
def test_a_missing_pre_tokenizer_is_refused_with_the_cure(cli: Any, place: Path) -> None:
    for name, small in (("none", with_bpe(Small(), pre=None)), ("empty", with_bpe(Small(), pre=""))):
        (place / f"{name}.gguf").write_bytes(small.bytes())
        done = cli("run", "--model", f"{name}.gguf", *ALONE, cwd=place)
        assert done.returncode == 1 and done.stderr.count("error:") == 1, done.stderr
        assert "tokenizer.ggml.pre" in done.stderr and "gguf-new-metadata" in done.stderr
    done = cli("perplexity", "--model", "none.gguf", *ALONE, "--allow-missing-pre-tokenizer", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "tokenizer.ggml.pre is missing" in words(done.stderr)
    assert "llama.cpp splits by a general rule" in record(place, "none", "source")["notices"][0]
    for name in ("none", "none.gguf", "./none.gguf"):
        shown = cli("report", "--model", name, cwd=place)
        assert shown.returncode == 0, shown.stderr  # what it was measured with was allowed then
    refused = cli("report", "--model", "empty.gguf", cwd=place)
    assert refused.returncode == 1 and "Nothing is measured for empty yet" in refused.stderr


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
