"""The `labctl` command as a process, and the settings of a small lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMALL_LAB = """\
formats = ["Q8_0", "Q4_K_M"]
text = "demo"
chunks = 4
new_tokens = 8
probe_items = 3
bench_rounds = 1
bench_max_rounds = 1
kl_chunks = 2
threads = 1
"""


class Cli:
    """The `labctl` command in a process of its own, without the settings of whoever runs the tests."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LABCTL_", "HF_"))},
            "HOME": str(home),
            "HF_ENDPOINT": "http://127.0.0.1:9",  # the discard port: refused at once
            "LABCTL_LAB_DATA": str(ROOT / "lab_data"),
        }

    def start(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Start it and return the process; stdout and stderr are pipes unless told otherwise."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen(
            [sys.executable, "-c", "from labctl.__main__ import main; main()", *arguments],
            cwd=cwd,
            env={**self.environment, **(env or {})},
            text=True,
            encoding="utf-8",
            **options,
        )

    def __call__(
        self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.start(*arguments, cwd=cwd, env=env, **options) as process:
            try:
                out, err = process.communicate(timeout=240)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)
