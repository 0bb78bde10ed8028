"""Ready-made files to choose from: those of a repository on the Hub, of a folder, or named one by one."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labctl import engines
from labctl.engines.base import UNQUANTIZED_TYPES, Contents
from labctl.errors import LabError
from labctl.lab.config import LABEL_LENGTH, candidate
from labctl.lab.dialogue import LARGE_BYTES, Dialogue
from labctl.lab.sources import hub, kinds, ranges
from labctl.lab.sources.hubspec import is_address, read_spec
from labctl.lab.sources.remote import grouped
from labctl.machine.fingerprint import total_memory_bytes
from labctl.records.digests import DigestCache
from labctl.records.disk import safe_name
from labctl.records.places import typed
from labctl.records.units import size_text

_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One ready-made file.

    Attributes:
        label: what tables call it: the end of its name, or what was typed for it.
        name: of the file, or its first part; in a repository with its folder.
        path: where it lies on this disk; None for one of a repository.
        repo: the repository; files: its parts there, in order.
        holds: what is in it; None where it could not be read, for the reason in `fault`.
        format: the format that it is to be made in here; empty for a ready-made file.
        n_params: weights of one that is to be made.
    """

    label: str
    name: str
    size_bytes: int
    path: Path | None = None
    repo: hub.HubRepo | None = None
    files: tuple[hub.HubFile, ...] = ()
    holds: Contents | None = None
    fault: str = ""
    format: str = ""
    n_params: int = 0

    @property
    def bpw(self) -> float:
        """Bits per weight; 0 where that is not known."""
        if self.format:
            return 8 * self.size_bytes / self.n_params
        return 0.0 if self.holds is None else self.holds.bpw

    @property
    def digest(self) -> str:
        """What the Hub says of its content; empty for a file on this disk."""
        return " ".join(file.sha256 or file.blob_id for file in self.files)

    @property
    def is_here(self) -> bool:
        """Whether all of it is on this disk."""
        return self.repo is None or all(hub.is_cached(self.repo, file) for file in self.files)


def is_many(text: str) -> bool:
    """Whether a candidate, as typed, stands for all files of a repository or folder, or a part of them."""
    if is_address(text.strip()):
        return True
    with contextlib.suppress(OSError, ValueError, LabError):
        return "=" not in text and typed(text.strip()).is_dir()
    return False


def ready_made(
    texts: Sequence[str], digests: DigestCache, dialogue: Dialogue, *, download: bool = True
) -> tuple[str, ...]:
    """Candidates, with the files of repositories and folders in their place, downloaded unless they are here.

    Returns: each as LABEL=FILE, or as it was typed.
    Raises:
        LabError: there are none, they may not be downloaded, or that fails.
    """
    many = {text: offers([text], look=False) for text in texts if is_many(text)}
    missing = sum(offer.size_bytes for found in many.values() for offer in found if not offer.is_here)
    if missing and not download:
        raise LabError(
            f"The ready-made files are not here: {size_text(missing)} would have to be downloaded.",
            f"See what they hold without a download: labctl choose {' '.join(many)} --list",
        )
    if missing > LARGE_BYTES:
        dialogue.ask(f"The ready-made files have {size_text(missing)} to download; the lab's own files come on top.")
    made: list[str] = []
    for text in texts:
        for one in many.get(text, ()):
            path = fetched(one, digests, dialogue)
            made.append(str(path) if candidate(path.name)[0] == one.label else f"{one.label}={path}")
        made += () if text in many else (text,)
    return tuple(made)


def fetched(offer: Offer, digests: DigestCache, dialogue: Dialogue) -> Path:
    """The file on this disk, downloaded unless it is there.

    Raises:
        LabError: it cannot be downloaded, or is not what the Hub says.
    """
    if offer.repo is None:
        assert offer.path is not None
        return offer.path
    paths = [hub.fetch(offer.repo, file, digests.sha256, dialogue.progress) for file in offer.files]
    return paths[0]


def offers(specs: Iterable[str], *, look: bool = True) -> tuple[Offer, ...]:
    """All ready-made files that some words name, the largest first, each with a label of its own.

    Args:
        specs: [LABEL=]FILE, a folder, or hf:owner/repo[@revision][:pattern], also as the address of its page.
        look: read each file's header, of those on the Hub over the network.
    Raises:
        LabError: there is no such file, folder or repository, or no GGUF file in it.
    """
    found: list[Offer] = []
    for spec in specs:
        found += _of_hub(spec) if is_address(spec.strip()) else _of_disk(spec)
    if look:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(looked_into, found))
    return tuple(_labelled(sorted(found, key=lambda offer: -offer.size_bytes)))


def is_original(offer: Offer) -> bool:
    """Whether a file holds unquantized weights."""
    return offer.holds is not None and offer.holds.label.lower() in UNQUANTIZED_TYPES


def reference_of(offers: Sequence[Offer]) -> Offer:
    """The file that losses are counted from: unquantized, or else with the most bits per weight, that can run here.

    Of files of several models it is one of the model that has most of them.

    Raises:
        LabError: none of the files can be read, or none fits into this machine.
    """
    readable = [offer for offer in offers if offer.holds is not None]
    if not readable:
        raise LabError(f"None of the files can be read. {offers[0].label}: {offers[0].fault}", "Name other files.")
    here = total_memory_bytes()
    running = [one for one in readable if one.holds is not None and one.holds.peak_ram_bytes(512) <= here]
    if not running:
        raise LabError(
            "None of the files fits into this machine's memory, so none can be measured here.",
            "Measure on a machine with more memory; labctl fit says what fits where.",
        )
    families = [one.holds.kin for one in running if one.holds is not None]
    usual = max(families, key=families.count)
    return max(
        (one for one in running if one.holds is not None and one.holds.kin == usual),
        key=lambda one: (is_original(one), one.holds.bpw if one.holds is not None else 0.0),
    )


def _of_hub(spec: str) -> list[Offer]:
    at_hub = read_spec(spec)
    repo = hub.list_repo(at_hub.repo_id, at_hub.revision)
    by_name = {file.name: file for file in repo.files}
    found = []
    for parts in grouped(by_name):
        files = tuple(by_name[name] for name in parts)
        if at_hub.wanted and not _fits(parts[0], at_hub.wanted):
            continue
        label, _ = candidate(PurePosixPath(parts[0]).name)
        size_bytes = sum(file.size_bytes for file in files)
        found.append(Offer(label=label, name=parts[0], size_bytes=size_bytes, repo=repo, files=files))
    if not found:
        which = f" that fits {at_hub.wanted}" if at_hub.wanted else ""
        every = ", ".join(parts[0] for parts in grouped(by_name)[:12]) or "none"
        raise LabError(f"{at_hub.repo_id} has no GGUF file{which}.", f"Its GGUF files: {every}.")
    return found


def _fits(name: str, wanted: str) -> bool:
    """Whether a file of a repository is meant: by a pattern, a folder, its name, or the end of its name."""
    if wanted.endswith("/"):
        return name.startswith(wanted)
    lower, pattern = name.lower(), wanted.lower()
    stem = lower.removesuffix(".gguf")
    return any(fnmatch.fnmatchcase(one, pattern) for one in (lower, PurePosixPath(lower).name, stem)) or (
        stem.endswith(pattern) and stem[: -len(pattern)][-1:] in ("", "-", "_", ".", "/")
    )


def _of_disk(spec: str) -> list[Offer]:
    folder = typed(spec.strip())
    if folder.is_dir():
        paths = [folder / name for name in kinds.gguf_files(path.name for path in folder.iterdir() if path.is_file())]
        if not paths:
            raise LabError(f"{folder} holds no GGUF file.", "Name a folder with GGUF files, or the files themselves.")
        return [_on_disk(candidate(path.name)[0], path) for path in paths]
    label, path = candidate(spec)
    if not path.is_file():
        raise LabError(f"There is no file {path}.", "Check the path; for the Hub write hf:owner/repo.")
    return [_on_disk(label, path)]


def _on_disk(label: str, path: Path) -> Offer:
    return Offer(label=label, name=path.name, size_bytes=path.stat().st_size, path=path)


def looked_into(offer: Offer) -> Offer:
    """The same with what is in it, or why that cannot be told."""
    engine = engines.for_file(Path(offer.name))
    try:
        if offer.repo is None:
            assert offer.path is not None
            holds = engine.inspect(offer.path)
        else:
            repo = offer.repo
            holds = engine.inspect_open(
                [(PurePosixPath(file.name).name, ranges.opened(repo, file), file.size_bytes) for file in offer.files]
            )
    except hub.HubUnavailableError:
        raise
    except LabError as error:
        return dataclasses.replace(offer, fault=error.message)
    return dataclasses.replace(offer, holds=holds, size_bytes=holds.size_bytes)


def _labelled(found: list[Offer]) -> list[Offer]:
    """The same, each under a label of its own: of two with the same, the second gets more of its name, or a number."""
    taken: set[str] = set()
    made = []
    for offer in found:
        stem = safe_name(PurePosixPath(offer.name).name.removesuffix(".gguf"))
        tries = [offer.label, stem[-LABEL_LENGTH:].lstrip("-._"), *(f"{offer.label}-{n}" for n in range(2, 1000))]
        label = next(one for one in tries if one and one not in taken)
        taken.add(label)
        made.append(dataclasses.replace(offer, label=label))
    return made
