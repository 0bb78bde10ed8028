"""Ready-made files measured beside the formats made here, and those refused that cannot be compared."""

from __future__ import annotations

import csv
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.command import SMALL_LAB, Cli
from kit.small_gguf import Small, string, texts, u32

from labctl.engines.llama_cpp.gguf.header import contents
from labctl.engines.llama_cpp.gguf.kinship import difference
from labctl.engines.llama_cpp.gguf.reader import read_header
from labctl.errors import LabError
from labctl.lab.config import candidate
from labctl.lab.values import load_config
from labctl.records.files import Making
from labctl.report.tables import _ready_made

MODEL = "labllama-15m"
ONLY_Q8 = SMALL_LAB.replace('"Q8_0", "Q4_K_M"', '"Q8_0"')


def record(folder: Path, step: str, label: str) -> dict[str, Any]:
    text = (folder / "outputs" / MODEL / "records" / f"{step}-{label}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)["record"]
    return found


def other_norm(path: Path, target: Path) -> Path:
    """A copy whose first norm has another first value, as training on would leave it."""
    shutil.copy(path, target)
    header = read_header(target)
    norm = next(tensor for tensor in header.tensors if tensor.name == "blk.0.attn_norm.weight")
    with target.open("r+b") as stream:
        stream.seek(header.data_offset + norm.offset)
        value = struct.unpack("<f", stream.read(4))[0]
        stream.seek(-4, 1)
        stream.write(struct.pack("<f", value + 0.01))
    return target


# -- the same model, or another ---------------------------------------------------------------------------------------


def test_every_quantization_of_a_model_is_the_same_model(quantized: Any, demo_model: Path) -> None:
    assert {difference(path, demo_model) for path in quantized.paths.values()} == {""}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"general.architecture": string("llama2")}, "architecture is llama2, and the model's llama"),
        ({"tokenizer.ggml.pre": string("qwen2")}, "pre-tokenizer is 'qwen2', and the model's not named"),
        ({"tokenizer.ggml.merges": texts(["a b"])}, "other rules of merging"),
    ],
)
def test_another_model_is_told_with_what_differs(
    changed: dict[str, tuple[int, bytes]], why: str, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    one.write_bytes(Small().bytes())
    if "general.architecture" in changed:
        small = Small()
        changed |= {
            f"llama2.{name.removeprefix('llama.')}": value
            for name, value in small.keys.items()
            if name.startswith("llama.")
        }
    other.write_bytes(Small().with_keys(changed).bytes())
    assert difference(one, one) == difference(other, other) == ""
    assert why in difference(other, one)


def test_other_tokens_of_the_same_number_are_another_vocabulary(tmp_path: Path) -> None:
    from kit.small_gguf import TOKENS

    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    one.write_bytes(Small().bytes())
    swapped = [*TOKENS[:-2], TOKENS[-1], TOKENS[-2]]
    other.write_bytes(Small().with_keys({"tokenizer.ggml.tokens": texts(swapped)}).bytes())
    assert difference(other, one) == "its vocabulary has other tokens than the model's"


def test_weights_that_were_trained_on_are_seen_in_the_norms(demo_model: Path, tmp_path: Path) -> None:
    why = difference(other_norm(demo_model, tmp_path / "tuned.gguf"), demo_model)
    assert why.startswith("1 of the ") and "blk.0.attn_norm.weight" in why and "fine-tuned" in why


def test_a_file_tells_who_made_it_and_how(tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    told = {
        "general.quantized_by": string("Somebody"),
        "quantize.imatrix.file": string("C:\\work\\matrix.dat"),
        "quantize.imatrix.chunks_count": u32(7),
    }
    path.write_bytes(Small().with_keys(told).bytes())
    assert (contents(path).making.by, contents(path).making.imatrix) == ("Somebody", "matrix.dat")
    path.write_bytes(Small().with_keys({**told, "quantize.imatrix.dataset": string("calibration.txt")}).bytes())
    assert contents(path).making.imatrix == "calibration.txt"
    path.write_bytes(Small().bytes())
    assert (contents(path).making.by, contents(path).making.imatrix) == ("", "")


def test_a_strangers_words_stay_words() -> None:
    note = _ready_made("x", Making(by="<b>[me](http://x)</b>\n# Q1", imatrix="*a*|b", file="`f`.gguf"))
    assert "<b>" not in note and "[me](" not in note and "\n" not in note and "|" not in note.replace("\\|", "")


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("mine=a.gguf", "mine"),
        ("a/b=c/Some-Model-Q4_K_M.gguf", "Q4_K_M"),
        ("Some-Model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("gemma-3-270m-it-IQ4_XS.gguf", "IQ4_XS"),
        ("model.Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("model-BF16-00001-of-00003.gguf", "BF16"),
        ("strange name.gguf", "strange-name"),
    ],
)
def test_a_file_goes_by_the_label_given_or_by_the_end_of_its_name(text: str, label: str) -> None:
    assert candidate(text)[0] == label


def test_a_file_that_goes_by_its_own_name_makes_way_for_a_format(tmp_path: Path) -> None:
    asked = {"candidates": ("a-Q4_K_M.gguf", "a-IQ4_XS.gguf"), "formats": ("Q8_0", "Q4_K_M")}
    config = load_config(asked, folder=tmp_path, environ={})
    assert list(config.candidate_files) == ["Q4_K_M-ready", "IQ4_XS"]


@pytest.mark.parametrize(
    ("candidates", "why"),
    [
        (("x=a.gguf", "x=b.gguf"), "two files go by x"),
        (("a b=c.gguf",), "'a b' is no label"),
        (("Q8_0=a.gguf",), "Q8_0 is the label of a ready-made file, and of a format to be made here"),
    ],
)
def test_labels_that_cannot_be_are_refused(candidates: tuple[str, ...], why: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=why):
        load_config({"candidates": candidates}, folder=tmp_path, environ={})


# -- in a lab ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(
    cli: Cli, quantized: Any, demo_model: Path, small_lab: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A lab of Q8_0, made here, and three ready-made files, of which one is another model's."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "lab.toml").write_text(ONLY_Q8, "utf-8")
    (folder / "outputs").mkdir()
    shutil.copy(small_lab / "outputs" / ".engine.json", folder / "outputs")
    shutil.copy(quantized.paths["Q4_K_M"], folder / "got-Q4_K_M.gguf")
    other_norm(demo_model, folder / "tuned-Q8_0.gguf")
    files = ("got-Q4_K_M.gguf", "small=got-Q4_K_M.gguf", "tuned=tuned-Q8_0.gguf")
    done = cli("run", "--model", "demo", *(part for file in files for part in ("--candidate", file)), cwd=folder)
    assert done.returncode == 1
    assert "tuned: tuned-Q8_0.gguf cannot be compared with labllama-15m, because 1 of the" in done.stderr
    return folder


@pytest.mark.slow
def test_a_ready_made_file_is_a_row_like_any_other(mixed: Path, small_lab: Path) -> None:
    made, got = record(small_lab, "perplexity", "Q4_K_M"), record(mixed, "perplexity", "Q4_K_M")
    assert (got["ppl"], got["chunks"]) == (made["ppl"], made["chunks"])
    with (mixed / "reports" / MODEL / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["format"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["F16", "Q8_0", "Q4_K_M", "small", "tuned"]
    assert rows["small"]["ppl"] == rows["Q4_K_M"]["ppl"] and float(rows["small"]["tg_tps"]) > 0
    assert not rows["tuned"]["ppl"]
    worksheet = (mixed / "reports" / MODEL / "worksheet.md").read_text("utf-8")
    assert "Q4_K_M is a ready-made file (got-Q4_K_M.gguf): it does not say by whom it was made" in worksheet
    assert not list((mixed / "outputs" / MODEL).glob("*Q4_K_M.gguf")), "it stays where it is"
    assert record(mixed, "quantize", "small")["ready_made"]["file"] == "got-Q4_K_M.gguf"


def due(cli: Cli, folder: Path) -> set[str]:
    """Formats that `labctl generate` would make something of."""
    done = cli("generate", "--dry-run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return {row["label"] for row in json.loads(done.stdout)}


@pytest.mark.slow
def test_single_steps_and_reports_remember_ready_made_files(mixed: Path, cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(mixed, folder)
    assert due(cli, folder) == {"tuned"}
    done = cli("report", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "outputs" / MODEL / "lab.json").unlink()  # then the records tell, of what could be compared
    assert due(cli, folder) == set()
    done = cli("report", cwd=folder)
    assert done.returncode == 0, done.stderr
    with (folder / "reports" / MODEL / "results.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["format"] for row in csv.DictReader(stream)] == ["F16", "Q8_0", "Q4_K_M", "small"]


@pytest.mark.slow
def test_another_file_under_the_label_is_measured_anew(mixed: Path, cli: Cli, quantized: Any, tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    shutil.copytree(mixed, folder)
    done = cli("perplexity", "--candidate", f"small={quantized.paths['Q3_K_M']}", cwd=folder)
    assert record(folder, "perplexity", "small")["ppl"] > record(folder, "perplexity", "Q4_K_M")["ppl"], done.stderr


@pytest.mark.slow
def test_it_is_handed_in_and_verified(mixed: Path, cli: Cli) -> None:
    done = cli("submit", "--incomplete", cwd=mixed)  # one of the files could not be compared
    assert done.returncode == 0, done.stderr
    (packed,) = (mixed / "reports").rglob("*.zip")
    checked = cli("verify", str(packed), cwd=mixed)
    wrong = [line.split()[0] for line in checked.stdout.splitlines() if " wrong " in line]
    assert wrong == ["complete"], checked.stdout + checked.stderr


def test_a_file_that_is_not_there_is_said_before_anything_is_made(cli: Cli, new_lab: Path) -> None:
    done = cli("run", "--model", "demo", "--candidate", "x=nowhere.gguf", cwd=new_lab)
    assert done.returncode == 1 and "There is no file nowhere.gguf, which is to be measured as x." in done.stderr
    assert not (new_lab / "outputs" / MODEL / "records").exists()


def test_a_file_that_is_cut_short_is_left_out(cli: Cli, new_lab: Path, quantized: Any) -> None:
    (new_lab / "cut.gguf").write_bytes(Path(quantized.paths["Q3_K_M"]).read_bytes()[:-4000])
    done = cli("quantize", "--candidate", "cut.gguf", cwd=new_lab)
    assert done.returncode == 1 and "cut short: 4,000 bytes missing" in done.stderr
    assert "quantize: " in done.stderr and record(new_lab, "quantize", "Q8_0")["size_bytes"] > 0


def test_settings_may_list_them(open_lab: Callable[..., Any], new_lab: Path, quantized: Any) -> None:
    path = quantized.paths["Q6_K"]
    (new_lab / "lab.toml").write_text(f'{ONLY_Q8}candidates = ["{path.as_posix()}"]\n', "utf-8")
    lab = open_lab(new_lab)
    assert lab.formats == ("F16", "Q8_0", "Q6_K") and lab.gguf_path("Q6_K") == path


# -- without a model of their own -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_of_a_repository_are_a_lab_whose_best_is_the_reference(
    cli: Cli, quantized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kit.hub_server import Hub, Repo, hub_for_this_test

    files = {f"m-{label}.gguf": quantized.paths[label].read_bytes() for label in ("Q8_0", "Q6_K", "Q4_K_M")}
    settings = SMALL_LAB.replace('formats = ["Q8_0", "Q4_K_M"]\n', "")
    (tmp_path / "lab.toml").write_text(settings, "utf-8")
    with hub_for_this_test(Hub(models={"lab/many": Repo(files)}), tmp_path / "hf", monkeypatch) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        asked = ("run", "--candidate", "hf:lab/many:*Q[84]_*")
        planned = cli(*asked, "--dry-run", cwd=tmp_path, env=env)
        assert planned.returncode == 1 and "would have to be downloaded" in planned.stderr
        done = cli(*asked, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "counted from Q8_0 (m-Q8_0.gguf): the best of these files, not the original model" in done.stderr
    with (tmp_path / "reports" / "m-Q8_0" / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["format"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["Q8_0", "Q4_K_M"] and float(rows["Q4_K_M"]["ppl_increase_pct"]) > 0
    worksheet = (tmp_path / "reports" / "m-Q8_0" / "worksheet.md").read_text("utf-8")
    assert "not from the original model" in worksheet and "further quantization" not in worksheet
    (tmp_path / "lab.toml").write_text(settings.replace("chunks = 4", "chunks = 5"), "utf-8")
    later = cli("perplexity", cwd=tmp_path)  # without the Hub: the lab knows its files
    assert later.returncode == 0, later.stderr
    again = json.loads((tmp_path / "outputs" / "m-Q8_0" / "records" / "perplexity-Q4_K_M.json").read_text("utf-8"))
    assert again["record"]["chunks"] == [[0, 5]]


@pytest.mark.slow
def test_files_of_a_folder_with_the_original_among_them(
    cli: Cli, quantized: Any, demo_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    shutil.copy(demo_model, folder / "m-F16.gguf")
    shutil.copy(quantized.paths["Q8_0"], folder / "m-Q8_0.gguf")
    done = cli(
        "quantize", "--model", str(folder / "m-F16.gguf"), "--candidate", "files", "--formats", "Q8_0", cwd=tmp_path
    )
    assert done.returncode == 1 and "F16" in done.stderr  # the model itself is among them
    done = cli("run", "--candidate", "files", "--dry-run", "--text", "demo", cwd=tmp_path)
    assert done.returncode == 0 and "counted from F16 (m-F16.gguf).\n" in done.stderr, done.stderr
