"""Any folder is a checkpoint, or refused in one line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.made_checkpoints import CONFIG, LORA, POINTER, checkpoint, llama_shapes, safetensors, write
from kit.small_gguf import Small

from labctl.errors import LabError
from labctl.lab.sources.checkpoint import read_checkpoint
from labctl.lab.sources.folders import require_checkpoint


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_that_may_not_be_read() -> None:
    with not_root(), tempfile.TemporaryDirectory() as place:
        folder = checkpoint(Path(place, "m"))
        folder.chmod(0)
        with pytest.raises(LabError, match="Cannot look into m: permission denied"):
            require_checkpoint(folder, "m")
        folder.chmod(0o700)


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """Act as nobody for a while, where the tests run as root: root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# -- anything at all --------------------------------------------------------------------------------------------------

PIECES: dict[str, list[bytes]] = {
    "config.json": [
        json.dumps(CONFIG).encode(),
        b"",
        b"{}",
        b"[1]",
        b'{"architectures": [3], "text_config": []}',
        b"\xff\xfe{",
    ],
    "model.safetensors": [safetensors(llama_shapes()), b"", POINTER.encode(), safetensors({})],
    "model-00001-of-00002.safetensors": [safetensors(llama_shapes(head="")), b"x" * 20],
    "model.safetensors.index.json": [
        b"{}",
        b'{"weight_map": {"a": "../../x", "b": "model.safetensors"}}',
        b'{"weight_map": 3}',
    ],
    "pytorch_model.bin": [b"PK\x03\x04", b"\x80\x02}", b""],
    "tokenizer.model": [b"pieces", b""],
    "tokenizer.json": [b"{}", b"\xef\xbb\xbf{}"],
    "vocab.json": [b"{}"],
    "adapter_config.json": [LORA.encode(), b"[", b"[3]"],
    "x.gguf": [Small().bytes(), b""],
    "sub/config.json": [b"{}"],
    "sub/model.safetensors": [b"x"],
    ".hidden": [b""],
    "a.onnx": [b"x"],
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_folder_is_a_checkpoint_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "m"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in data.draw(st.sets(st.sampled_from(sorted(PIECES)), max_size=8)):
        write(folder / name, data.draw(st.sampled_from(PIECES[name])))
    try:
        require_checkpoint(folder, "m")
        found = read_checkpoint(folder)
    except LabError as error:
        assert error.message and error.hint and "\n" not in error.message + error.hint
    else:
        assert found.architecture and found.weight_bytes and all(path.is_file() for path in found.files)
        assert (folder / "config.json") in found.files and all(path.parent == folder for path in found.files)
