"""Records as files: written whole, read back with their types checked, set aside where they are damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from labctl.errors import LabError
from labctl.records.base import SCHEMA_VERSION
from labctl.records.disk import write_bytes

RecordT = TypeVar("RecordT")


class _Envelope(msgspec.Struct):
    """What every record file holds around its record."""

    schema_version: int
    kind: str
    record: msgspec.Raw


def write_record(path: Path, record: object) -> None:
    """Write a record as JSON with its kind and schema version."""
    envelope = {"schema_version": SCHEMA_VERSION, "kind": type(record).__name__, "record": record}
    write_bytes(path, msgspec.json.format(msgspec.json.encode(envelope), indent=1) + b"\n")


def read_record(path: Path, kind: type[RecordT]) -> RecordT | None:
    """Read a record back.

    Returns: None where there is none, or one that is unreadable or of an older schema (the step is then redone).
    Raises:
        LabError: the record was written by a newer labctl.
    """
    try:
        envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
        if envelope.schema_version > SCHEMA_VERSION:
            raise LabError(
                f"{path} was written by a newer labctl (schema {envelope.schema_version}, this one reads"
                f" {SCHEMA_VERSION}).",
                "Update labctl, or move the outputs folder away and run again.",
            )
        if envelope.schema_version < SCHEMA_VERSION or envelope.kind != kind.__name__:
            return None
        return msgspec.json.decode(envelope.record, type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def refuse_newer(folder: Path) -> None:
    """Stop before records of a newer labctl are taken for missing and written over.

    Raises:
        LabError: there is one in the folder.
    """
    for path in sorted(folder.glob("*.json")):
        read_record(path, type(None))


def set_aside_damaged(folder: Path, kinds: Mapping[str, type[Any]]) -> list[Path]:
    """Rename records that cannot be read, so that their steps are redone and nothing is lost without a word.

    Records of an older schema are no damage, and newer ones are `read_record`'s to refuse.

    Args:
        kinds: name of a kind of record -> its class.
    Returns: the new names, each with .damaged behind the old one.
    """
    moved = []
    for path in sorted(folder.glob("*.json")):
        try:
            envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
            if envelope.schema_version == SCHEMA_VERSION and envelope.kind in kinds:
                msgspec.json.decode(envelope.record, type=kinds[envelope.kind])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            with contextlib.suppress(OSError):
                moved.append(path.replace(path.with_name(path.name + ".damaged")))
        except OSError:
            continue
    return moved
