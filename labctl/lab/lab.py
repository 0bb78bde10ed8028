"""A lab that is open: its settings, folders, sources, this machine and its llama.cpp."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labctl import __version__
from labctl.engines.llama_cpp.footprint import limit_bytes
from labctl.engines.llama_cpp.gguf.lengths import Reach, reach_of
from labctl.engines.llama_cpp.warned import in_words
from labctl.executors.base import Task
from labctl.executors.child import OnProgress, run_task
from labctl.lab import heard
from labctl.lab.command import command
from labctl.lab.config import LabConfig
from labctl.lab.folder import RunFolder
from labctl.records.base import SCHEMA_VERSION, Machine, Provenance
from labctl.records.digests import DigestCache, digest
from labctl.records.sources import SourceModel, TextSource

if TYPE_CHECKING:
    from labctl.engines.llama_cpp.imatrix import Imatrix

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Everything a step may read: settings, folders, sources, this machine and its llama.cpp.

    Attributes:
        asked: step -> the settings that it was last asked with, where they may differ from those of now.
        standing: the settings that lab.toml and variables give.
    """

    config: LabConfig
    folder: RunFolder
    model: SourceModel
    text: TextSource
    machine: Machine
    n_threads: int
    engine: dict[str, str]
    digests: DigestCache
    probes: dict[str, Path]
    imatrix: Imatrix | None = None
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    standing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_demo(self) -> bool:
        return self.model.origin == "demo"

    @property
    def labels(self) -> tuple[str, ...]:
        """Formats in the worksheet's order, the baseline first."""
        return (self.model.baseline, *(name for name in self.config.formats if name != self.model.baseline))

    def at(self, step: str) -> Lab:
        """The lab with the settings that a step was last asked with."""
        settings = dict(self.asked.get(step, {}))
        n_threads = settings.pop("threads", None) or self.n_threads
        return replace(self, config=self.config.having(settings), n_threads=n_threads) if self.asked else self

    def command(self, verb: str, *, exact: bool = False) -> str:
        """What to type for this very lab, from the folder it was measured in; of a run, with what it was asked.

        Args:
            exact: with folders from the root on, too: not for what is handed in, where they are nobody's business.
        """
        name = "demo" if self.is_demo else self.folder.root.name
        return command(verb, name, self.config, self.labels[1:] or self.labels, exact=exact)

    def gguf_path(self, label: str) -> Path:
        """Where a format's file is: the source itself for the baseline."""
        if label == self.model.baseline:
            return Path(self.model.path)
        return self.folder.root / f"{self.model.name}-{label}.gguf"

    @functools.cached_property
    def reach(self) -> Reach:
        """How many tokens the model takes."""
        from labctl.engines.llama_cpp.gguf.header import read_model

        return reach_of(read_model(Path(self.model.path))[0])

    @functools.cached_property
    def source_files(self) -> tuple[Path, ...]:
        """The source: one file, or all parts of a split model in order."""
        from labctl.engines.llama_cpp.gguf.header import read_model

        return read_model(Path(self.model.path))[1]

    def provenance(self, step: str, key: str, inputs: dict[str, str], settings: dict[str, Any]) -> Provenance:
        return Provenance(
            step=step,
            key=key,
            created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            inputs=inputs,
            settings=settings,
            versions={
                "labctl": __version__,
                "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
                **self.engine,
            },
            machine=self.machine,
        )

    def run(self, task: Task, kind: type[RecordT], step: str, label: str, on_progress: OnProgress | None) -> RecordT:
        def keep(warnings: tuple[str, ...]) -> None:
            heard.keep(self.folder, self.notices_key, step, label, in_words(warnings))

        return run_task(
            task,
            kind,
            log_path=self.folder.log_path(step, label),
            hang_s=self.config.hang_s,
            on_progress=on_progress,
            on_warnings=keep,
            limit_bytes=limit_bytes(task, self.config.memory_limit_bytes),
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
    return digest({"step": step, "schema": SCHEMA_VERSION, "engine": lab.engine, **parts})
