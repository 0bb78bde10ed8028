"""Commands about models: which go by a short name, and a checkpoint to GGUF."""

from __future__ import annotations

import dataclasses
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
    from labctl.pipeline.preflight import rough_s
    from labctl.records.units import size_text, time_text

    times_s, n_threads = _whole_labs_s(output)
    rows = [(preset, times_s.get(name)) for name, preset in PRESETS.items()]
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
                "not known" if seconds is None else time_text(rough_s(seconds)),
                "yes" if preset.suits_k_quants else "fall back",
            )
            for preset, seconds in rows
        ],
        caption=(
            f"Time: the lab's seven formats with {n_threads} threads, on an idle machine. k-quants need rows of"
            " a multiple of 256 weights; where they fall back, files hold other types than their names say. gated:"
            " accept the licence on the Hub first and set HF_TOKEN. Models from the Hub come as checkpoints and are"
            " converted, which sets up PyTorch in an environment of its own at the first use. Q4_1: quantized before"
            " it was published, so its baseline is not the original."
        ),
    )


def _whole_labs_s(output: Output) -> tuple[dict[str, float], int]:
    """About how many seconds a lab of each model takes here, as far as that can be told, and with how many threads."""
    from labctl.lab.sources.presets import PRESETS
    from labctl.lab.values import load_config
    from labctl.machine import cpu
    from labctl.pipeline.forecast import any_lab, machine_rates, whole_lab_s
    from labctl.steps.rates import K_QUANTS, STAND_INS

    try:
        lab = any_lab(load_config({}).outputs, output.display)
        machine = machine_rates(lab, output.display)
    except LabError as error:
        output.display.warn(f"How long a lab takes is not known: {error.message}")
        return {}, cpu.performance_cores()
    found = {}
    for name, preset in PRESETS.items():
        share = K_QUANTS if preset.suits_k_quants else STAND_INS
        rates = dataclasses.replace(machine, share=share)
        baseline = rates.at(8 * preset.baseline_bytes / preset.n_params).of(preset.n_params)
        found[name] = whole_lab_s(lab, baseline, is_demo=preset.spec == "demo")
    return found, lab.n_threads


def _plain(preset: Preset, seconds: float | None) -> dict[str, object]:
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
        "whole_lab_s": None if seconds is None else round(seconds),
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
