"""Where a lab keeps things: names of folders and files under outputs/."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from labctl.records.disk import SCRATCH, writing


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

    @property
    def scratch(self) -> Path:
        """For large temporary files, made when it is needed; what a killed run left there is swept by the next."""
        return self.root / SCRATCH

    def sweep_scratch(self, keep: tuple[str, ...]) -> None:
        """Remove what is in the scratch folder, or was beside it once, but for the files that a run goes on with.

        Args:
            keep: the start of their names.
        """
        for path in (*self.scratch.glob("*"), *self.root.glob(".spool-*")):
            if not path.name.startswith(keep):
                with contextlib.suppress(OSError):
                    path.unlink()

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
