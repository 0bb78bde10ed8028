"""The labctl command, also as `python -m labctl`: Ctrl-C is one line even while the command line is still loading."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    _settle()
    try:
        from labctl.cli.app import main as run_cli
    except KeyboardInterrupt:
        _say("Stopped.", "Nothing was begun. Run the same command again.")
        sys.exit(130)
    except Exception as error:
        from labctl.machine import surroundings

        found = surroundings.fault(error)
        if found is None or os.environ.get("LABCTL_DEBUG"):
            raise
        _say(found.message, found.hint)
        sys.exit(1)
    run_cli()


def _settle() -> None:
    """Take modules from Python's own folders first, from PYTHONPATH last, and from the current folder never.

    A student's numpy.py, or the packages of another Python in PYTHONPATH, would else take the place of labctl's. Until
    that is done only what Python itself has loaded may be imported.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 (pathlib is not loaded yet)
    except OSError:  # the folder is gone
        here = ""
    late = [os.path.join(here, one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]  # noqa: PTH118
    sys.path[:] = [one for one in sys.path if one not in ("", os.curdir, here, *late)] + late
    if os.environ.get("PYTHONWARNINGS"):
        import warnings

        warnings.simplefilter("ignore")  # "error" would turn the warnings of any package into failures


def _say(message: str, hint: str) -> None:
    import contextlib

    with contextlib.suppress(OSError):
        os.write(2, f"error: {message}\nhint: {hint}\n".encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
