"""The README.md of a Hub repository: its metadata can be read back, and its figures are the records'."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from kit.command import Cli
from kit.lab_factory import make_lab

from labctl.errors import LabError
from labctl.lab.sources.hubcard import base_of, checked_base, front_matter
from labctl.records.files import Making
from labctl.records.units import percent, size_text
from labctl.report.card import MARK, files_made, render_card
from labctl.report.figures import figures_of
from labctl.steps.quantize.step import QUANTIZE

FRONT = front_matter(base="owner/model", by="me", license_="apache-2.0", tags=["gguf"])


def metadata(text: str) -> dict[str, Any]:
    card = ModelCard(text, ignore_metadata_errors=False)
    return dict(card.data.to_dict())  # type: ignore[no-untyped-call,unused-ignore]


def cells(card: str, file: str) -> list[str]:
    line = next(line for line in card.splitlines() if line.startswith(f"| `{file}`") and line.count("|") > 5)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_metadata_is_read_back(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    data = metadata(render_card(lab, figures_of(lab), FRONT, "owner/model", 0.02))
    assert (data["base_model"], data["base_model_relation"], data["quantized_by"]) == ("owner/model", "quantized", "me")
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("apache-2.0", "gguf", "text-generation")
    bare = metadata(f"---\n{front_matter(base='', by='', license_='', tags=['gguf'])}\n---\nx")
    assert not {"base_model", "base_model_relation", "quantized_by", "license"} & set(bare)


def test_every_figure_is_the_records(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    figures = figures_of(lab)
    card = render_card(lab, figures, FRONT, "owner/model", 0.02)
    made = files_made(lab)
    assert made and lab.model.baseline not in made
    for name, file in made.items():
        row = figures[name]
        shown = cells(card, file.path.rpartition("/")[2])
        assert shown[1] == size_text(file.size_bytes) and shown[2] == f"{file.bpw:.2f}"
        assert row.increase is not None and shown[3].startswith(percent(row.increase.pct)) and shown[4] == row.verdict
        assert f"`{file.sha256}`" in card
        assert re.search(rf"^llama-quantize .* {re.escape(name)}$", card, re.MULTILINE)


def test_files_of_others_are_not_listed_as_made_here(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    files = dict(lab.of(QUANTIZE))
    name = next(iter(files_made(lab)))
    strange = lab.having(QUANTIZE, {**files, name: dataclasses.replace(files[name], ready_made=Making(by="Somebody"))})
    assert name not in files_made(strange)


def test_a_strangers_words_stay_words(tmp_path: Path) -> None:
    front = front_matter(base="", by='me: "x"\n---\ntags: [evil]', license_="", tags=["gguf"])
    lab = make_lab(tmp_path)
    lab = dataclasses.replace(lab, model=dataclasses.replace(lab.model, name="a|b\n---\n# <b>x</b>"))
    text = render_card(lab, figures_of(lab), front, "", 0.02)
    assert metadata(text)["tags"] == ["gguf"]
    assert "<b>" not in text and "\n# x" not in text


def test_a_base_is_a_repository(tmp_path: Path) -> None:
    model = make_lab(tmp_path).model
    assert base_of(model) == ""
    assert base_of(dataclasses.replace(model, origin="hub", spec="hf:owner/model@main:m.gguf")) == "owner/model"
    assert checked_base("owner/model") == checked_base("hf:owner/model") == "owner/model"
    for wrong in ("model", "owner/model:file.gguf", "owner/model extra"):
        with pytest.raises(LabError):
            checked_base(wrong)


@pytest.mark.slow
def test_a_card_is_written_and_a_persons_own_file_kept(cli: Cli, lab_copy: Path) -> None:
    done = cli("card", "--base", "owner/model", cwd=lab_copy)
    assert done.returncode == 0, done.stderr
    path = lab_copy / "reports" / "labllama-15m" / "hub" / "README.md"
    assert MARK in path.read_text("utf-8") and "labllama-15m-Q8_0.gguf" in path.read_text("utf-8")
    assert cli("card", "--base", "owner/model", cwd=lab_copy).returncode == 0
    path.write_text("my own words", "utf-8")
    refused = cli("card", cwd=lab_copy)
    assert refused.returncode == 1 and "labctl did not write it" in refused.stderr
    assert path.read_text("utf-8") == "my own words"
