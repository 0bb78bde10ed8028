"""What every record carries: schema version, machine and provenance."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1

Scalar = str | int | float | bool | None
Setting = Scalar | list[Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The computer a figure was measured on. Only `machine_id` takes part in freshness.

    Attributes:
        n_cores_performance, n_cores_efficiency: physical cores of either kind; all count as performance cores where
            there is one kind only, and both are 0 where the system does not tell.
        core_limit: cores that a container's quota or a mask left to the process; 0 for all.
        ram_limit_bytes: memory that a container or a limit of the process left to it; 0 for all.
    """

    machine_id: str
    os: str
    arch: str
    cpu_model: str
    n_cores_physical: int
    n_cores_logical: int
    ram_bytes: int
    cpu_features: tuple[str, ...] = ()
    n_cores_performance: int = 0
    n_cores_efficiency: int = 0
    core_limit: float = 0.0
    ram_limit_bytes: int = 0

    @property
    def usable_ram_bytes(self) -> int:
        return self.ram_limit_bytes or self.ram_bytes

    @property
    def limits(self) -> str:
        """What was left to the process, in words; empty if it could have everything."""
        parts = [f"{self.core_limit:g} core{'s' if self.core_limit != 1 else ''}"] if self.core_limit else []
        parts += [f"{self.ram_limit_bytes / 2**30:.1f} GiB RAM"] if self.ram_limit_bytes else []
        return f"limited to {' and '.join(parts)}" if parts else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a record came to be: enough to decide whether it is still fresh, and to repeat it.

    Attributes:
        key: digest of everything the record's figures depend on.
        inputs: name -> sha256 of each file read.
        settings: what the step was asked to do.
        versions: package or library -> version.
    """

    step: str
    key: str
    created_at: str
    inputs: dict[str, str]
    settings: dict[str, Setting]
    versions: dict[str, str]
    machine: Machine
