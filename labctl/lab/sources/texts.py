"""Which text perplexity is measured on: official WikiText-2, labctl's demo text, or a file of the user's."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from labctl.errors import LabError
from labctl.lab.dialogue import ignore
from labctl.lab.sources import hub
from labctl.records.digests import file_sha256
from labctl.records.disk import write_bytes
from labctl.records.places import brought, need, typed
from labctl.records.plaintext import check_text, plain_form
from labctl.records.sources import TextSource

# The test split of WikiText-2 (raw) as llama.cpp's documentation and CI use it. CC BY-SA: fetched, never shipped.
# Source: Hub dataset ggml-org/ci, wikitext-2-raw-v1.zip; llama.cpp scripts/get-wikitext-2.sh.
WIKITEXT_NAME = "WikiText-2 (raw, test split)"
WIKITEXT_SHA256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
WIKITEXT_BYTES = 1_290_590
WIKITEXT_FILE = "wikitext-2-raw/wiki.test.raw"
HUB_DATASET = "ggml-org/ci"
HUB_ZIP = "wikitext-2-raw-v1.zip"

DEMO_FILE = "demo/demo_text.txt"
MAX_TEXT_BYTES = 32 << 20
"""Of a text to measure on, 25 times WikiText-2: llama.cpp's tokenizer takes up to 85 bytes of memory for each byte."""

WAYS = "Give `wikitext-2`, `demo`, or the path of a UTF-8 text file."


def resolve_text(
    spec: str | None, lab_data: Path, *, offline: bool = False, say: Callable[[str], None] = ignore
) -> TextSource:
    """Find the text to measure perplexity on, fetching WikiText-2 if need be.

    Args:
        spec: `wikitext-2`, `demo` or a path; None takes WikiText-2 (LABCTL_WIKITEXT, then lab_data, then the Hub) and,
            where it cannot be had, the demo text with a notice that every table carries.
        lab_data: where the demo text is and WikiText-2 is kept.
        offline: do not ask the Hub.
        say: told when a copy of WikiText-2 is put back into its official form.
    Raises:
        LabError: the text cannot be had, is not a text, or is not the official WikiText-2 where that is meant.
    """
    wanted = spec.strip() if spec is not None else None
    if wanted == "":
        raise LabError("No text is named.", WAYS)
    if wanted is not None and wanted.lower() == "demo":
        return _demo(lab_data, "Perplexity was measured on labctl's own demo text")
    if wanted is not None and wanted.lower() not in ("wikitext-2", "wikitext2", "wikitext"):
        return _custom(wanted, lab_data, say)
    try:
        return _wikitext(lab_data, offline, say)
    except hub.HubUnavailableError as error:
        if wanted is not None:
            raise LabError(
                f"WikiText-2 could not be had: {error.message}",
                f"Set LABCTL_WIKITEXT to a copy of wiki.test.raw, put it at {lab_data / WIKITEXT_FILE}, or use"
                " --text demo.",
            ) from error
        reason = error.message.rstrip(".")
        return _demo(
            lab_data, f"WikiText-2 could not be had ({reason}), so perplexity was measured on labctl's own demo text"
        )


def _wikitext(lab_data: Path, offline: bool, say: Callable[[str], None]) -> TextSource:
    """Official WikiText-2, checked.

    Raises:
        HubUnavailableError: it is neither here nor to be had.
        LabError: what is here, or what came, is not the official text.
    """
    named = os.environ.get("LABCTL_WIKITEXT", "").strip()
    kept = brought(lab_data, WIKITEXT_FILE)
    if named:
        path = typed(named)
        data = _read(path, f"LABCTL_WIKITEXT={named}")
        hint = "Point LABCTL_WIKITEXT at wiki.test.raw of wikitext-2-raw-v1.zip, or unset it."
    elif kept.exists():
        path = kept
        data = _read(path, str(path))
        hint = f"Delete {path}: it is then fetched again."
    else:
        if offline:
            raise hub.HubUnavailableError("The Hugging Face Hub was not asked: offline.", "Go online and run again.")
        path = kept
        data = _download()
        hint = "Something on the way changes downloads (a proxy?). Try another network, or set LABCTL_WIKITEXT."
    if path.exists() and (official := _put_back(data, path, lab_data, say)) is not None:
        return official
    _check(data, path, hint)
    if path == kept and not kept.exists():
        write_bytes(kept, data)
    return _official(path)


def _official(path: Path) -> TextSource:
    return TextSource(
        name=WIKITEXT_NAME,
        kind="wikitext-2",
        path=str(path.absolute()),
        size_bytes=WIKITEXT_BYTES,
        sha256=WIKITEXT_SHA256,
    )


def _put_back(data: bytes, path: Path, lab_data: Path, say: Callable[[str], None]) -> TextSource | None:
    """The official text, where `data` is that text as an editor saved it again; None where it is another, or as it was.

    Measuring the saved form would give figures that look official and are not. The person's file stays as it is.
    """
    form, what = plain_form(data)
    if not what or not _is_official(form):
        return None
    place = lab_data / WIKITEXT_FILE
    if place.exists() and not _is_official(_read(place, str(place))):
        place = place.with_name("wiki.test.official.raw")
    if not place.exists():
        write_bytes(place, form)
    say(f"{path.name} is the official WikiText-2 test text with {what}: measured in its official form, {place}.")
    return _official(place)


def _is_official(data: bytes) -> bool:
    return len(data) == WIKITEXT_BYTES and hashlib.sha256(data).hexdigest() == WIKITEXT_SHA256


def _check(data: bytes, path: Path, hint: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != WIKITEXT_SHA256:
        cut = f" ({len(data):,} bytes instead of {WIKITEXT_BYTES:,})" if len(data) != WIKITEXT_BYTES else ""
        raise LabError(
            f"{path.name} is not the official WikiText-2 test text{cut}: sha256 {found}, expected {WIKITEXT_SHA256}.",
            hint,
        )


def _download() -> bytes:
    """wiki.test.raw out of the zip file on the Hub; not yet checked against the official digest."""
    repo = hub.list_repo(HUB_DATASET, repo_type="dataset")
    file = next((one for one in repo.files if one.name == HUB_ZIP), None)
    if file is None:
        raise hub.HubUnavailableError(f"{HUB_DATASET} on the Hub no longer has {HUB_ZIP}.", "Set LABCTL_WIKITEXT.")
    return extract(hub.fetch(repo, file, file_sha256))


def extract(archive: Path) -> bytes:
    """The one text wanted, taken out of a zip file in memory, so that no name inside can lead anywhere.

    Raises:
        LabError: not a zip file, damaged, without the text, or with one of another size.
    """
    hint = f"Delete {archive} and run again, or set LABCTL_WIKITEXT to a copy of wiki.test.raw."
    try:
        with zipfile.ZipFile(archive) as opened:
            member = opened.getinfo(WIKITEXT_FILE)
            if member.file_size != WIKITEXT_BYTES:
                raise LabError(
                    f"{WIKITEXT_FILE} in {archive.name} has {member.file_size:,} bytes instead of {WIKITEXT_BYTES:,}.",
                    hint,
                )
            with opened.open(member) as stream:
                return stream.read(WIKITEXT_BYTES + 1)  # whatever the zip file claims, no more is unpacked
    except KeyError as error:
        raise LabError(f"{archive.name} from the Hub holds no {WIKITEXT_FILE}.", hint) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise LabError(f"{archive.name} from the Hub is not a readable zip file.", hint) from error
    except OSError as error:
        raise LabError(f"Cannot read {archive}: {(error.strerror or 'damaged').lower()}.", hint) from error


def _demo(lab_data: Path, beginning: str) -> TextSource:
    path = need("demo text", lab_data, DEMO_FILE)
    data = _read(path, str(path))
    oddities = check_text(data, str(path))
    return TextSource(
        name="demo text",
        kind="demo",
        path=str(path.absolute()),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        notice=f"{beginning} ({len(data) / 1000:.0f} kB): figures are not comparable with published WikiText-2"
        f" perplexities.{oddities}",
    )


def _custom(spec: str, lab_data: Path, say: Callable[[str], None]) -> TextSource:
    path = typed(spec)
    data = _read(path, spec)
    if _is_official(data):
        return _official(path)
    if (official := _put_back(data, path, lab_data, say)) is not None:
        return official
    oddities = check_text(data, spec)
    return TextSource(
        name=path.name,
        kind="custom",
        path=str(path.absolute()),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        notice=f"Perplexity was measured on {path.name}: figures are not comparable with published WikiText-2"
        f" perplexities.{oddities}",
    )


def _read(path: Path, shown: str) -> bytes:
    """A text file's bytes.

    Raises:
        LabError: there is none, it is no file, too large, or unreadable.
    """
    try:
        if not path.exists():
            raise LabError(f"No such text file: {shown}.", WAYS)
        if not path.is_file():
            raise LabError(f"{shown} is not a file.", WAYS)
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise LabError(
                f"{shown} is larger than {MAX_TEXT_BYTES >> 20} MiB, which would take days to read.",
                "Cut a part out: WikiText-2 has 1.3 MB.",
            )
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise LabError(f"Cannot read {shown}: {reason}.", "Check the path and its permissions.") from error
    except ValueError as error:  # a zero character in the name
        raise LabError(f"{shown!r} is no file name.", WAYS) from error
