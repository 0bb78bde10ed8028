"""Ask pip-audit whether a pinned version has a known vulnerability; say so in one line where nobody can be asked."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "requirements-ci.txt"
FIRST_S, ALL_S = 10, 300  # to find out whether the database answers; for all packages


def ask(pins: Path, seconds: float) -> list[dict[str, Any]] | None:
    """What pip-audit says of each package; None where it could not find out."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(pins), "--no-deps", "--disable-pip", "--timeout", "5"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off", "--format", "json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
            check=False,
        )
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None
    # What the index behind this network does not tell about is skipped by pip-audit, not found harmless.
    asked = [one for one in packages if "vulns" in one]
    return asked or None


def findings(packages: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each known vulnerability: package, version, its number, and the version that mends it."""
    return [
        f"{one['name']} {one['version']}: {bug['id']}, mended in {', '.join(bug.get('fix_versions') or ['no release'])}"
        for one in packages
        for bug in one.get("vulns", ())
    ]


def main(pins: Path = PINS) -> int:
    """Audit the pinned versions.

    Returns: exit status, 1 if a vulnerability is known.
    """
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.txt"
        one.write_text(
            next(line for line in pins.read_text("utf-8").splitlines() if line[:4] == "pip=") + "\n", "utf-8"
        )
        packages = ask(pins, ALL_S) if ask(one, FIRST_S) is not None else None
    if packages is None:
        sys.stdout.write("pip-audit: skipped, its database cannot be reached from here.\n")
        return 0
    found = findings(packages)
    for line in found:
        sys.stderr.write(f"error: {line}\n")
    if not found:
        sys.stdout.write(f"pip-audit: {len(packages)} packages asked about, no known vulnerability.\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
