"""The Hugging Face Hub: what a repository holds, and a file of it, checked, in the Hub client's own cache."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from labctl.errors import LabError
from labctl.machine.checks import unreachable
from labctl.records.disk import require_space
from labctl.records.places import typed

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are here, and the bytes it has in all."""

ANSWER_TIMEOUT_S = 5.0
SPARE_BYTES = 64 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubUnavailableError(LabError):
    """The Hub, or the file on it, could not be had. What is on this disk is untouched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository. The Hub knows the sha256 of large files, the git blob id (sha1) of small ones."""

    name: str
    size_bytes: int
    sha256: str = ""
    blob_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A repository at one commit. `repo_type` is "model" or "dataset"."""

    repo_id: str
    repo_type: str
    commit: str
    files: tuple[HubFile, ...]


def endpoint() -> str:
    """Address of the Hub: HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def page(repo_id: str) -> str:
    """Address of a repository's page."""
    return f"{_shown_endpoint()}/{repo_id}"


def is_offline() -> bool:
    """Whether the user told Hugging Face's tools to leave the network alone."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def cache_folder() -> Path:
    """Where the Hub client keeps files.

    Source: huggingface_hub constants.py (HF_HUB_CACHE); read at each call, not once at import.
    """
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return typed(os.path.expandvars(os.environ[name]))
    home = os.environ.get("HF_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return typed(os.path.expandvars(home)) / "hub"


def list_repo(repo_id: str, revision: str | None = None, repo_type: str = "model") -> HubRepo:
    """Files of a repository, pinned to the commit that `revision` names now. Without a network this costs about 3 s.

    Raises:
        HubUnavailableError: no network, offline mode, no such repository or revision, no permission.
    """
    if is_offline():
        raise HubUnavailableError(
            "The Hugging Face Hub may not be asked: HF_HUB_OFFLINE is set.",
            "Unset HF_HUB_OFFLINE, or use `demo` or a GGUF file on this disk.",
        )
    reason = unreachable(endpoint())
    if reason:
        raise _no_network(reason)
    with plain_errors(repo_id, revision):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint())
        ask = api.dataset_info if repo_type == "dataset" else api.model_info
        info = ask(repo_id, revision=revision, timeout=ANSWER_TIMEOUT_S, files_metadata=True)
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):
            raise ValueError("the answer names no commit")
        files = tuple(
            HubFile(
                name=str(sibling.rfilename),
                size_bytes=int(sibling.size or 0),
                sha256=str(sibling.lfs.sha256).lower() if sibling.lfs else "",
                blob_id=str(sibling.blob_id or ""),
            )
            for sibling in info.siblings or ()
        )
    return HubRepo(repo_id=repo_id, repo_type=repo_type, commit=commit, files=files)


def fetch(repo: HubRepo, file: HubFile, sha256_of: Callable[[Path], str], progress: Progress | None = None) -> Path:
    """A file of a repository, downloaded unless the cache has it, and the same as the Hub's in any case.

    Args:
        sha256_of: digest of a file; a remembering one saves time on large files.
    Raises:
        HubUnavailableError: it could not be downloaded.
        LabError: its name leaves the folder, the disk is too full, or its content is not what the Hub says.
    """
    check_name(file.name)
    path = _download(repo, file, progress, again=False)
    if not _intact(path, file, sha256_of):
        # The client checks sizes only and takes what its cache has, so one damaged copy would be used for ever.
        path = _download(repo, file, progress, again=True)
        if not _intact(path, file, sha256_of):
            raise LabError(
                f"{file.name} from {repo.repo_id} is not the file the Hub describes: sha256 {sha256_of(path)[:12]}...,"
                f" expected {(file.sha256 or file.blob_id)[:12]}...",
                f"Something on the way changes downloads (a proxy?). Delete {path} and try another network.",
            )
    return path


def cached_files(repo_id: str, revision: str | None) -> dict[str, Path]:
    """Snapshots of a model repository in the client's cache: commit -> folder; only `revision` if it is a commit."""
    folder = cache_folder() / f"models--{repo_id.replace('/', '--')}"
    wanted = revision or ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if wanted and ".." not in wanted:
            wanted = (folder / "refs" / wanted).read_text("utf-8").strip()
    found = {entry.name: entry for entry in sorted((folder / "snapshots").glob("*")) if _COMMIT.fullmatch(entry.name)}
    return {commit: entry for commit, entry in found.items() if not revision or commit == wanted}


def blob_sha256(path: Path) -> str:
    """The sha256 a cached file should have: the client names the blobs of large files by it. Empty if unknown."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else ""


def drop(repo: HubRepo, file: HubFile) -> None:
    """Remove a file from the client's cache: its name, and its bytes unless another snapshot has them, too."""
    folder = cached_files(repo.repo_id, repo.commit).get(repo.commit)
    if folder is None or not (path := folder / file.name).exists():
        return
    blob = path.resolve()
    with contextlib.suppress(OSError):
        path.unlink()
    others = (link for link in folder.parent.glob("**/*") if link.is_symlink() and link.resolve() == blob)
    if blob != path and blob.parent.name == "blobs" and next(others, None) is None:
        with contextlib.suppress(OSError):
            blob.unlink()


def is_cached(repo: HubRepo, file: HubFile) -> bool:
    """Whether the client's cache has a file of a repository at this commit."""
    folder = cached_files(repo.repo_id, repo.commit).get(repo.commit)
    return folder is not None and (folder / file.name).is_file()


def check_name(name: str) -> None:
    """Refuse a file name that could leave its folder.

    Raises:
        LabError: it is absolute, or has `..`, a backslash or a drive in it.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", name):
        raise LabError(f"The file name {name!r} is refused: it could lead out of its folder.", "Name a file inside.")


# -- inside -----------------------------------------------------------------------------------------------------------


def _download(repo: HubRepo, file: HubFile, progress: Progress | None, again: bool) -> Path:
    import inspect

    cache = cache_folder()
    with plain_errors(repo.repo_id, repo.commit):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings would cross the progress display
        kept = try_to_load_from_cache(
            repo.repo_id, file.name, cache_dir=cache, revision=repo.commit, repo_type=repo.repo_type
        )
        if again or not isinstance(kept, str):
            require_space(cache, file.size_bytes + SPARE_BYTES, file.name, "set HF_HOME to a folder on a larger disk")
        options: dict[str, Any] = {}  # an older client has no such argument and draws its own bar
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
            options["tqdm_class"] = _bar_class(file, progress)
        path = hf_hub_download(
            repo.repo_id,
            file.name,
            repo_type=repo.repo_type,
            revision=repo.commit,
            cache_dir=cache,
            endpoint=endpoint(),
            etag_timeout=ANSWER_TIMEOUT_S,
            force_download=again,
            **options,
        )
    return Path(str(path))


def _intact(path: Path, file: HubFile, sha256_of: Callable[[Path], str]) -> bool:
    if file.sha256:
        return sha256_of(path) == file.sha256
    if not file.blob_id:
        return path.stat().st_size == file.size_bytes
    if path.stat().st_size != file.size_bytes:
        return False
    data = path.read_bytes()  # the Hub keeps only files of a few MB without a sha256
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == file.blob_id


def _bar_class(file: HubFile, progress: Progress | None) -> type:
    """A stand-in for the client's progress bar, which would write to the terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

    class Bar(tqdm):  # type: ignore[misc,unused-ignore]
        monitor_interval = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            self.done_bytes = int(options.get("initial") or 0)
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            self.done_bytes += int(n or 0)
            if progress is not None:
                progress(file.name, self.done_bytes, file.size_bytes)
            return None

        def display(self, *_: Any, **__: Any) -> bool:
            return True

        # With these two, the client's Xet downloads count once instead of on two bars.
        def update_transfer(self, n: float) -> None:
            pass

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            pass

    return Bar


def _shown_endpoint() -> str:
    parts = urlsplit(endpoint())
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without user:password


def _no_network(reason: str) -> HubUnavailableError:
    return HubUnavailableError(
        f"Cannot reach the Hugging Face Hub at {_shown_endpoint()}: {reason}.",
        "Check the network (and HTTPS_PROXY, HF_ENDPOINT), or use `demo` or a GGUF file on this disk.",
    )


def _client_errors() -> tuple[type[BaseException], ...]:
    import huggingface_hub.errors as errors

    # The client's HTTP library changed from requests to httpx and further; its error class has that library's as base.
    own = (*errors.HfHubHTTPError.__bases__, getattr(errors, "XetDownloadError", OSError))
    # A server that is no Hub (the sign-in page of a hotel) answers with what the client stumbles over.
    return (*own, OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError)


@contextlib.contextmanager
def plain_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Say in plain words what went wrong; the client's own texts may hold addresses with keys and many lines."""
    try:
        yield
    except LabError:
        raise
    except _client_errors() as error:
        raise _explain(error, repo_id, revision) from error


def _explain(error: BaseException, repo_id: str, revision: str | None) -> LabError:
    import huggingface_hub.errors as errors

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 8:
        chain.append(link)
        link = link.__cause__ or link.__context__
    responses = [getattr(one, "response", None) for one in chain]
    status = next((int(one.status_code) for one in responses if one is not None), 0)
    if any(isinstance(one, errors.GatedRepoError) for one in chain):
        return HubUnavailableError(
            f"{repo_id} is gated: its owner wants you to accept terms first.",
            f"Accept them at {page(repo_id)}, then run `hf auth login` or set HF_TOKEN.",
        )
    if any(isinstance(one, errors.RevisionNotFoundError) for one in chain):
        return HubUnavailableError(
            f"{repo_id} has no revision {revision!r}.", f"See the branches and tags at {page(repo_id)}."
        )
    if any(isinstance(one, errors.RepositoryNotFoundError) for one in chain) or status in (401, 404):
        return HubUnavailableError(
            f"The Hub has no {repo_id}, or it is private.",
            "Check the spelling (owner/name); for a private one run `hf auth login` or set HF_TOKEN.",
        )
    if status == 403:
        return HubUnavailableError(
            f"The Hub refuses access to {repo_id} (403).", "Check that your HF_TOKEN may read it, or ask its owner."
        )
    if status == 429:
        return HubUnavailableError("The Hub asks to slow down (429: too many requests).", "Try again in some minutes.")
    if status:
        return HubUnavailableError(f"The Hub answered with error {status}.", "Try again in some minutes.")
    if isinstance(error, errors.HFValidationError):
        return HubUnavailableError(f"{repo_id!r} is no repository name.", "Write hf:owner/name.")
    code = next((one.errno for one in chain if isinstance(one, OSError) and one.errno), 0)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM):
        return LabError(
            f"Cannot write to the Hugging Face cache {cache_folder()}: {os.strerror(code).lower()}.",
            "Free some space, or set HF_HOME to another folder.",
        )
    names = {type(one).__name__ for one in chain}
    if any("Timeout" in name for name in names):
        return _no_network("it did not answer in time")
    if any(name.startswith("Connect") or name in ("SSLError", "ReadError", "RemoteProtocolError") for name in names):
        return _no_network("the connection failed")
    return HubUnavailableError(
        f"The download of {repo_id} failed ({type(error).__name__}).", "Try again; LABCTL_DEBUG=1 shows the details."
    )
