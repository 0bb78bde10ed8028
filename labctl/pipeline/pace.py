"""Timing this machine with models of random weights, once, to predict the speed of models that are not here."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from labctl import engines
from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.lab.lab import Lab, key_of
from labctl.lab.listener import Listener
from labctl.pipeline.aside import Aside
from labctl.pipeline.opening import open_lab
from labctl.pipeline.run import run
from labctl.records.disk import writing
from labctl.records.lock import lock
from labctl.records.store import read_record, write_record
from labctl.steps.bench.arithmetic import token_bytes
from labctl.steps.bench.pace import Pace, Timed, predicted_tps, solve
from labctl.steps.bench.ratios import visits_speed
from labctl.steps.bench.step import BENCH, limits
from labctl.steps.quantize.step import QUANTIZE

_SAMPLES = (("wide", 4, 2048), ("narrow", 32, 256))
"""Name, layers, width. The wide one's matrices are those of a small model of today; it is larger than most caches. The
narrow one's time goes into its many layers."""


def pace_path(lab: Lab) -> Path:
    """Where a machine's pace is remembered: for all labs of an outputs folder."""
    return lab.folder.root.parent / ".pace.json"


def known_pace(lab: Lab) -> Pace | None:
    """What was measured with this machine, llama.cpp and number of threads; None if nothing was."""
    pace = read_record(pace_path(lab), Pace)
    return pace if pace is not None and pace.key == _key(lab) else None


def measure_pace(lab: Lab, display: Listener) -> Pace:
    """Time the usual formats of two models of random weights; what was timed before is kept.

    Raises:
        LabError: a sample cannot be written, nothing could be timed, or another labctl is at it.
    """
    folder = pace_path(lab).with_suffix("")
    samples = folder / "samples"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        try:
            timed = [one for sample in _SAMPLES for one in _timed(lab, display, samples, *sample)]
            pace = solve(timed, _key(lab))
            write_record(pace_path(lab), pace)
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(samples)
    return pace


def _key(lab: Lab) -> str:
    machine = lab.machine.machine_id
    return key_of("pace", lab, machine=machine, n_threads=lab.n_threads, samples=_SAMPLES, **limits(lab))


def _timed(lab: Lab, display: Listener, folder: Path, name: str, n_layer: int, width: int) -> list[Timed]:
    source, engine = folder / f"{name}.gguf", engines.named(lab.model.engine)
    with writing(source):
        folder.mkdir(parents=True, exist_ok=True)
    display.note(f"Writing a model of random weights ({n_layer} layers, {width} wide) ...")
    engine.write_sample(source, n_layer=n_layer, width=width)
    config = LabConfig(
        model=str(source),
        text="demo",
        formats=engine.usual_formats if name == _SAMPLES[0][0] else engine.usual_formats[:1],
        threads=lab.n_threads,
        bench_rounds=2,
        bench_max_rounds=3,
        outputs=str(folder / "outputs"),
        reports=str(folder / "reports"),
        lab_data=lab.config.lab_data,
        yes=True,
    )
    listener = Aside(display)
    sample = open_lab(config, listener, notices=False)
    done = run(sample, listener, names=(QUANTIZE, BENCH), report=False)
    found = []
    for label, speed_run in done.records.of(BENCH).items():
        speed = visits_speed(speed_run.visits, "tg", speed_run.n_prompt)
        if speed is not None and speed.n_rounds:
            tensors = engine.inspect(sample.gguf_path(label)).tensors
            found.append(Timed(bytes_by_type=token_bytes(tensors), n_layer=n_layer, token_s=1 / speed.tps))
    if len(found) < len(sample.formats):
        raise LabError(
            "This machine was too busy to be timed:"
            f" {len(sample.formats) - len(found)} of {len(sample.formats)} formats had no undisturbed time.",
            "Close other programs, and run the same command again.",
        )
    return found


def predicted(lab: Lab, pace: Pace) -> dict[str, float]:
    """Format -> tokens per second that its file would generate here, for the files that are there and can be told."""
    found = {}
    for label in lab.formats:
        path = lab.gguf_path(label)
        if path.exists():
            file = lab.engine.inspect(path)
            n_bytes = token_bytes(file.tensors, n_expert=file.n_expert, n_expert_used=file.n_expert_used)
            tps = predicted_tps(pace, n_bytes, file.shape.n_layer)
            if tps is not None:
                found[label] = tps
    return found
