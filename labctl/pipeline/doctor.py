"""doctor's questions about one lab: what it needs, against what this machine has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from labctl.errors import LabError
from labctl.lab.listener import Listener
from labctl.lab.sources import hub
from labctl.lab.sources.models import DEMO_FILE
from labctl.lab.values import load_config
from labctl.machine.checks import Check, doctor
from labctl.pipeline import opening, plan, preflight
from labctl.records.places import brought


def examine(settings: Mapping[str, object], display: Listener, *, check_hub: bool) -> tuple[Check, ...]:
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
        system_info = lab.identity.get("system_info")
        ram_need = lab.source.peak_ram_bytes(lab.config.ctx)
        planned = plan.plan(lab)
        disk_need, spool_need = sum(one.write_bytes for one in planned), preflight.spool_bytes(planned)
        lab.engine.try_out(lab.model.path if lab.is_demo else str(_demo(config.lab_data_folder())), lab.n_threads)
        build = f"build {lab.identity[lab.engine.name]} quantized and read a few tokens"
        extra.append(Check(name=f"{lab.engine.title} computes", status="ok", detail=build))
    except LabError as error:
        extra.append(Check(name="this lab", status="problem", detail=error.message, hint=error.hint))
    found = doctor(
        ram_need_bytes=ram_need,
        disk_need_bytes=disk_need,
        spool_need_bytes=spool_need,
        outputs=Path(config.outputs),
        system_info=system_info,
        hub=hub.endpoint() if check_hub else "",
    )
    return (*found, *extra)


def _demo(lab_data: Path) -> Path:
    """A small model for the check, if it is there; without one only the library's loading is checked."""
    path = brought(lab_data, DEMO_FILE)
    return path if path.is_file() else Path()
