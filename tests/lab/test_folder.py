"""The folders of a lab."""

from __future__ import annotations

from pathlib import Path

from labctl.lab.folder import RunFolder


def test_scratch_is_swept_but_for_what_a_run_goes_on_with(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.sweep_scratch(("spool-1",))  # there is none yet
    folder.scratch.mkdir()
    for name in ("spool-1", "spool-1.rows", "spool-2", "spool-2.rows", "model-Q8_0.gguf"):
        (folder.scratch / name).touch()
    for name in (".spool-1", ".spool-2.rows", "model-Q8_0.gguf"):  # an older version's lay beside the model
        (tmp_path / name).touch()
    folder.sweep_scratch(("spool-1",))
    assert sorted(path.name for path in folder.scratch.iterdir()) == ["spool-1", "spool-1.rows"]
    assert {path.name for path in tmp_path.iterdir()} == {".scratch", "model-Q8_0.gguf"}
    folder.sweep_scratch(())
    assert list(folder.scratch.iterdir()) == []
