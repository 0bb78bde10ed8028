"""Where a lab keeps things: names of folders and files under outputs/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labctl.records.disk import writing


@dataclass(frozen=True, slots=True)
class RunFolder:
    """outputs/<model>/: where one model's files, records and logs live."""

    root: Path

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def nll(self) -> Path:
        return self.root / "nll"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def record_path(self, step: str, format_name: str = "") -> Path:
        """records/<step>-<format>.json, or records/<step>.json for a step of the whole model."""
        return self.records / (f"{step}-{format_name}.json" if format_name else f"{step}.json")

    def log_path(self, step: str, format_name: str = "") -> Path:
        return self.logs / (f"{step}-{format_name}.log" if format_name else f"{step}.log")

    def make(self) -> RunFolder:
        """Create the folders.

        Raises:
            LabError: the place is not writable.
        """
        with writing(self.root):
            for folder in (self.root, self.records, self.nll, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        return self
