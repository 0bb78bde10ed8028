"""Files that labctl brings along: those in the lab_data folder in use, or else those beside the package."""

from __future__ import annotations

from pathlib import Path

from labctl.errors import LabError

BESIDE = Path(__file__).resolve().parents[2] / "lab_data"
"""The lab_data folder of the checkout that labctl runs from."""


def brought(lab_data: Path, name: str) -> Path:
    """Where such a file is; in `lab_data` if it is nowhere."""
    here, beside = lab_data / name, BESIDE / name
    return beside if not here.exists() and beside.exists() else here


def need(what: str, lab_data: Path, name: str) -> Path:
    """The same, for a file that has to be there.

    Args:
        what: it is, in the message: "demo model".
    Raises:
        LabError: it is in neither place.
    """
    path = brought(lab_data, name)
    if path.is_file():
        return path
    places = dict.fromkeys(str(folder / name) for folder in (lab_data.absolute(), BESIDE))
    raise LabError(
        f"The {what} is missing: there is no {' and no '.join(places)}.",
        "Get it back with `git checkout -- lab_data/demo` in labctl's folder, or clone it again.",
    )


def every(lab_data: Path, folder: str, pattern: str) -> dict[str, Path]:
    """Stem -> file of a folder's files: those in `lab_data` in place of those of the same name beside the package."""
    found = [path for place in (BESIDE, lab_data) for path in sorted((place / folder).glob(pattern))]
    return {path.stem: path for path in found}
