"""doctor's questions about one lab: what it needs, against what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labctl.engines.llama_cpp.identity import ask_engine
from labctl.errors import LabError
from labctl.lab.config import load_config
from labctl.lab.listener import Listener
from labctl.lab.sources.models import DEMO_FILE
from labctl.machine.checks import Check, doctor
from labctl.pipeline import opening, plan, preflight
from labctl.records.places import brought


def examine(settings: dict[str, Any], display: Listener, *, check_hub: bool) -> tuple[Check, ...]:
    """All checks for the lab that these settings describe; what cannot be found out becomes a check of its own.

    Raises:
        LabError: the settings themselves are wrong.
    """
    config = load_config(settings)
    extra: list[Check] = []
    ram_need = disk_need = None
    spool_need = 0
    system_info = None
    try:
        lab = opening.open_lab(config, display)
        system_info = lab.engine["system_info"]
        ram_need = int(lab.model.size_bytes * 1.1) + (300 << 20)  # the largest file, its cache and buffers, Python
        planned = plan.plan(lab)
        disk_need, spool_need = sum(one.write_bytes for one in planned), preflight.spool_bytes(planned)
        ask_engine(lab.model.path if lab.is_demo else str(_demo(config.lab_data_folder())), lab.n_threads)
        build = f"build {lab.engine['llama_cpp']} quantized and read a few tokens"
        extra.append(Check(name="llama.cpp computes", status="ok", detail=build))
    except LabError as error:
        extra.append(Check(name="this lab", status="problem", detail=error.message, hint=error.hint))
    found = doctor(
        ram_need_bytes=ram_need,
        disk_need_bytes=disk_need,
        spool_need_bytes=spool_need,
        outputs=Path(config.outputs),
        system_info=system_info,
        check_hub=check_hub,
    )
    return (*found, *extra)


def _demo(lab_data: Path) -> Path:
    """A small model for the check, if it is there; without one only the library's loading is checked."""
    path = brought(lab_data, DEMO_FILE)
    return path if path.is_file() else Path()
