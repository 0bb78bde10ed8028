"""What a repository on the Hub says of itself at the head of its README.md, for the Hub's own pages."""

from __future__ import annotations

from typing import Any

from labctl.errors import LabError
from labctl.lab.sources.hubspec import read_spec
from labctl.records.sources import SourceModel


def base_of(model: SourceModel) -> str:
    """The repository that a lab's model came from; empty where it did not come from the Hub."""
    if model.origin != "hub" or not model.spec.startswith("hf:"):
        return ""
    return read_spec(model.spec).repo_id


def checked_base(name: str) -> str:
    """A repository as it is typed: owner/name, with or without hf:.

    Raises:
        LabError: it is none.
    """
    spec = read_spec(name if name.startswith("hf:") or "://" in name else f"hf:{name}")
    if spec.wanted or spec.revision:
        raise LabError(f"--base {name}: a repository is meant, not a part of it.", f"Write {spec.repo_id}.")
    return spec.repo_id


def front_matter(*, base: str, by: str, license_: str, tags: list[str]) -> str:
    """The Hub's metadata as YAML, without the lines around it.

    Args:
        base: repository of the model that was quantized; by: who quantized it; license_: its licence; "" for unknown.
    Source: huggingface_hub, ModelCardData.
    """
    from huggingface_hub import ModelCardData

    more: dict[str, Any] = {"base_model_relation": "quantized"} if base else {}
    if by:
        more["quantized_by"] = " ".join(by.split())
    data = ModelCardData(
        base_model=base or None,
        library_name="gguf",
        license=license_ or None,
        pipeline_tag="text-generation",
        tags=tags,
        **more,
    )
    return str(data.to_yaml())
