"""Ready-made files to choose from: those of a repository on the Hub, of a folder, or named one by one."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labctl import engines
from labctl.engines.base import Contents
from labctl.errors import LabError
from labctl.lab.config import LABEL_LENGTH, candidate
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import hub, kinds, ranges
from labctl.lab.sources.hubspec import is_address, read_spec
from labctl.lab.sources.remote import grouped
from labctl.records.digests import DigestCache
from labctl.records.disk import safe_name
from labctl.records.places import typed

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
    """

    label: str
    name: str
    size_bytes: int
    path: Path | None = None
    repo: hub.HubRepo | None = None
    files: tuple[hub.HubFile, ...] = ()
    holds: Contents | None = None
    fault: str = ""

    @property
    def digest(self) -> str:
        """What the Hub says of its content; empty for a file on this disk."""
        return " ".join(file.sha256 or file.blob_id for file in self.files)

    @property
    def is_here(self) -> bool:
        """Whether all of it is on this disk."""
        return self.repo is None or all(hub.is_cached(self.repo, file) for file in self.files)


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
            found = list(pool.map(_looked_into, found))
    return tuple(_labelled(sorted(found, key=lambda offer: -offer.size_bytes)))


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


def _looked_into(offer: Offer) -> Offer:
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
