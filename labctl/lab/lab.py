"""A lab that is open: its settings, folders, sources, this machine and its llama.cpp."""

from __future__ import annotations

import datetime
import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from labctl import __version__, engines
from labctl.engines.base import Contents, Engine, Imatrix, limit_bytes
from labctl.executors.base import Executor, OnProgress, OnRows, OnWarnings, Task
from labctl.executors.local import run_task
from labctl.lab import heard
from labctl.lab.command import command
from labctl.lab.config import LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.reach import Reach
from labctl.records.base import SCHEMA_VERSION, Machine, Provenance, Setting
from labctl.records.digests import DigestCache, digest
from labctl.records.sources import SourceModel, TextSource

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Everything a step may read: settings, folders, sources, this machine and its llama.cpp.

    Attributes:
        identity: of the engine: its build, and what of this machine changes its figures.
        asked: step -> the settings that it was last asked with, where they may differ from those of now.
        standing: the settings that lab.toml and variables give.
    """

    config: LabConfig
    folder: RunFolder
    model: SourceModel
    text: TextSource
    machine: Machine
    n_threads: int
    identity: dict[str, str]
    digests: DigestCache
    probes: dict[str, Path]
    imatrix: Imatrix | None = None
    executor: Executor = run_task
    asked: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    standing: Mapping[str, object] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        """What quantizes and runs the model."""
        return engines.named(self.model.engine)

    @property
    def is_demo(self) -> bool:
        return self.model.origin == "demo"

    @property
    def formats(self) -> tuple[str, ...]:
        """The baseline, formats in the worksheet's order, and ready-made files."""
        formats = (name for name in self.config.formats if name != self.model.baseline)
        return (self.model.baseline, *formats, *self.candidates)

    @functools.cached_property
    def candidates(self) -> dict[str, Path]:
        """Label -> ready-made file that is measured beside the formats."""
        return self.config.candidate_files

    def at(self, step: str) -> Lab:
        """The lab with the settings that a step was last asked with."""
        return self.having(self.asked.get(step, {})) if self.asked else self

    def having(self, settings: Mapping[str, object], text: TextSource | None = None) -> Lab:
        """The lab with other settings, the number of threads as it came out, and perhaps another text."""
        threads = settings.get("threads")
        n_threads = threads if isinstance(threads, int) and threads else self.n_threads
        config = self.config.having({name: value for name, value in settings.items() if name != "threads"})
        return replace(self, config=config, n_threads=n_threads, text=text or self.text)

    def command(self, verb: str, *, exact: bool = False) -> str:
        """What to type for this very lab, from the folder it was measured in; of a run, with what it was asked.

        Args:
            exact: with folders from the root on, too: not for what is handed in, where they are nobody's business.
        """
        name = "demo" if self.is_demo else self.folder.root.name
        return command(verb, name, self.config, self.formats[1:] or self.formats, exact=exact)

    def gguf_path(self, label: str) -> Path:
        """Where a format's file is: the source itself for the baseline, and a ready-made file where it lies."""
        if label == self.model.baseline:
            return Path(self.model.path)
        if label in self.candidates:
            return self.candidates[label]
        return self.folder.root / f"{self.model.name}-{label}{self.engine.suffix}"

    @functools.cached_property
    def source(self) -> Contents:
        """What the source's file holds, or all of its parts."""
        return self.engine.inspect(Path(self.model.path))

    @property
    def reach(self) -> Reach:
        """How many tokens the model takes."""
        return Reach(n_trained=self.source.n_trained, n_positions=self.source.n_positions)

    def provenance(self, step: str, key: str, inputs: dict[str, str], settings: Mapping[str, object]) -> Provenance:
        return Provenance(
            step=step,
            key=key,
            created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            inputs=inputs,
            settings=msgspec.convert(settings, dict[str, Setting]),
            versions={"labctl": __version__, **self.engine.versions(), **self.identity},
            machine=self.machine,
        )

    def run(
        self,
        task: Task,
        kind: type[RecordT],
        step: str,
        label: str,
        on_progress: OnProgress | None = None,
        on_rows: OnRows | None = None,
    ) -> RecordT:
        def keep(warnings: tuple[str, ...]) -> None:
            heard.keep(self.folder, self.notices_key, step, label, self.engine.warned(warnings))

        log_path = self.folder.log_path(step, label)
        return self._in_child(task, kind, log_path, on_progress=on_progress, on_rows=on_rows, on_warnings=keep)

    def ask(self, task: Task, kind: type[RecordT]) -> RecordT:
        """Run a task of which nothing is kept, not even its log."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return self._in_child(task, kind, Path(folder) / "log.txt")

    def _in_child(
        self,
        task: Task,
        kind: type[RecordT],
        log_path: Path,
        *,
        on_progress: OnProgress | None = None,
        on_rows: OnRows | None = None,
        on_warnings: OnWarnings | None = None,
    ) -> RecordT:
        return self.executor(
            engines.assigned(task, self.model.engine),
            kind,
            log_path=log_path,
            hang_s=self.config.hang_s,
            on_progress=on_progress,
            on_rows=on_rows,
            on_warnings=on_warnings,
            limit_bytes=limit_bytes(self.engine.footprint, task, self.config.memory_limit_bytes),
            deaths=self.engine.death,
        )

    @property
    def notices_key(self) -> str:
        """Digest of all that llama.cpp's warnings depend on."""
        return key_of("notices", self, model=self.model.sha256)

    def with_notices(self) -> Lab:
        """The same with what is to be said of lengths and of llama.cpp's warnings so far among the model's notices."""
        lengths = self.reach.notices(self.config.ctx, self.config.new_tokens)
        said = (*self.model.notices, *lengths, *heard.notices(self.folder, self.notices_key))
        return replace(self, model=replace(self.model, notices=tuple(dict.fromkeys(said))))


def key_of(step: str, lab: Lab, **parts: Any) -> str:
    """Digest of all that a record depends on: schema, llama.cpp's build, and what the step names."""
    return digest({"step": step, "schema": SCHEMA_VERSION, "engine": lab.identity, **parts})
