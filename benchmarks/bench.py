"""The thing under comparison: one model, one text, both sides' programs, and a place to work in."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import Runner, warm
from benchmarks.records import THEIRS, Section
from benchmarks.tools import Tools
from labctl.lab.lab import Lab


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much to measure.

    Attributes:
        chunks: of text, for parity and for the whole lab; None for all.
        timing_chunks: of text, for wall time and peak memory.
        rounds: A B A B ... of short comparisons; lab_rounds: of the whole lab.
        again: runs of `labctl bench`, on an idle machine and beside a load each.
    """

    chunks: int | None
    timing_chunks: int | None
    rounds: int
    lab_rounds: int
    again: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every comparison needs."""

    lab: Lab
    tools: Tools
    runner: Runner
    work: Path
    settings: Settings
    lab_flags: tuple[str, ...]

    @property
    def quantized(self) -> tuple[str, ...]:
        return tuple(label for label in self.lab.formats if label != self.lab.model.baseline)

    @property
    def threads(self) -> str:
        return str(self.lab.n_threads)

    def quantize_command(self, label: str, target: Path) -> list[str]:
        flags = ["--allow-requantize"] if self.lab.config.allow_quantized_source else []
        source = str(Path(self.lab.model.path).resolve())
        return [self.tools.path("llama-quantize"), *flags, source, str(target), label, self.threads]

    def gguf(self, label: str) -> Path:
        """A format's file, which both sides then read: the source, or what llama-quantize makes of it (once)."""
        if label == self.lab.model.baseline:
            return Path(self.lab.model.path).resolve()
        path = self.work / "files" / f"{self.lab.model.sha256[:12]}-{label}.gguf"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".partial-{path.name}")
            self.runner.run(self.quantize_command(label, partial), side=THEIRS, format_name=label, step="quantize")
            partial.replace(path)
        return path

    def warm_files(self) -> None:
        """Make all files and read them once, so that neither side waits for the disk."""
        for label in self.lab.formats:
            self.runner.screen.say(f"  preparing {label}")
            warm(self.gguf(label))

    def fresh_folder(self, name: str) -> Path:
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def rounds(self, count: int) -> Iterator[tuple[int, str]]:
        """(round from 1, format): every format in each round."""
        for number in range(1, count + 1):
            for label in self.lab.formats:
                yield number, label


def section(settings: dict[str, Any], **parts: Any) -> Section:
    """A comparison's results with the time they were taken."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return Section(taken_at=now, settings=settings, **{name: tuple(part) for name, part in parts.items()})
