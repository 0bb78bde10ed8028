"""Labs of small GGUF files, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import LabError
from labctl.lab.sources.models import resolve_model
from labctl.records.digests import DigestCache

SMALL = ("--text", "t.txt", "--ctx", "64", "--formats", "Q8_0", "--threads", "1", "--yes")
ALONE = (*SMALL[:-4], "F16", *SMALL[-3:])  # the baseline only
TOML = "chunks = 2\nnew_tokens = 4\nprobe_items = 1\nbench_rounds = 1\nbench_max_rounds = 1\nkl_chunks = 2\n"


def record(place: Path, name: str, step: str) -> Any:
    """A record; that of a text which is the lab's own has the text's name, too."""
    (path,) = (place / "outputs" / name / "records").glob(f"{step}*.json")
    return json.loads(path.read_text("utf-8"))["record"]


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
