"""python -m benchmarks: compare labctl with llama.cpp's own tools, and write RESULTS.md and results.json."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks import again, busy, coverage, divergence, quality, report, speed, verdicts, whole
from benchmarks.bench import Bench, Settings
from benchmarks.logs import system_features
from benchmarks.process import Runner
from benchmarks.records import THEIRS, ModelResults
from benchmarks.screen import Screen
from benchmarks.tools import find_tools
from labctl import __version__
from labctl.cli.output import Display
from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.lab.lab import Lab
from labctl.lab.values import load_config
from labctl.pipeline.opening import open_lab

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
SECTIONS = {
    "1": quality.perplexity_parity,
    "2": quality.perplexity_cost,
    "3": quality.quantization,
    "4": speed.speed,
    "5": whole.whole_lab,
    "6": whole.start_up,
    "7": verdicts.verdicts,
    "8": divergence.divergence,
    "9": coverage.coverage,
    "10": busy.busy,
    "11": busy.predictions,
    "12": again.again,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--model", default="demo", help="As for labctl: demo, a GGUF file, hf:owner/repo. Default: demo.")
@click.option("--text", help="As for labctl: wikitext-2, demo, or a text file. Default: WikiText-2.")
@click.option("--formats", help="Comma-separated. Default: the lab's six.")
@click.option("--chunks", help="Chunks for parity and the whole lab, or all. Default: all with demo, else 64.")
@click.option("--timing-chunks", type=click.IntRange(min=2), help="Chunks for time and memory. Default: at most 64.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of comparisons 2, 3, 4. Default: 5.")
@click.option("--lab-rounds", type=click.IntRange(min=1), help="Rounds of comparison 5. Default: 2.")
@click.option("--again", type=click.IntRange(min=2), help="Runs of comparison 12, idle and busy each. Default: 20.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: this machine's physical cores.")
@click.option("--only", help="Comparisons to take, e.g. 1,2. Default: all twelve; 7 (the whole text) with demo only.")
@click.option("--quick", is_flag=True, help="8 chunks and 2 rounds: to see that it works, not what comes out.")
@click.option("--tools", type=click.Path(path_type=Path), help="Folder with llama.cpp's tools, ready to run.")
@click.option("--source", type=click.Path(path_type=Path), help="llama.cpp checkout to build instead of the release.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE, help="Folder for RESULTS.md and results.json.")
@click.option("--allow-quantized-source", is_flag=True, help="Accept a model that is quantized already.")
@click.option("--render", is_flag=True, help="Only write RESULTS.md anew from results.json.")
def main(out: Path, render: bool, **options: Any) -> None:
    """Compare labctl with llama.cpp's own tools on the same files, one process at a time.

    Example: python -m benchmarks --model ./my-model-f16.gguf --chunks 64
    """
    try:
        if render:
            report.write(out.resolve(), report.read(out.resolve()))
        elif os.name == "nt":
            raise LabError("The benchmarks run on Linux and macOS only.", "On Windows, use WSL.")
        else:
            with Screen() as screen:
                _run(screen, out.resolve(), **options)
    except LabError as error:
        sys.stderr.write(f"Error: {error.message}\n" + (f"Hint: {error.hint}\n" if error.hint else ""))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Comparisons that were complete are in results.json.\n")
        sys.exit(130)


def _run(
    screen: Screen, out: Path, *, only: str | None, tools: Path | None, source: Path | None, **options: Any
) -> None:
    wanted = list(SECTIONS) if only is None else [part.strip() for part in only.split(",") if part.strip()]
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown or not wanted:
        raise LabError(
            f"There is no comparison {', '.join(unknown) or 'in --only'}.", f"Choose from {','.join(SECTIONS)}."
        )
    lab, flags = _open(options)
    if only is None and not lab.is_demo:
        wanted.remove("7")
    settings = _settings(options, lab.is_demo)
    ready = find_tools(CACHE, screen, lab.identity["llama_cpp"], ready=tools, source=source)
    work = CACHE / "work" / lab.model.name
    bench = Bench(
        lab=lab, tools=ready, runner=Runner(work / "logs", screen), work=work, settings=settings, lab_flags=flags
    )
    screen.say(f"{lab.model.name} on {lab.text.name}, {lab.n_threads} threads; tools: {ready.origin}")
    bench.warm_files()
    fresh = _model_results(bench)
    results = report.read(out)
    known = results.models.get(lab.model.name)
    kept = known.sections if known is not None and _comparable(known, fresh) else {}
    fresh = dataclasses.replace(fresh, sections=dict(kept))
    for name in sorted(wanted, key=int):
        fresh = dataclasses.replace(fresh, sections={**fresh.sections, name: SECTIONS[name](bench)})
        results = dataclasses.replace(results, models={**results.models, lab.model.name: fresh})
        report.write(out, results)
    screen.say(f"Written: {out / 'RESULTS.md'} and results.json")


def _open(options: dict[str, Any]) -> tuple[Lab, tuple[str, ...]]:
    """The lab as labctl itself would open it, and the flags that make `labctl run` do the same."""
    text = options["text"]
    flags = {name: options[name] for name in ("model", "text", "formats", "threads") if options[name] is not None}
    lab_data = LabConfig().lab_data_folder().resolve()
    flags = {**flags, "lab_data": str(lab_data)}
    for name in ("model", "text"):
        if name in flags and Path(flags[name]).exists():
            flags[name] = str(Path(flags[name]).resolve())
    config_flags: dict[str, Any] = {**flags, "outputs": str(CACHE / "work")}
    if "formats" in config_flags:
        config_flags["formats"] = [part.strip() for part in config_flags["formats"].split(",") if part.strip()]
    if options["allow_quantized_source"]:
        config_flags["allow_quantized_source"] = True
    lab = open_lab(load_config(config_flags, folder=CACHE), Display(quiet=True))
    if text is None:  # found once: both sides then read this very file, whatever the network does
        flags["text"] = "demo" if lab.text.kind == "demo" else str(Path(lab.text.path).resolve())
    flags["threads"] = lab.n_threads
    line = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    if options["allow_quantized_source"]:
        line.append("--allow-quantized-source")
    return lab, tuple(line)


def _settings(options: dict[str, Any], is_demo: bool) -> Settings:
    quick = options["quick"]
    chosen = options["chunks"]
    if chosen is None:
        chunks = 8 if quick else (None if is_demo else 64)
    elif chosen == "all":
        chunks = None
    elif chosen.isdigit() and int(chosen) >= 2:
        chunks = int(chosen)
    else:
        raise LabError(f"--chunks {chosen} is neither a number from 2 nor `all`.", "For example: --chunks 64")
    timing = options["timing_chunks"] or min(chunks or 64, 64)
    return Settings(
        chunks=chunks,
        timing_chunks=timing,
        rounds=options["rounds"] or (2 if quick else 5),
        lab_rounds=options["lab_rounds"] or (1 if quick else 2),
        again=options["again"] or (2 if quick else 20),
    )


def _model_results(bench: Bench) -> ModelResults:
    """What is compared: model, text, machine, versions; also whether both sides use the same CPU features."""
    lab = bench.lab
    done = bench.runner.run([bench.tools.path("llama-perplexity"), "--version"], side=THEIRS, step="version")
    compiler = (done.stdout + done.stderr).strip().splitlines()[-1]
    baseline = bench.gguf(lab.model.baseline)
    short = bench.runner.run(quality.perplexity_command(bench, baseline, 1), side=THEIRS, step="features")
    theirs = system_features(short.stdout + short.stderr)
    ours = system_features(lab.identity["system_info"])
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    features = " ".join(sorted(ours)) + (f"; different in the tools: {', '.join(differing)}" if differing else "")
    model, text = lab.model, lab.text
    return ModelResults(
        name=lab.model.name,
        model={
            "size_bytes": model.size_bytes,
            "sha256": model.sha256,
            "baseline": model.baseline,
            "origin": model.origin,
        },
        text={"name": text.name, "kind": text.kind, "size_bytes": text.size_bytes, "sha256": text.sha256},
        formats=lab.formats,
        n_threads=lab.n_threads,
        machine=dataclasses.asdict(lab.machine),
        versions={
            "labctl": __version__,
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
            "llama.cpp": bench.tools.version,
            "tools": f"{bench.tools.origin}, {compiler}",
            "CPU features": features,
            **_environment(),
            "Python": platform.python_version(),
            "numpy": importlib.metadata.version("numpy"),
        },
    )


def _environment() -> dict[str, str]:
    """Variables that change what either side does; paths are left out."""
    found = sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith(("LABCTL_", "OMP_", "GGML_", "LLAMA_")) and os.sep not in value
    )
    return {"environment": " ".join(found)} if found else {}


def _comparable(old: ModelResults, new: ModelResults) -> bool:
    """Whether results taken earlier may stand beside new ones: same files, machine and versions."""
    # As JSON: what was read has lists where what was just made has tuples.
    before, now = (
        msgspec.json.encode(
            (one.model, one.text, one.formats, one.n_threads, one.machine, one.versions), order="sorted"
        )
        for one in (old, new)
    )
    return before == now


if __name__ == "__main__":
    main()
