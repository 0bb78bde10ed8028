"""Ready-made files to choose from: of a repository, read by parts of each file alone, of a folder, or named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.hub_server import COMMIT, Hub, Repo, hub_for_this_test
from kit.small_gguf import Small, string

from labctl.engines import for_file
from labctl.errors import LabError
from labctl.lab.sources import hub as at_hub
from labctl.lab.sources.offers import offers

CUT = 3_000


@pytest.fixture
def server(demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    demo = demo_model.read_bytes()
    files = {
        "README.md": b"# a model",
        "model-F16.gguf": demo,
        "UD/model-UD-Q4_K_XL.gguf": Small().bytes() + bytes(2000),
        "model-Q5_K_M.gguf": demo[:-CUT],
        "model.IQ4_XS.gguf": Small().with_keys({"general.quantized_by": string("Somebody")}).bytes(),
        "mmproj-F16.gguf": demo,
        "notes-Q4_K_M.gguf": b"<!doctype html>" + bytes(2000),
    }
    with hub_for_this_test(Hub(models={"lab/many": Repo(files)}), tmp_path / "hf", monkeypatch) as running:
        yield running


def test_a_repository_is_looked_into_without_a_download(server: Hub, demo_model: Path, tmp_path: Path) -> None:
    found = {offer.label: offer for offer in offers(["hf:lab/many"])}
    assert set(found) == {"F16", "UD-Q4_K_XL", "Q5_K_M", "IQ4_XS", "Q4_K_M"}
    there, here = found["F16"].holds, for_file(demo_model).inspect(demo_model)
    assert there is not None
    for name in ("size_bytes", "types", "shape", "label", "kin", "tensors"):
        assert getattr(there, name) == getattr(here, name)
    assert server.sent_bytes < len(demo_model.read_bytes()) / 4
    assert not list((tmp_path / "hf").glob("**/*.gguf"))
    assert not any(offer.is_here for offer in found.values()) and all(offer.digest for offer in found.values())


def test_a_file_that_cannot_be_read_says_why_and_the_rest_goes_on(server: Hub) -> None:
    found = {offer.label: offer for offer in offers(["hf:lab/many"])}
    assert found["Q5_K_M"].fault == f"model-Q5_K_M.gguf is cut short: {CUT:,} bytes missing."
    assert "it is a web page" in found["Q4_K_M"].fault
    iq4 = found["IQ4_XS"].holds
    assert iq4 is not None and iq4.making.by == "Somebody"


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        ("Q5_K_M", {"Q5_K_M"}),
        ("*Q4_K*", {"UD-Q4_K_XL", "Q4_K_M"}),
        ("UD/", {"UD-Q4_K_XL"}),
        ("model-F16.gguf", {"F16"}),
        ("iq4_xs", {"IQ4_XS"}),
    ],
)
def test_a_pattern_takes_some_files(server: Hub, wanted: str, labels: set[str]) -> None:
    assert {offer.label for offer in offers([f"hf:lab/many:{wanted}"], look=False)} == labels


def test_a_pattern_that_fits_nothing_names_what_is_there(server: Hub) -> None:
    with pytest.raises(LabError) as caught:
        offers(["hf:lab/many:Q9*"])
    assert "no GGUF file that fits Q9*" in caught.value.message and "model-F16.gguf" in caught.value.hint


def test_a_server_that_sends_whole_files_is_refused_at_once(server: Hub) -> None:
    server.ranges = False
    with pytest.raises(at_hub.HubUnavailableError, match="did not send the part"):
        offers(["hf:lab/many:F16"])


def test_the_token_is_not_sent_to_the_storage_host(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.token = "hf_secret"
    offers(["hf:lab/many:F16"])
    sent = {path.split("/")[1]: authorization for _, path, authorization in server.requests}
    assert sent["cdn"] == "" and sent["lab"] == "Bearer hf_secret"


def test_files_and_folders_of_this_disk(tmp_path: Path) -> None:
    for name in ("a-Q8_0.gguf", "b-Q8_0.gguf", "odd name [1].gguf"):
        (tmp_path / name).write_bytes(Small().bytes())
    (tmp_path / "notes.txt").write_text("no model")
    found = offers([str(tmp_path)])
    assert len({offer.label for offer in found}) == 3 and all(offer.holds is not None for offer in found)
    assert all(offer.is_here and offer.label == offer.label.strip("-._") for offer in found)
    (one,) = offers([f"mine={tmp_path / 'a-Q8_0.gguf'}"])
    assert (one.label, one.path) == ("mine", tmp_path / "a-Q8_0.gguf")


@pytest.mark.parametrize("name", ["nowhere.gguf", "nowhere"])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="There is no file"):
        offers([str(tmp_path / name)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match="holds no GGUF file"):
        offers([str(tmp_path / "empty")])


def test_only_the_dropped_file_leaves_the_cache(server: Hub, tmp_path: Path) -> None:
    repo = at_hub.list_repo("lab/many")
    files = {file.name: file for file in repo.files}
    from labctl.records.digests import file_sha256

    for name in ("model-F16.gguf", "model.IQ4_XS.gguf", "mmproj-F16.gguf"):
        at_hub.fetch(repo, files[name], file_sha256)
    at_hub.drop(repo, files["model.IQ4_XS.gguf"])
    at_hub.drop(repo, files["model-F16.gguf"])
    at_hub.drop(repo, files["README.md"])  # never fetched
    snapshot = at_hub.cached_files("lab/many", None)[COMMIT]
    assert [path.name for path in snapshot.iterdir()] == ["mmproj-F16.gguf"]  # the same bytes as model-F16.gguf
    assert (snapshot / "mmproj-F16.gguf").read_bytes()[:4] == b"GGUF"
    assert len(list(snapshot.parent.parent.glob("blobs/*"))) == 1
