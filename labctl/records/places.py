"""Places of files: as a person typed them, and where those are that labctl brings along (lab_data)."""

from __future__ import annotations

from pathlib import Path

from labctl.errors import LabError

BESIDE = Path(__file__).resolve().parents[2] / "lab_data"
"""The lab_data folder of the checkout that labctl runs from."""


def typed(path: str) -> Path:
    """A path as a person wrote it: ~ stands for a home folder, where there is such a folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody of that name; or a container's user without a home
        return Path(path)


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
