"""A model in several parts is the model, and parts with a fault are named for what they are."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from kit.gguf_labs import ALONE, SMALL, ppl, record, refused, words
from kit.small_gguf import N_EMBD, Small, split

from labctl.engines.llama_cpp.gguf.header import read_model
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache


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
    paths = place.glob("outputs/*/records/perplexity-F16*.json")
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
        FIRST,
        f"{SECOND} is not a GGUF file",
        "git lfs pull",
    ),
    "two parts have changed their names": (
        {FIRST: TWO[SECOND], SECOND: TWO[FIRST]},
        FIRST,
        "by its header it is part 2",
        "back the names",
    ),
    "a part is there twice": ({**TWO, SECOND: TWO[FIRST]}, FIRST, f"{SECOND} has the name of another part", "names"),
    "a part of another split": ({**TWO, SECOND: list(THREE.values())[1]}, FIRST, "no part of 2", "from one place"),
    "a part of a model with fewer tensors": (
        {**TWO, SECOND: split(Small(tensors=dict(list(Small().tensors.items())[:-1])), 2)[1]},
        FIRST,
        "does not belong to",
        "from one place",
    ),
    "the first part is renamed": ({"m.gguf": TWO[FIRST]}, "m.gguf", "not named like one", "-00001-of-00002.gguf"),
    "parts joined by cat": ({"m.gguf": TWO[FIRST] + TWO[SECOND]}, "m.gguf", "joined end to end", "gguf-split --merge"),
    "two models joined by cat": ({"m.gguf": Small().bytes() * 2}, "m.gguf", "several GGUF files", "one model"),
    "a half by name part1of2": (
        {"m.gguf.part1of2": Small().bytes()[:90_000]},
        "m.gguf.part1of2",
        "one piece of a file",
        r"cat m\.gguf\.part\* > m\.gguf",
    ),
    "a half by name split-b": (
        {"m.gguf-split-b": Small().bytes()[90_000:]},
        "m.gguf-split-b",
        "one piece of a file",
        r"cat m\.gguf-split-\* > m\.gguf",
    ),
    "a half by name 001": (
        {"m.gguf.001": Small().bytes()[:90_000]},
        "m.gguf.001",
        "one piece of a file",
        r"cat m\.gguf\.\* > m\.gguf",
    ),
    "twelve pieces, numbers without zeros": (
        {f"my m.gguf.part{number}of12": Small().bytes()[:9_000] for number in range(1, 13)},
        "my m.gguf.part2of12",
        "one piece of a file",
        r"cat \$\(ls -v 'my m\.gguf\.part'\*\) > 'my m\.gguf'",
    ),
    "a download under way": ({"m.gguf.crdownload": Small().bytes()[:90_000]}, "m.gguf.crdownload", "not ended", "end"),
}


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
