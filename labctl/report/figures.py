"""All figures of a lab, one record a format; a figure that was not measured is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labctl.lab.config import USUAL_LIMIT
from labctl.report.demo_training import unseen_scores
from labctl.steps.bench.figures import BenchFigures, SpeedFigures, bench_figures
from labctl.steps.bench.ratios import Ratio
from labctl.steps.bench.record import Test
from labctl.steps.divergence.record import DivergenceRun
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.generate.figures import Changes, GenerateFigures, Kept, ProbeFigures, generate_figures
from labctl.steps.measured import Measured
from labctl.steps.memory.figures import MemoryFigures, memory_figures
from labctl.steps.noise.figures import NoiseFigures, noise_figures
from labctl.steps.perplexity.figures import IncreaseFigures, PerplexityFigures, perplexity_figures
from labctl.steps.quantize.figures import FileFigures, file_figures

if TYPE_CHECKING:
    import pandas as pd

Cell = int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatFigures:
    """What was measured of one format, by step; None where a step has no figures.

    Attributes:
        noise: the baseline's, beside every format that is compared with it.
    """

    quantize: FileFigures | None = None
    perplexity: PerplexityFigures | None = None
    divergence: DivergenceRun | None = None
    generate: GenerateFigures | None = None
    memory: MemoryFigures | None = None
    bench: BenchFigures | None = None
    noise: NoiseFigures | None = None

    @property
    def size_bytes(self) -> int | None:
        return None if self.quantize is None else self.quantize.file.size_bytes

    @property
    def compression_ratio(self) -> float | None:
        return None if self.quantize is None else self.quantize.compression_ratio

    @property
    def ppl(self) -> float | None:
        return None if self.perplexity is None else self.perplexity.ppl

    @property
    def verdict(self) -> str | None:
        return None if self.perplexity is None else self.perplexity.verdict

    @property
    def increase(self) -> IncreaseFigures | None:
        return None if self.perplexity is None else self.perplexity.increase

    @property
    def increase_pct(self) -> float | None:
        return None if self.increase is None else self.increase.pct

    @property
    def speedup(self) -> Ratio | None:
        """Of generation over the baseline."""
        speed = self.speed("tg")
        return None if speed is None else speed.speedup

    @property
    def kld_mean(self) -> float | None:
        return None if self.divergence is None else self.divergence.kld_mean

    @property
    def tops_differ_pct(self) -> float | None:
        """Share of places whose most likely token is not the baseline's."""
        return None if self.divergence is None else 100 - self.divergence.same_top_pct

    @property
    def greedy_differs_pct(self) -> float | None:
        """Share of greedy tokens from the first that is not the baseline's on."""
        same = None if self.generate is None else self.generate.greedy_same_pct
        return None if same is None else 100 - same

    @property
    def kept(self) -> Kept | None:
        """Share of the baseline's right answers that are right here, too."""
        return None if self.generate is None else self.generate.kept

    @property
    def noise_pct(self) -> float | None:
        """How far the increase may be from 0 by arithmetic alone."""
        if self.noise is None or self.increase is None or self.noise.is_none:
            return None
        return self.noise.increase_pct(self.increase.n_pairs)

    @property
    def increase_is_noise(self) -> bool:
        """Whether the increase is no larger than what arithmetic alone changes."""
        return self.noise_pct is not None and abs(self.increase_pct or 0) <= self.noise_pct

    @property
    def divergence_is_noise(self) -> bool:
        """Whether the predictions are no further from the baseline's than its own are, computed in another order."""
        if self.noise is None or self.noise.is_none or self.kld_mean is None:
            return False
        return self.kld_mean <= self.noise.kld_mean

    def speed(self, test: Test) -> SpeedFigures | None:
        """The figures of a speed test: "tg" or "pp"."""
        return None if self.bench is None else self.bench.test(test)

    @property
    def peak_rss_bytes(self) -> int | None:
        return None if self.memory is None else self.memory.peak_rss_bytes

    @property
    def changes(self) -> Changes | None:
        """Probe answers lost and gained against the baseline."""
        return None if self.generate is None else self.generate.changes

    def probe(self, name: str) -> ProbeFigures | None:
        return None if self.generate is None else self.generate.probes.get(name)


Figures = Mapping[str, FormatFigures]
"""Format -> its figures, in the lab's order, the baseline first."""


def figures_of(records: Measured, limit: float = USUAL_LIMIT) -> dict[str, FormatFigures]:
    """All figures of a lab.

    Args:
        records: of one model.
        limit: largest acceptable increase of perplexity, as a fraction; decides the verdicts.
    """
    files, texts = file_figures(records), perplexity_figures(records, limit)
    noise = noise_figures(records)
    generated, peaks, speeds = generate_figures(records), memory_figures(records), bench_figures(records)
    return {
        name: FormatFigures(
            quantize=files.get(name),
            perplexity=texts.get(name),
            divergence=records.of(DIVERGENCE).get(name),
            generate=generated.get(name),
            memory=peaks.get(name),
            bench=speeds.get(name),
            noise=None if name == records.formats[0] else noise,
        )
        for name in records.formats
    }


def table(records: Measured, figures: Figures) -> pd.DataFrame:
    """Every figure as a table: one row a format, a column a figure, as results.csv has it."""
    import pandas as pd

    untrained = unseen_scores(records)
    rows = {name: cells(row) | _probe_columns(row, name, untrained) for name, row in figures.items()}
    complete: pd.DataFrame = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="format"))
    return complete


_KLD = ("mean", "mean_low", "mean_high", "median", "p90", "p99", "max")
_COLUMNS = {
    "size_bytes": "quantize.file.size_bytes",
    "compression_ratio": "quantize.compression_ratio",
    "bpw": "quantize.file.bpw",
    "main_type": "quantize.file.main_type",
    "n_fallbacks": "quantize.file.n_fallbacks",
    "quantize_s": "quantize.file.quantize_s",
    "ppl": "perplexity.ppl",
    "ppl_se": "perplexity.ppl_se",
    "n_chunks_common": "perplexity.n_chunks_common",
    "n_chunks": "perplexity.n_chunks",
    "ppl_increase_pct": "perplexity.increase.pct",
    "ppl_increase_low_pct": "perplexity.increase.low_pct",
    "ppl_increase_high_pct": "perplexity.increase.high_pct",
    "n_pairs": "perplexity.increase.n_pairs",
    "verdict": "perplexity.verdict",
    "n_chunks_needed": "perplexity.increase.n_chunks_needed",
    **{f"kld_{part}": f"divergence.kld_{part}" for part in _KLD},
    **{f"same_top_{part}pct": f"divergence.same_top_{part}pct" for part in ("", "low_", "high_")},
    "n_kl_chunks": "divergence.n_chunks",
    "noise_kld_mean": "noise.kld_mean",
    "noise_pct": "noise_pct",
    "greedy_same_pct": "generate.greedy_same_pct",
    **{f"{test}_{part}tps": f"bench.{test}.{part}tps" for test in ("pp", "tg") for part in ("", "low_", "high_")},
    "n_speed_samples": "bench.n_samples",
    "speedup": "bench.tg.speedup.ratio",
    "speedup_low": "bench.tg.speedup.low",
    "speedup_high": "bench.tg.speedup.high",
    "pp_speedup": "bench.pp.speedup.ratio",
    "pp_speedup_low": "bench.pp.speedup.low",
    "pp_speedup_high": "bench.pp.speedup.high",
    "n_rounds": "bench.n_rounds",
    "pp_ms": "bench.pp.ms",
    "tg_ms": "bench.tg.ms",
    **{f"token_p{percent}_ms": f"bench.token_p{percent}_ms" for percent in (50, 95, 99)},
    "peak_rss_bytes": "memory.peak_rss_bytes",
    "peak_rss_mmap_bytes": "memory.peak_rss_mmap_bytes",
    "kv_bytes": "memory.kv_bytes",
    "memory_n_ctx": "memory.n_ctx",
    **{f"answers_kept_{part}pct": f"generate.kept.{part}pct" for part in ("", "low_", "high_")},
    "answers_lost": "generate.changes.lost",
    "answers_gained": "generate.changes.gained",
    "answers_p": "generate.changes.p",
}
"""Column -> where its figure is in FormatFigures."""


def cells(row: FormatFigures) -> dict[str, Cell]:
    """The columns that every lab has; None for what was not measured."""
    return {column: _cell(row, place) for column, place in _COLUMNS.items()}


def _cell(part: object, place: str) -> Cell:
    for name in place.split("."):
        part = None if part is None else getattr(part, name)
    assert part is None or isinstance(part, (int, float, str))
    return part


def _probe_columns(
    row: FormatFigures, name: str, untrained: Mapping[str, Mapping[str, tuple[int, int]]]
) -> dict[str, Cell]:
    """Columns named after each probe."""
    columns: dict[str, Cell] = {}
    for probe, figures in ({} if row.generate is None else row.generate.probes).items():
        columns |= {f"{probe}_correct": figures.n_correct, f"{probe}_n": figures.n}
        columns |= {f"{probe}_low_pct": figures.low_pct, f"{probe}_high_pct": figures.high_pct}
        if (changes := figures.changes) is not None:
            columns |= {f"{probe}_lost": changes.lost, f"{probe}_gained": changes.gained, f"{probe}_p": changes.p}
    for probe, scores in untrained.items():
        if name in scores:
            columns |= dict(zip((f"{probe}_untrained_correct", f"{probe}_untrained_of"), scores[name], strict=True))
    return columns
