"""Labs of invented but realistic records, with their token files, for tests of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from labctl.records.arrays import FloatArray
from labctl.records.base import Machine, Provenance
from labctl.records.files import GgufFile, ModelShape, TensorTypeShare
from labctl.records.sources import SourceModel, TextSource
from labctl.steps.bench.record import SpeedRun, SpeedVisit
from labctl.steps.bench.step import BENCH
from labctl.steps.divergence.record import DivergenceRun
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.generate.record import Generation, GenerationRun, ProbeAnswer, ProbeResult
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.memory.record import MemoryLoad, MemoryRun
from labctl.steps.memory.step import MEMORY
from labctl.steps.noise.record import NoiseRun
from labctl.steps.noise.step import NOISE
from labctl.steps.perplexity.record import BatchShape, PerplexityRun
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

FORMATS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M")
PPL_BASE = 18.0648
# format: (bytes, ppl, half width of the increase's interval in %, pp t/s, tg t/s, capitals of 194, sums of 88)
FIGURES = {
    "F16": (30713088, 18.0648, 0.0, 8771, 1200, 194, 87),
    "Q8_0": (16459008, 18.0804, 0.03, 6924, 1562, 194, 87),
    "Q6_K": (12776704, 18.1707, 0.10, 10045, 2158, 194, 87),
    "Q5_K_M": (11436288, 18.4397, 0.18, 11380, 1712, 194, 87),
    "Q4_K_M": (10174720, 19.3831, 0.35, 9055, 2539, 194, 84),
    "Q4_K_S": (9970944, 19.4643, 0.36, 10776, 2918, 194, 88),
    "Q3_K_M": (9066752, 21.6256, 0.70, 11308, 2492, 181, 75),
}
# (type, tensors, weights): the matrices of the demo model; its norms are 13 vectors of 512
TYPES = {
    "F16": (("f16", 43, 15204352),),
    "Q8_0": (("q8_0", 43, 15204352),),
    "Q6_K": (("q6_K", 43, 15204352),),
    "Q5_K_M": (("q5_K", 38, 9633792), ("q6_K", 5, 5570560)),
    "Q4_K_M": (("q4_K", 38, 9633792), ("q6_K", 5, 5570560)),
    "Q4_K_S": (("q4_K", 38, 9633792), ("q5_K", 4, 1376256), ("q6_K", 1, 4194304)),
    "Q3_K_M": (("q3_K", 24, 6684672), ("q4_K", 16, 3538944), ("q5_K", 2, 786432), ("q6_K", 1, 4194304)),
}
BITS = {"f16": 16.0, "q8_0": 8.5, "q6_K": 6.5625, "q5_K": 5.5, "q4_K": 4.5, "q3_K": 3.4375}
SHAPE = ModelShape(
    architecture="llama",
    n_layer=6,
    n_embd=512,
    n_head=8,
    n_head_kv=2,
    d_head_k=64,
    d_head_v=64,
    n_vocab=8192,
    n_ctx_train=1024,
)
MACHINE = Machine(
    machine_id="m1",
    os="Linux 6.8",
    arch="x86_64",
    cpu_model="Example CPU @ 3.00GHz",
    n_cores_physical=2,
    n_cores_logical=4,
    ram_bytes=8 * 1024**3,
    cpu_features=("avx2",),
)
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "To solve this math problem, first we need to",
    "In the field of artificial intelligence,",
    "Step-by-step reasoning: If x = 5 and y = 3, then x + y =",
)
T_HALF = 2.0226909  # t quantile for 40 chunks, so that FIGURES' half widths come out
N_CHUNKS, N_TOKENS = 40, 255
N_UNREAD = 8
"""Chunks of the text that nobody read: what is known of the rest is an interval."""


def provenance(step: str, minute: int = 0) -> Provenance:
    return Provenance(
        step=step,
        key="0" * 64,
        created_at=f"2025-03-01T10:{minute:02d}:00+00:00",
        inputs={},
        settings={"seed": 42, "temperature": 0.7, "top_p": 0.9},
        versions={"labctl": "0.1.0", "llama-cpp-python": "0.3.36", "llama_cpp": "b1234", "system_info": "AVX2 = 1 |"},
        machine=MACHINE,
    )


def text_source(kind: str = "wikitext-2", notice: str = "") -> TextSource:
    name = {"wikitext-2": "WikiText-2 (raw, test split)", "demo": "demo text"}.get(kind, kind)
    return TextSource(name=name, kind=kind, path="x.txt", size_bytes=1290590, sha256="a" * 64, notice=notice)


def gguf_file(name: str, label: str | None = None) -> GgufFile:
    """A file with the contents of `name`, under another label if asked."""
    types = [
        TensorTypeShare(tensor_type=kind, n_tensors=n, n_params=params, size_bytes=int(params * BITS[kind] / 8))
        for kind, n, params in TYPES[name]
    ]
    types.append(TensorTypeShare(tensor_type="f32", n_tensors=13, n_params=6656, size_bytes=26624))
    return GgufFile(
        format=label or name,
        path=f"{label or name}.gguf",
        size_bytes=FIGURES[name][0],
        sha256="b" * 64,
        n_params=15211008,
        n_tensors=56,
        tensor_bytes=sum(share.size_bytes for share in types),
        types=tuple(types),
        shape=SHAPE,
        provenance=provenance("quantize"),
        quantize_s=None if name == "F16" else 0.8,
    )


def base_nll() -> FloatArray:
    """(N_CHUNKS, N_TOKENS) nats whose perplexity is PPL_BASE."""
    nll = np.random.default_rng(1).gamma(2.0, 1.4, size=(N_CHUNKS, N_TOKENS))
    scaled: FloatArray = nll * (np.log(PPL_BASE) / nll.mean())
    return scaled


def nll_of(ppl: float, half_pct: float, seed: int) -> FloatArray:
    """NLL whose paired increase over base_nll is ppl / PPL_BASE - 1, with about that half width of its interval."""
    random = np.random.default_rng(seed)
    chunk = random.normal(size=N_CHUNKS)
    chunk = (chunk - chunk.mean()) / chunk.std(ddof=1) if half_pct else np.zeros(N_CHUNKS)
    token = random.normal(scale=0.1 * min(1.0, half_pct), size=(N_CHUNKS, N_TOKENS))
    token -= token.mean(axis=1, keepdims=True)
    difference = np.log(ppl / PPL_BASE) + chunk * (half_pct / 100) * np.sqrt(N_CHUNKS) / T_HALF
    nll: FloatArray = base_nll() + difference[:, None] + token
    return nll


def perplexity_run(
    folder: Path, name: str, nll: FloatArray, chunks: tuple[tuple[int, int], ...] = (), n_unread: int = N_UNREAD
) -> PerplexityRun:
    """Write the token file and return the record of it.

    Args:
        chunks: those measured, else all of `nll`.
        n_unread: chunks that the text has after those of `nll`.
    """
    chunks = chunks or ((0, len(nll)),)
    nll = np.concatenate([nll, np.full((n_unread, nll.shape[1]), np.nan)])
    path = folder / "nll" / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, nll)
    return PerplexityRun(
        format=name,
        text=text_source(),
        n_ctx=512,
        n_chunks_text=len(nll),
        n_scored_per_chunk=nll.shape[1],
        chunks=chunks,
        nll_path=f"nll/{name}.npy",
        ppl=float(np.exp(np.nanmean(nll))),
        ppl_se=0.1,
        n_threads=2,
        shape=BatchShape(n_side=2, n_ubatch=256, n_outputs=64),
        wall_s=30.0,
        n_tokens_evaluated=512 * len(nll),
        peak_rss_bytes=90_000_000,
        provenance=provenance("perplexity", 5),
    )


def divergence_run(folder: Path, name: str, mean: float) -> DivergenceRun:
    """Write the values and return the record of them."""
    kl = np.random.default_rng(len(name)).gamma(0.5, 2 * mean, size=(8, N_TOKENS))
    kl *= mean / kl.mean()
    path = folder / "nll" / f"kl-{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    same_top = np.random.default_rng(1).random(kl.shape) < 1 - 0.4 * mean**0.5
    np.save(path, np.hstack([kl, same_top]))
    top = float(same_top.mean())
    return DivergenceRun(
        format=name,
        text=text_source(),
        n_ctx=512,
        n_chunks=8,
        n_tokens=kl.size,
        chunks=((0, 8),),
        values_path=f"nll/kl-{name}.npy",
        kld_mean=float(kl.mean()),
        kld_mean_low=0.9 * mean,
        kld_mean_high=1.1 * mean,
        kld_median=float(np.median(kl)),
        kld_p90=float(np.quantile(kl, 0.9)),
        kld_p99=float(np.quantile(kl, 0.99)),
        kld_max=float(kl.max()),
        same_top_p=top,
        same_top_low=top - 0.01,
        same_top_high=top + 0.005,
        provenance=provenance("divergence", 6),
    )


def noise_run(name: str, spread: float = 1e-4, kld: float = 8e-6) -> NoiseRun:
    """The noise of a baseline whose chunks move by `spread` nats a token one way or the other."""
    return NoiseRun(
        format=name,
        text=text_source(),
        n_ctx=512,
        chunks=(3, 17, 5, 11),
        n_at_once=16,
        differences=(spread, -spread, spread, -spread),
        klds=(kld, kld, kld, kld),
        same_tops=(255, 254, 255, 255),
        provenance=provenance("noise", 6),
    )


def speed_run(name: str, pp_tps: float, tg_tps: float, seed: int, rounds: int = 3) -> SpeedRun:
    random = np.random.default_rng(seed)
    visits = []
    for number in range(rounds):
        token = tuple(tuple(128 / tg_tps / 128 * random.lognormal(0, 0.03, size=128)) for _ in range(3))
        visits.append(
            SpeedVisit(
                round=number,
                order=7 * number + seed % 7,
                load_s=0.05,
                pp_s=tuple(512 / pp_tps * random.lognormal(0, 0.02, size=3)),
                tg_s=tuple(sum(times) for times in token),
                token_s=token,
            )
        )
    return SpeedRun(
        format=name, n_threads=2, n_prompt=512, n_gen=128, visits=tuple(visits), provenance=provenance("bench", 7)
    )


def memory_run(name: str, size_bytes: int) -> MemoryRun:
    kv = SHAPE.kv_bytes(1024)
    plain = MemoryLoad(
        mmap=False,
        peak_rss_bytes=size_bytes + kv + 21_000_000 + 34_000_000,
        start_rss_bytes=34_000_000,
        anonymous_bytes=size_bytes + kv + 20_000_000,
        file_bytes=33_000_000,
        model_bytes={"CPU": size_bytes - 600_000},
        kv_bytes=kv,
        compute_bytes=17_000_000,
        output_bytes=32_768,
    )
    mapped = replace(plain, mmap=True, peak_rss_bytes=plain.peak_rss_bytes + 4_000_000)
    return MemoryRun(format=name, n_ctx=1024, n_threads=2, loads=(plain, mapped), provenance=provenance("memory", 8))


def generation_run(name: str, capitals: int, sums: int, leaves_at: int) -> GenerationRun:
    """Texts that leave the baseline's at token `leaves_at`, and probes with so many right answers."""
    words = ("the", "river", "was", "old", "and", "people", "of", "city", "came", "in", "winter", "to", "see", "it")
    generations = []
    for number, prompt in enumerate(PROMPTS, 1):
        for decoding in ("sampled", "greedy"):
            shift = 5 if decoding == "sampled" else 0
            tokens = [(number * 3 + shift + place * 5) % 14 for place in range(100)]
            if leaves_at < 100:
                tokens[leaves_at:] = [(token + 1 + len(name)) % 14 for token in tokens[leaves_at:]]
            pieces = tuple(f" {words[token]}" for token in tokens)
            generations.append(
                Generation(
                    prompt_number=number,
                    prompt=prompt,
                    decoding=decoding,
                    tokens=tuple(tokens),
                    text="".join(pieces),
                    pieces=pieces,
                    n_prompt_tokens=6,
                )
            )
    return GenerationRun(
        format=name,
        generations=tuple(generations),
        probes=(probe("capitals", 194, capitals), probe("sums", 88, sums)),
        prompts_s=0.5,
        probes_s=0.4,
        provenance=provenance("generate", 9),
    )


def probe(name: str, n: int, n_correct: int) -> ProbeResult:
    return ProbeResult(
        name=name,
        answers=tuple(
            ProbeAnswer(
                prompt=f"{name} {k}", expected=str(k), output=str(k if k < n_correct else -1), correct=k < n_correct
            )
            for k in range(n)
        ),
    )


def make_lab(folder: Path, formats: tuple[str, ...] = FORMATS, n_unread: int = N_UNREAD) -> Measured:
    """A complete lab of the demo model; token files go to `folder`."""
    folder = folder / "outputs" / "labllama"
    folder.mkdir(parents=True, exist_ok=True)
    lab = Measured(
        folder=str(folder),
        model=SourceModel(
            name="labllama",
            spec="demo",
            path="labllama-f16.gguf",
            origin="demo",
            size_bytes=FIGURES["F16"][0],
            sha256="b" * 64,
        ),
        text=text_source(),
        formats=formats,
    )
    leaves = (100, 61, 33, 17, 9, 8, 4)
    for seed, name in enumerate(formats):
        size, ppl, half, pp, tg, capitals, sums = FIGURES[name]
        lab.of(QUANTIZE)[name] = gguf_file(name)
        lab.of(PERPLEXITY)[name] = perplexity_run(
            folder, name, nll_of(ppl, half, seed + 2) if seed else base_nll(), n_unread=n_unread
        )
        if not seed:
            lab.of(NOISE)[name] = noise_run(name)
        else:
            lab.of(DIVERGENCE)[name] = divergence_run(folder, name, max(1e-4, (ppl / PPL_BASE - 1) / 2))
        lab.of(BENCH)[name] = speed_run(name, pp, tg, seed + 2)
        lab.of(MEMORY)[name] = memory_run(name, size)
        lab.of(GENERATE)[name] = generation_run(name, capitals, sums, leaves[FORMATS.index(name)])
    return lab


def empty_lab(folder: Path) -> Measured:
    """The same lab before anything was run."""
    full = make_lab(folder, ("F16",))
    return replace(full, formats=FORMATS, text=None, records={})
