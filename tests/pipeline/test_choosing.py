"""Choosing among files: the right answer, two files on the disk at most, and going on after a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.command import Cli
from kit.hub_server import Hub, Repo, hub_for_this_test
from kit.small_gguf import Small

from labctl.cli.output import Display
from labctl.engines import for_file
from labctl.errors import LabError
from labctl.lab.config import LabConfig
from labctl.lab.sources import hub as at_hub
from labctl.lab.sources.offers import offers, reference_of
from labctl.pipeline import choosing
from labctl.pipeline.choosing import Chooser, Field, field_of, to_make
from labctl.pipeline.run import run
from labctl.records.digests import file_sha256
from labctl.report.choice import Limits, answer

LIMITS = Limits(ram_gib=8, n_ctx=512, max_loss=0.02)
SPEC = "hf:lab/many"


class Watch:
    """Runs as usual, noting which files of the Hub are on the disk; stopped by the person at the run of a number."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.stop_at, self.there = home, 0, list[set[str]]()
        self._run = run
        monkeypatch.setattr(choosing, "run", self.run)

    def run(self, *arguments: Any, **options: Any) -> Any:
        self.there.append(cached(self.home))
        if len(self.there) == self.stop_at:
            raise KeyboardInterrupt
        return self._run(*arguments, **options)


@pytest.fixture
def server(quantized: Any, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Twelve files, some of them wrong."""
    files = {f"demo-{label}.gguf": path.read_bytes() for label, path in quantized.paths.items()}
    whole = demo_model.read_bytes()
    files |= {
        "demo-F16.gguf": whole,
        "demo-Q5_0.gguf": whole[:-5000],
        "demo-IQ4_XS.gguf": Small().bytes(),
        "demo-Q2_K.gguf": b"<html>" + bytes(5000),
        "README.md": b"# twelve files",
    }
    with hub_for_this_test(Hub(models={"lab/many": Repo(files)}), tmp_path / "hf", monkeypatch) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, root: Path) -> LabConfig:
    return LabConfig(
        text="demo",
        threads=2,
        outputs=str(tmp_path / "outputs"),
        reports=str(tmp_path / "reports"),
        lab_data=str(root / "lab_data"),
    )


def looked_at(*specs: str) -> Field:
    found = offers(specs)
    return field_of(found, reference_of(found), LIMITS, None)


def cached(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "hf").glob("hub/*/snapshots/*/*.gguf")}


def chooser(config: LabConfig, field: Field, limits: Limits = LIMITS) -> Chooser:
    return Chooser(config, field, limits, Display(quiet=True), keep=False)


@pytest.mark.slow
def test_the_smallest_that_passes_is_found_with_two_files_on_the_disk_and_after_a_stop(
    server: Hub, config: LabConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = looked_at(SPEC)
    assert field.reference.label == "F16" and field.is_original
    faults = {one.label: one.fault for one in field.prospects if one.fault}
    assert set(faults) == {"Q5_0", "IQ4_XS", "Q2_K"}
    assert "cut short" in faults["Q5_0"] and "layers" in faults["IQ4_XS"] and "web page" in faults["Q2_K"]

    repo = field.reference.repo
    assert repo is not None
    mine = next(file for file in repo.files if file.name == "demo-Q8_0.gguf")
    at_hub.fetch(repo, mine, file_sha256)  # there before: it is not labctl's to delete

    watch = Watch(tmp_path, monkeypatch)
    watch.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        list(chooser(config, field).measured())
    assert max(map(len, watch.there)) == 3  # the reference, one more, and the person's own
    watch.stop_at = 0
    watch.there.clear()
    first = chooser(config, field)
    outcomes = list(first.measured())
    assert max(map(len, watch.there)) == 3 and len(watch.there) == len(outcomes) - 2  # two were done before the stop
    text, pick = answer(outcomes, LIMITS, "F16", first.apart)
    assert pick is not None and pick.label == "Q6_K" and text.startswith("Use Q6_K: fits (")
    by_label = {one.label: one for one in outcomes}
    assert by_label["Q5_K_M"].loss == "fail" and by_label["Q6_K"].loss == "pass"
    assert "Q3_K_M" not in by_label and "Q8_0" not in by_label
    assert cached(tmp_path) == {"demo-Q8_0.gguf"}

    asked = server.asked("GET /cdn")
    watch.there.clear()
    again = chooser(config, field)
    assert [one.label for one in again.measured()] == [one.label for one in outcomes] and watch.there == []
    assert server.asked("GET /cdn") == asked
    assert answer(again.outcomes, LIMITS, "F16", again.apart) == answer(outcomes, LIMITS, "F16", again.apart)
    tight = Limits(ram_gib=1.6, n_ctx=512, max_loss=0.02)
    assert {one.fit for one in chooser(config, field, tight).measured()} == {"fits"}
    assert watch.there == []


@pytest.mark.slow
def test_without_an_original_the_best_file_is_the_reference(quantized: Any, config: LabConfig, tmp_path: Path) -> None:
    paths = [str(quantized.paths[label]) for label in ("Q8_0", "Q4_K_M")]
    field = looked_at(*paths)
    assert field.reference.label == "Q8_0" and not field.is_original
    found = {one.label: one for one in chooser(config, field).measured()}
    assert found["Q8_0"].loss_pct == 0 and found["Q4_K_M"].loss == "fail"
    assert all(Path(path).is_file() for path in paths)


@pytest.mark.slow
def test_a_model_stands_for_formats_that_are_made_here(config: LabConfig, quantized: Any, tmp_path: Path) -> None:
    source, *made = to_make(config.having({"model": "demo"}), Display(quiet=True))
    assert [offer.label for offer in made] == ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M"]
    for offer in made:  # as llama.cpp plans it; the header comes on top
        there = for_file(quantized.paths[offer.label]).inspect(quantized.paths[offer.label])
        assert offer.size_bytes == sum(share.size_bytes for share in there.types)
        assert offer.bpw == pytest.approx(there.bpw)
    two = [offer for offer in made if offer.label in ("Q8_0", "Q3_K_M")]
    field = field_of([source, *two], source, LIMITS, None)
    assert {one.fit for one in field.prospects} == {"fits"}
    chosen = chooser(config, field)
    found = {one.label: one for one in chosen.measured()}
    assert found["Q3_K_M"].loss == "fail" and found["Q8_0"].loss == "pass"
    left = {path.name for path in (tmp_path / "outputs").rglob("*.gguf")}
    kept = chosen.path_of("Q8_0")
    assert kept is not None and left == {kept.name}  # only the answer's own file stays


def test_files_of_the_model_that_has_most_are_compared(quantized: Any, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger-F32.gguf"
    stranger.write_bytes(Small().bytes())
    field = looked_at(str(stranger), *(str(quantized.paths[label]) for label in ("Q8_0", "Q6_K")))
    assert field.reference.label == "Q8_0"
    assert [one.label for one in field.prospects if one.fault] == ["F32"]


def test_nothing_readable_is_refused_in_a_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken-Q8_0.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(LabError, match=r"None of the files can be read\. Q8_0: broken-Q8_0.gguf is cut short"):
        looked_at(str(broken))


def test_list_as_it_is_typed(cli: Cli, quantized: Any, tmp_path: Path) -> None:
    for label in ("Q8_0", "Q4_K_M"):
        (tmp_path / f"m-{label}.gguf").symlink_to(quantized.paths[label])
    done = cli("choose", ".", "--list", "--ram", "4", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reference"] == "Q8_0" and not found["is_original"] and found["measured"] == []
    assert [(one["label"], one["fit"]) for one in found["files"]] == [("Q8_0", "fits"), ("Q4_K_M", "fits")]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-loss", "2"], "not a percentage"),
        (["--max-loss", "0%"], "not a percentage"),
        (["--ctx", "100000"], "trained for 1024 tokens of context at most"),
        (["--ram", "0"], "--ram"),
    ],
)
def test_wrong_limits_are_told_in_a_line(
    cli: Cli, demo_model: Path, arguments: list[str], says: str, tmp_path: Path
) -> None:
    done = cli("choose", str(demo_model), "--list", *arguments, cwd=tmp_path)
    assert done.returncode != 0 and says in done.stderr and "Traceback" not in done.stderr
