"""How long a whole lab of a model would take on this machine, before anything of that model is here."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from labctl import engines, steps
from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.lab.folder import RunFolder
from labctl.lab.lab import Lab, key_of
from labctl.lab.listener import Listener
from labctl.pipeline import preflight
from labctl.pipeline.opening import open_lab
from labctl.pipeline.plan import STEPS
from labctl.records.store import read_record, write_record
from labctl.steps.rates import Rates

_LAYERS, _WIDTH = 2, 2048
"""Of a model of random weights: the matrices of a small model of today, larger together than most caches."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """The rates of the model of random weights, and the digest of all that they depend on."""

    key: str
    rates: Rates


def any_lab(outputs: str, display: Listener) -> Lab:
    """A lab of the demo model that is only looked at: nothing of it is made.

    Raises:
        LabError: there is no demo model, or llama-cpp-python is missing.
    """
    config = LabConfig(model="demo", text="demo", outputs=outputs)
    return open_lab(config, display, notices=False, keep=False)


def machine_rates(lab: Lab, display: Listener) -> Rates:
    """How fast this machine is, by a model of random weights; timed once, and remembered where an outputs folder is.

    Raises:
        LabError: the model cannot be written, opened or computed with.
    """
    path = lab.folder.root.parent / ".rates.json"
    key = key_of("rates", lab, machine=lab.machine.machine_id, n_threads=lab.n_threads, sample=[_LAYERS, _WIDTH])
    known = read_record(path, MachineRates)
    if known is not None and known.key == key:
        return known.rates
    display.note("Timing this machine with a model of random weights, once ...")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source = Path(folder) / "sample.gguf"
        engines.named(lab.model.engine).write_sample(source, n_layer=_LAYERS, width=_WIDTH)
        config = LabConfig(model=str(source), text="demo", threads=lab.n_threads, outputs=folder)
        sample = open_lab(config, display, notices=False, keep=False)
        probe = preflight.timed(sample)
        if probe is None:
            raise LabError("This machine could not be timed.", "labctl doctor says what is wrong.")
        rates = preflight.rates(sample, probe)
    if path.parent.is_dir():
        write_record(path, MachineRates(key=key, rates=rates))
    return rates


def whole_lab_s(lab: Lab, baseline: Rates, *, is_demo: bool) -> float:
    """About how long a whole lab with the usual settings takes.

    Args:
        lab: any; of it only settings, threads and questions play a part.
        baseline: rates of the model's baseline.
        is_demo: it is the demo model, whose lab spends less time on speed and asks more questions.
    """
    model = dataclasses.replace(lab.model, origin="demo" if is_demo else "gguf")
    nowhere = RunFolder(lab.folder.root / "nowhere")
    lab = dataclasses.replace(lab, model=model, folder=nowhere)
    return sum(step.total_s(lab, step.cases(lab), baseline) for step in steps.every(STEPS))
