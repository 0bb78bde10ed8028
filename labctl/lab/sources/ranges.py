"""Reading the beginning of a file on the Hub, block by block, without downloading it."""

from __future__ import annotations

import io
import typing
from urllib.parse import quote

from labctl.lab.sources.hub import ANSWER_TIMEOUT_S, HubFile, HubRepo, HubUnavailableError, endpoint, plain_errors

_FIRST_BYTES, _MOST_BYTES = 1 << 18, 1 << 22
_TIMEOUT_S = 6 * ANSWER_TIMEOUT_S


class _Blocks(io.RawIOBase):
    """A remote file that is read from its beginning on: each block is asked for once, each larger than the last."""

    def __init__(self, repo: HubRepo, file: HubFile) -> None:
        self._repo, self._file = repo, file
        self._at = 0
        self._start = 0
        self._block = b""
        self._next_bytes = _FIRST_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: typing.Any) -> int:
        if self._at >= self._file.size_bytes:
            return 0
        if not self._start <= self._at < self._start + len(self._block):
            self._start, self._block = self._at, _fetched(self._repo, self._file, self._at, self._next_bytes)
            self._next_bytes = min(2 * self._next_bytes, _MOST_BYTES)
        inside = self._at - self._start
        part = self._block[inside : inside + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)


def opened(repo: HubRepo, file: HubFile) -> typing.BinaryIO:
    """A file of a repository, to be read from its beginning on."""
    return typing.cast(typing.BinaryIO, io.BufferedReader(_Blocks(repo, file), buffer_size=1 << 16))


def _fetched(repo: HubRepo, file: HubFile, start: int, n_bytes: int) -> bytes:
    """Some bytes of a file.

    Raises:
        HubUnavailableError: they cannot be had.
    """
    end = min(start + n_bytes, file.size_bytes)
    with plain_errors(repo.repo_id, repo.commit):
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined,unused-ignore]

        kind = "datasets/" if repo.repo_type == "dataset" else ""
        url = f"{endpoint()}/{kind}{repo.repo_id}/resolve/{repo.commit}/{quote(file.name)}"
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}"}
        session: typing.Any = get_session()
        if hasattr(session, "stream"):  # httpx; older clients use requests
            with session.stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as answer:
                answer.raise_for_status()
                data = answer.read() if answer.status_code == 206 else b""
        else:
            with session.get(url, headers=headers, timeout=_TIMEOUT_S, stream=True) as answer:
                answer.raise_for_status()
                data = answer.content if answer.status_code == 206 else b""
    if len(data) != end - start:
        raise HubUnavailableError(
            f"The Hub did not send the part of {file.name} that was asked for.",
            "Something on the way changes downloads (a proxy?). Try another network, or download the file and name it.",
        )
    return data
