"""Names of models on the Hugging Face Hub: hf:owner/repo[@revision][:file], and the addresses of its pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from labctl.errors import LabError
from labctl.lab.sources import hub

FORMS = "Write hf:owner/repo, hf:owner/repo:file.gguf or hf:owner/repo@revision."
_NAME = r"[A-Za-z0-9_][\w.-]*"
_SPEC = re.compile(rf"hf:(?://)?(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^:\s]+))?(?::(?P<file>.+))?")
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_BARE_ADDRESS = re.compile(r"(?:(?:www\.)?huggingface\.co|hf\.co)/", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_OTHER_KINDS = {"datasets": "a dataset", "spaces": "a space", "buckets": "a bucket of files", "kernels": "a kernel"}
_SITE = frozenset({"models", "docs", "blog", "papers", "collections", "posts", "learn", "tasks", "search", "chat"})
_FILE_PAGES = ("blob", "resolve", "raw", "blame", "edit", "delete")
_TREE_PAGES = ("tree", "commits", "commit")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSpec:
    """A repository of the Hub, or a part of it.

    Attributes:
        revision: branch, tag or commit; None for the main branch.
        wanted: a file in it, the end of a file's name ("Q8_0" for m-Q8_0.gguf), or a folder ("sub/").
    """

    repo_id: str
    revision: str | None = None
    wanted: str | None = None

    def __str__(self) -> str:
        """As hf:owner/repo@revision:file, which records and messages show: an address may hold a password."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo_id}{revision}{':' + self.wanted if self.wanted else ''}"


def is_address(spec: str) -> bool:
    """Whether a model is named by an address or an hf: name, and not by a path."""
    return spec.startswith(("hf:", "git@")) or bool(_SCHEME.match(spec) or _BARE_ADDRESS.match(spec))


def read_spec(spec: str) -> HubSpec:
    """The repository that a name or address means.

    Raises:
        LabError: it means none, or something else than a model.
    """
    text = spec.strip()
    if text.startswith("hf:") and is_address(text[3:]):
        text = text[3:]  # hf:https://huggingface.co/...
    text = re.sub(r"^git@([\w.-]+):", r"ssh://\1/", text)
    if text.startswith("hf://"):
        return _from_parts([part for part in text[5:].split("/") if part], spec, paths=True)
    if text.startswith("hf:"):
        match = _SPEC.fullmatch(text.rstrip("/") if ":" not in text[3:] else text)
        if match is None:
            raise LabError(f"Cannot read {spec!r}.", FORMS)
        return _checked(match["repo"], match["revision"], match["file"])
    parts = urlsplit(text if _SCHEME.match(text) else f"https://{text}")
    host = parts.netloc.rpartition("@")[2].lower()
    if parts.scheme == "file":
        raise LabError("A model on this disk is named by its path, not by a file:// address.", f"Give {parts.path}")
    if host not in (*_HOSTS, urlsplit(hub.endpoint()).netloc.rpartition("@")[2].lower()):
        raise LabError(
            f"labctl takes models from the Hugging Face Hub, and not from {host or 'there'}.",
            "Download the file yourself and give its path.",
        )
    return _from_parts([unquote(part) for part in parts.path.split("/") if part], host, paths=False)


def _from_parts(parts: list[str], shown: str, *, paths: bool) -> HubSpec:
    """The repository of an address's parts.

    Args:
        paths: a file may follow the repository at once, as in hf://owner/repo/file.
    Raises:
        LabError: they name no model.
    """
    if parts[:2] == ["api", "models"] or (paths and parts[:1] == ["models"]):
        parts = parts[2:] if parts[0] == "api" else parts[1:]
    if parts and parts[0] in _OTHER_KINDS:
        raise LabError(
            f"{'/'.join(parts[:3])} on the Hub is {_OTHER_KINDS[parts[0]]}, not a model.", f"Name a model. {FORMS}"
        )
    if len(parts) < 2 or parts[0] in _SITE:
        where = "/".join([shown, *parts]) if not paths else shown
        raise LabError(
            f"{where} is not the page of a model.", f"Open the model's own page and copy its address. {FORMS}"
        )
    name, _, tag = parts[1].partition(":")
    name, _, revision = name.partition("@")
    repo_id = f"{parts[0]}/{name.removesuffix('.git')}"
    rest = parts[2:]
    if paths:
        wanted = "/".join(rest)
        return _checked(
            repo_id, revision, tag or (wanted if "." in wanted.rpartition("/")[2] or not wanted else f"{wanted}/")
        )
    page = rest[0] if rest else ""
    if page not in (*_FILE_PAGES, *_TREE_PAGES):
        return _checked(repo_id, revision, tag)
    n_parts = 3 if rest[1:2] == ["refs"] else 1  # refs/pr/3 is one revision
    revision, inside = "/".join(rest[1 : 1 + n_parts]), "/".join(rest[1 + n_parts :])
    if inside and page in _TREE_PAGES:
        inside = inside if inside.lower().endswith(".gguf") else f"{inside}/"
    return _checked(repo_id, revision, inside)


def _checked(repo_id: str, revision: str | None, wanted: str | None) -> HubSpec:
    if re.fullmatch(rf"{_NAME}/{_NAME}", repo_id) is None:
        raise LabError(f"Cannot read {repo_id!r} as the name of a repository.", FORMS)
    if wanted:
        hub.check_name(wanted.rstrip("/") or wanted)
    return HubSpec(repo_id=repo_id, revision=None if revision in ("", "main") else revision, wanted=wanted or None)
