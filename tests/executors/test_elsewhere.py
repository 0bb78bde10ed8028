"""A task may run anywhere: what crosses is its line and its events, and labctl alone writes into the lab."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from labctl.cli.output import Display
from labctl.executors.base import Task
from labctl.executors.local import run_task
from labctl.lab.lab import Lab
from labctl.pipeline import run as pipeline
from labctl.steps.perplexity.record import ReadsText
from labctl.steps.perplexity.step import nll_path

FORMATS = ("F16", "Q4_K_M")


@dataclasses.dataclass
class Distant:
    """An executor with files of its own, in which the lab's folder is not known.

    Attributes:
        folder: where it keeps copies of the files that tasks name.
    """

    folder: Path
    n_done: int = 0

    def __call__(self, task: Task, record_type: type[Any], *, log_path: Path, **options: Any) -> Any:
        changes: dict[str, Any] = {"model_path": self._copy(task.model_path)}
        if isinstance(task, ReadsText):
            changes["text"] = dataclasses.replace(task.text, path=self._copy(task.text.path))
            changes["tokens_path"] = self._copy(task.tokens_path) if task.tokens_path else ""
        moved = msgspec.structs.replace(task, **changes)
        assert log_path.parent.parent.as_posix() not in moved.line().decode()
        self.n_done += 1
        return run_task(moved, record_type, log_path=self.folder / "task.log", **options)

    def _copy(self, path: str) -> str:
        return str(shutil.copy(path, self.folder))


@pytest.mark.slow
def test_figures_are_the_same_from_a_machine_that_does_not_see_the_lab(
    lab_copy: Path, open_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = open_lab(lab_copy)
    records = [lab.folder.record_path("perplexity", label) for label in FORMATS]
    before = [msgspec.json.decode(path.read_bytes())["record"] for path in records]
    rows = {label: nll_path(lab, label).read_bytes() for label in FORMATS}
    distant = Distant(tmp_path / "distant")
    distant.folder.mkdir()
    lab = dataclasses.replace(lab, executor=distant)
    steps = ("perplexity", "generate", "memory")
    outcome = pipeline.run(lab, Display(quiet=True), names=steps, force=steps, report=False)
    assert outcome.failures == () and distant.n_done == 4 * len(lab.formats)
    after = [msgspec.json.decode(path.read_bytes())["record"] for path in records]
    for old, new in zip(before, after, strict=True):
        assert old["provenance"]["created_at"] <= new["provenance"]["created_at"]
        assert [old[name] for name in ("ppl", "ppl_se", "chunks", "nll_path")] == [
            new[name] for name in ("ppl", "ppl_se", "chunks", "nll_path")
        ]
    assert {label: nll_path(lab, label).read_bytes() for label in FORMATS} == rows
