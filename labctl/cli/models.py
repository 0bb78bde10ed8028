"""Commands about models: which go by a short name, and a checkpoint to GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from labctl.cli.options import lab_command
from labctl.errors import LabError

if TYPE_CHECKING:
    from labctl.cli.output import Output
    from labctl.lab.sources.presets import Preset


@lab_command(notes=False)
def models(output: Output) -> None:
    """List the models that go by a short name.

    With what to expect of each on this machine.

    Example: labctl models
    """
    from labctl.lab.sources.presets import PRESETS
    from labctl.machine import cpu
    from labctl.pipeline.preflight import rough_s, whole_lab_s
    from labctl.records.units import size_text, time_text

    n_threads = cpu.performance_cores()
    rows = [(preset, whole_lab_s(preset.n_params, n_threads)) for preset in PRESETS.values()]
    output.data([_plain(preset, seconds) for preset, seconds in rows])
    output.table(
        "Models by name (labctl run --model NAME)",
        ("name", "model", "download", "as", "licence", "peak RAM, about", "whole lab, about", "k-quants"),
        [
            (
                preset.name,
                preset.title,
                size_text(preset.download_bytes) if preset.download_bytes else "none",
                preset.source_type,
                preset.licence + (" (gated)" if preset.gated else ""),
                size_text(preset.peak_ram_bytes()),
                time_text(rough_s(seconds)),
                "yes" if preset.suits_k_quants else "fall back",
            )
            for preset, seconds in rows
        ],
        caption=(
            f"Time: the lab's seven formats with {n_threads} threads, give or take a factor of 3. k-quants need rows of"
            " a multiple of 256 weights; where they fall back, files hold other types than their names say. gated:"
            " accept the licence on the Hub first and set HF_TOKEN. Models from the Hub come as checkpoints and are"
            " converted, which sets up PyTorch in an environment of its own at the first use. Q4_1: quantized before"
            " it was published, so its baseline is not the original."
        ),
    )


def _plain(preset: Preset, seconds: float) -> dict[str, object]:
    return {
        "name": preset.name,
        "title": preset.title,
        "spec": preset.spec or (preset.package.requirement if preset.package else ""),
        "n_params": preset.n_params,
        "download_bytes": preset.download_bytes,
        "source_type": preset.source_type,
        "licence": preset.licence,
        "gated": preset.gated,
        "suits_k_quants": preset.suits_k_quants,
        "converts": preset.converts,
        "peak_ram_bytes": preset.peak_ram_bytes(),
        "whole_lab_s": round(seconds),
    }


@lab_command("llama_cpp", "outputs", "lab_data", "allow_quantized_source", "yes")
@click.argument("model")
def convert(output: Output, model: str, **settings: object) -> None:
    """Convert a checkpoint to GGUF.

    MODEL is a folder or hf:owner/repo. llama.cpp's own converter does it; `labctl run --model` does the same by itself.
    The converter comes from the source release of the installed llama-cpp-python, and runs in an environment of its
    own, made at the first use.

    Example: labctl convert ./my-checkpoint
    """
    from pathlib import Path

    from labctl.lab.sources.models import resolve_model
    from labctl.lab.values import load_config
    from labctl.records.digests import DigestCache
    from labctl.records.units import size_text

    config = load_config({**settings, "model": model})
    display = output.display
    digests = DigestCache(Path(config.outputs) / ".digests.json")
    try:
        found = resolve_model(
            model,
            config.lab_data_folder(),
            digests,
            allow_quantized=config.allow_quantized_source,
            llama_cpp=config.llama_cpp,
            dialogue=display.dialogue(config.yes),
        )
    finally:
        display.end()
    if Path(found.spec).suffix == ".gguf" or found.origin in ("demo", "gguf", "package"):
        raise LabError(f"{model} is a GGUF file already: {found.path}.", f"Use it: labctl run --model {model}")
    for notice in found.notices:
        display.notice(notice)
    output.data(found)
    output.line(found.path)
    display.note(f"{found.baseline}, {size_text(found.size_bytes)}. Measure it: labctl run --model {found.path}")
