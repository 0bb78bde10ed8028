"""The labctl command, also as `python -m labctl`: Ctrl-C is one line even while the command line is still loading."""

from __future__ import annotations

import contextlib
import os
import sys


def main() -> None:
    """Run the command line."""
    try:
        from labctl.cli import main as run_cli
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            os.write(2, b"error: Stopped.\nhint: Nothing was begun. Run the same command again.\n")
        sys.exit(130)
    run_cli()


if __name__ == "__main__":
    main()
